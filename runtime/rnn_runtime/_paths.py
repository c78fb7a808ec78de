"""File names that come from a file, and so may be hostile: they stay in their folder or are refused."""

from __future__ import annotations

from pathlib import Path

from ._errors import BundleError


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`, links resolved; the file need not exist.

    Names are portable: "/" parts them, and what only some systems understand (a backslash, a drive letter) is refused
    on all of them, so that a bundle which loads here loads everywhere.

    Raises:
        BundleError: the name is absolute or empty, holds "..", or is a link that leaves the folder.
    """
    parts = name.split("/")
    if not name.isprintable() or any(c in name for c in "\\:") or any(part in ("", ".", "..") for part in parts):
        raise BundleError(
            f"{folder} names the file {name!r}; expected a relative name inside the folder, such as "
            "'model.onnx': do not use this model, or export it again"
        )
    try:
        root = folder.resolve()
        path = (root / name).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        raise BundleError(f"{folder}: {name!r} cannot be resolved ({error}): copy the folder again") from None
    if not path.is_relative_to(root):
        raise BundleError(
            f"{folder}: {name!r} is a link that leaves the folder; expected a file inside it: "
            "copy the file itself into the folder"
        )
    return path
