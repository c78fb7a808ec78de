"""golden.npz: inputs and outputs recorded at export, so that a machine without PyTorch can check itself.

Its arrays are named "{case}/in/{name}" and "{case}/out/{name}", with the cases "0", "1", ...
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import BundleError

LIMIT = 2**31
"""Bytes. A recording holds a few small runs: one that would unpack to more is refused before it is unpacked."""

_DIGITS = 9  # of a case's number


@dataclass(frozen=True, slots=True)
class Case:
    """The arrays of one recorded run, by graph input and graph output."""

    inputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)


def pack(cases: Sequence[Case]) -> bytes:
    """The bytes of a golden.npz that holds these cases."""
    arrays: dict[str, NDArray[Any]] = {}
    for k, case in enumerate(cases):
        arrays |= {f"{k}/in/{name}": array for name, array in case.inputs.items()}
        arrays |= {f"{k}/out/{name}": array for name, array in case.outputs.items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # the stubs take the names for allow_pickle's
    return file.getvalue()


def unpack(data: bytes) -> list[Case]:
    """The cases in the bytes of a golden.npz.

    Raises:
        BundleError: it is no archive of plain arrays, has a name of another form, or holds no case.
    """
    cases: dict[int, Case] = {}
    for key, array in _arrays(data).items():
        number, _, rest = key.partition("/")
        side, _, name = rest.partition("/")
        if (
            not (number.isascii() and number.isdigit() and len(number) <= _DIGITS)
            or side not in ("in", "out")
            or not name
        ):
            raise _damaged(f"it has an array {key[:80]!r}")
        case = cases.setdefault(int(number), Case())
        (case.inputs if side == "in" else case.outputs)[name] = array
    if not cases:
        raise _damaged("it is empty")
    if sorted(cases) != list(range(len(cases))):
        raise _damaged(f"it has the cases {sorted(cases)[:20]}")
    return [cases[k] for k in sorted(cases)]


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        assert archive.zip is not None
        with archive:
            sizes: list[int] = [member.file_size for member in archive.zip.infolist()]  # no more is read
            size = sum(sizes)
            if size > LIMIT:
                raise ValueError(f"it would unpack to {size} bytes, of {LIMIT} at most")
            arrays = dict(archive.items())
    except Exception as error:  # zipfile, its decompressors and NumPy's parser of headers have no common class
        raise _damaged(f"{str(error)[:200] or type(error).__name__}") from None
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy hands out the bytes of a member that is no .npy
            raise _damaged(f"{key!r} is not an array")
    return arrays


def _damaged(what: str) -> BundleError:
    return BundleError(
        f"golden.npz is damaged: {what}; expected arrays named like '0/in/x' and '0/out/y': export the model again"
    )
