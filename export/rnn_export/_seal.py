"""Seal: hashes, manifest, golden inputs and outputs; the temporary folder in the place of the old."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnn_runtime import InputError, Report, _golden, _replace
from rnn_runtime._bundle import FORMAT_VERSION, GOLDEN, MANIFEST

from ._capture import Captured, Decision
from ._quantize import Quantized
from ._reference import Case
from ._versions import versions


def check_target(path: Path, *, overwrite: bool) -> None:
    """See that a bundle can be written to `path`, before any work is done.

    Raises:
        InputError: something is there: a bundle without `overwrite`, or anything that is not a bundle alone.
    """
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}. Choose another folder") from None
    known = _listed(path)
    if known is None:
        raise InputError(
            f"{path} is there and is no bundle: rnn-export never writes over other things. Choose another folder"
        )
    if not overwrite:
        raise InputError(
            f"{path} already holds a bundle: pass overwrite=True (--overwrite) to replace it, or choose another folder"
        )
    others = sorted(file.name for file in path.iterdir() if not _is_own(file, known))
    if others:
        raise InputError(
            f"{path} holds a bundle and also {', '.join(others)}, which rnn-export did not write and will not remove "
            "(its manifest has another hash for it, or none): move that away, or choose another folder"
        )


def _is_own(file: Path, known: Mapping[str, str]) -> bool:
    """Whether a file is the one that the manifest lists: a planted manifest can list the names of others."""
    if file.name == MANIFEST:
        return True
    if file.name not in known or file.is_symlink() or not file.is_file():
        return False
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest() == known[file.name]
    except OSError:
        return False


def _listed(path: Path) -> dict[str, str] | None:
    """The files of a bundle in `path` and the hashes that it says they have; None where there is no bundle."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        is_bundle = isinstance(manifest["format_version"], int) and isinstance(manifest["signature"], dict)
        return {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()} if is_bundle else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@contextmanager
def unsealed(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends well, else is removed.

    A bundle that was at `path` before stays untouched until the new one takes its place, in one step.

    Raises:
        InputError: the folder cannot be made or written, or something has come to `path` meanwhile.
    """
    with _replace.staged(path, lambda: check_target(path, overwrite=overwrite)) as folder:
        yield folder


def seal(
    folder: Path,
    captured: Captured,
    report: Report,
    refused: Sequence[Mapping[str, int]],
    golden: Sequence[Case],
    tolerance: Mapping[str, float],
    operators: Mapping[str, int],
    lacking: Mapping[str, str],
    options: Mapping[str, Any],
    quantized: Quantized | None = None,
    step: str | None = None,
    left_out: Sequence[Mapping[str, int]] = (),
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
        "lifted": [slot.input for slot in captured.flat.lifted],
        "holds": {slot.input: slot.holds for slot in captured.flat.lifted if slot.holds},
        "kept": [slot.input for one in captured.flat.kept for slot in one.slots],
        "lengths": [asdict(spec) for spec in captured.sampler.lengths],
        "assumptions": [assumption.to_dict() for assumption in captured.assumptions],
        "decisions": [_decision(decision) for decision in captured.decisions],
        "operators": dict(operators),
        "options": dict(options),
        "versions": versions(),
        **({"step": {"axis": step}} if step else {}),
        **({"precision": quantized.precision, "quantized": _quantized(quantized)} if quantized else {}),
        "tolerance": dict(tolerance),
        "verified": {
            **_verified(report),
            "refused_by_eager": list(refused),
            "lacking": dict(lacking),
            "left_out": list(left_out),
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _quantized(quantized: Quantized) -> dict[str, Any]:
    found = {name: value for name, value in asdict(quantized).items() if name != "precision"}
    return found | {"snr": quantized.snr if math.isfinite(quantized.snr) else None}  # none where no output has noise


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "code": decision.place.text,
        "file": Path(decision.place.file).name,
        "line": decision.place.line,
        "taken": decision.answer,
        "check": decision.check,
        "seen": sorted(decision.seen),
    }


def _fingerprint(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _verified(report: Report) -> dict[str, Any]:
    shapes = list({tuple(row.shape.items()): row.shape for row in report.rows}.values())
    errors: dict[str, float] = {}
    for row in report.rows:
        errors[row.backend] = max(errors.get(row.backend, 0.0), row.error)
    return {"shapes": shapes, "largest_error": errors}
