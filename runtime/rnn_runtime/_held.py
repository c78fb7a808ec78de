"""A model's file, held open from its check to its load, so that ONNX Runtime reads the file that was checked.

It reads a file in half the time and memory that it takes for bytes, of which it makes copies. A write in between is
told by the file's size and time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ._errors import BundleError


@dataclass(frozen=True, slots=True)
class Held:
    """An open file, and what it was when it was opened."""

    path: Path
    file: BinaryIO
    before: os.stat_result

    def read(self, size: int = -1) -> bytes:
        """The rest of the file, or so many bytes of it. Raises BundleError where it cannot be read."""
        try:
            return self.file.read(size)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def source(self, data: bytes, external: list[str]) -> str | bytes:
        """What a session is made of: a name of the open file, or its bytes.

        The name is the file's own, whatever lies at its path by now. Bytes where the system has no such name, or where
        the model has `external` files, which are looked for beside it.
        """
        name = f"/proc/self/fd/{self.file.fileno()}"
        return data if external or not os.access(name, os.R_OK) else name

    def require_unchanged(self) -> None:
        """Raises BundleError where the file was written to since it was opened."""
        now = os.fstat(self.file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.before.st_size, self.before.st_mtime_ns):
            raise BundleError(f"{self.path} changed while it was loaded: load it again when it is whole")


@contextmanager
def hold(path: Path) -> Iterator[Held]:
    """Open a file for as long as it takes to check and load it. Raises BundleError where it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None
    with file:
        yield Held(path, file, os.fstat(file.fileno()))


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be read ({error.strerror}): check its permissions, or copy it or export the model again"
    )
