"""Seal: hashes, manifest, golden inputs and outputs; the temporary folder renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnn_runtime import InputError, Report, _golden
from rnn_runtime._bundle import FORMAT_VERSION, GOLDEN, MANIFEST

from ._capture import Captured
from ._reference import Case
from ._versions import versions


def check_target(path: Path, *, overwrite: bool) -> None:
    """See that a bundle can be written to `path`, before any work is done.

    Raises:
        InputError: something is there: a bundle without `overwrite`, or a file or folder that is no bundle.
    """
    if not path.exists():
        return
    if not path.is_dir() or (any(path.iterdir()) and not (path / MANIFEST).is_file()):
        raise InputError(
            f"{path} is there and is no bundle: rnn-export never writes over other things. Choose another folder"
        )
    if any(path.iterdir()) and not overwrite:
        raise InputError(
            f"{path} already holds a bundle: pass overwrite=True (--overwrite) to replace it, or choose another folder"
        )


@contextmanager
def unsealed(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to `path` when the block ends well, removed when it does not.

    A bundle that was at `path` before stays untouched until the new one takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent))
    try:
        yield folder
        os.chmod(folder, 0o777 & ~_umask())  # mkdtemp gives it to its owner alone
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".old", dir=path.parent))
            os.replace(path, old)
            os.replace(folder, path)
            shutil.rmtree(old)
        else:
            os.replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def seal(
    folder: Path,
    captured: Captured,
    report: Report,
    golden: Sequence[Case],
    tolerance: float,
    operators: Mapping[str, int],
) -> None:
    """Write golden.npz and the manifest with the hash of every other file in `folder`."""
    cases = [
        _golden.Case(case.inputs, {name: want.astype(case.eager[name].dtype) for name, want in case.want.items()})
        for case in golden
    ]
    (folder / GOLDEN).write_bytes(_golden.pack(cases))
    files = {file.name: _fingerprint(file) for file in sorted(folder.iterdir())}
    manifest = {
        "format_version": FORMAT_VERSION,
        "signature": captured.signature.to_dict(),
        "files": files,
        "layers": [asdict(layer) for layer in captured.layers],
        "operators": dict(operators),
        "versions": versions(),
        "tolerance": tolerance,
        "verified": _verified(report),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _fingerprint(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _verified(report: Report) -> dict[str, Any]:
    shapes = list({tuple(row.shape.items()): row.shape for row in report.rows}.values())
    errors: dict[str, float] = {}
    for row in report.rows:
        errors[row.backend] = max(errors.get(row.backend, 0.0), row.error)
    return {"shapes": shapes, "largest_error": errors}
