"""verify(): the recorded results, and the properties that need no reference, on the machine that deploys."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import InputError, MismatchError
from ._model import Model, load
from ._report import Check, Report, Row
from ._signature import Signature
from ._tolerances import precision, tolerance

LEVELS = ("quick", "default", "full")

Progress = Callable[[str, int, int], None]
"""What is told of progress: what is done now, how much is done, and how much there is."""


def verify(
    path: str | Path,
    device: str = "cpu",
    *,
    level: str = "default",
    seed: int = 0,
    only: str | None = None,
    trial: Mapping[str, int] | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Replay the recorded results of a bundle, and check the properties that need no reference: no PyTorch, no ONNX.

    Rows of a batch are independent, a sequence cut in two equals the whole, padding changes nothing, an omitted state
    is zeros, equal inputs give equal bits, and empty inputs are refused. Properties that eager PyTorch was seen to lack
    at export are skipped. Where Hypothesis is installed it searches and shrinks; seeded random numbers do where it is
    not.

    Args:
        path: a bundle, or a bare .onnx file, which has no recorded results.
        device: "cpu", "cuda" or "cuda:N".
        level: "quick" (fixed inputs), "default" (25 more for each property) or "full" (250 more).
        seed: of the search.
        only: the one property to check; nothing is replayed then.
        trial: the one trial of it to make, as a report names it.
        command: what a command that reproduces a failure begins with.
        progress: called with what is done now, how much is done, and how much there is.

    Returns:
        The report; `.passed` is the verdict.

    Raises:
        BundleError, DependencyError, DeviceError, InputError: as `load`.
        InputError: there is no such level, property or trial.
    """
    from ._properties import ALONE, EFFORTS, examine, reads_padding

    check_level(level)
    start = time.monotonic()
    model = load(path, device=device)
    subject = _subject(model)
    chosen = [prop for prop in ALONE if only in (None, prop.name)]
    if not chosen:
        raise InputError(f"there is no property {only!r} here: {', '.join(prop.name for prop in ALONE)}")
    check_trial(trial, only)
    lacking = model._bundle.manifest["verified"].get("lacking", {}) if model._bundle is not None else {}
    checks: list[Check] = []
    for k, prop in enumerate(chosen):
        if progress is not None:
            progress(prop.name, k, len(chosen))
        checks.append(
            examine(
                prop,
                subject,
                EFFORTS[level],
                seed=seed,
                command=command or f"rnn-export verify {path}",
                excuse=lacking.get(prop.name),
                only=None if trial is None else dict(trial),
            )
        )
    rows = _replayed(model) if only is None and model._bundle is not None else ()
    return Report(
        rows,
        checks=tuple(checks),
        warnings=tuple(reads_padding(subject, lacking.get("padding"))),
        about={
            "bundle": str(path),
            "level": level,
            "seed": seed,
            "seconds": round(time.monotonic() - start, 3),
            "versions": versions(),
            "hardware": hardware(),
        },
    )


def _replayed(model: Model) -> tuple[Row, ...]:
    try:
        return model.check().rows
    except MismatchError as error:
        assert isinstance(error.report, Report)
        return error.report.rows


def check_level(level: object) -> None:
    """Raises InputError where there is no such level."""
    if level not in LEVELS:
        raise InputError(f"level is {level!r}; expected {', '.join(map(repr, LEVELS))}")


def check_trial(trial: Mapping[str, int] | None, only: str | None) -> None:
    """Raises InputError where a trial is given without its property, or is not made of numbers."""
    if trial is None:
        return
    if only is None:
        raise InputError("a trial is one of a property: name that too")
    if not all(isinstance(value, int) and value >= 0 for value in trial.values()):
        raise InputError(f"the trial is {dict(trial)}; expected numbers by name, as a report gives them")


def _subject(model: Model) -> Any:
    from ._properties import Subject
    from ._properties._draw import Draw

    signature, bundle = model.signature, model._bundle
    if bundle is not None:
        example = {**_zeros(signature), **model.example()}
        allowed: Mapping[str, float] = bundle.tolerance
        over = sequences(signature, [str(layer.get("axis", "")) for layer in bundle.manifest["layers"]])
        operators = bundle.manifest["operators"]
        low = str(bundle.manifest.get("precision") or precision(operators))
        limited = bool(bundle.manifest["verified"].get("refused_by_eager"))
    else:
        example = _zeros(signature)
        allowed = {spec.name: tolerance(spec.dtype).error or 0.0 for spec in signature.outputs}
        over = tuple(axis for axis in signature.axis_names if axis not in _ROWS)
        operators, limited, low = {}, True, ""
    full = signature.lengths is not None and signature.lengths.full
    single = load(model.path, device=model.device, threads=1) if model.device == "cpu" else None
    return Subject(
        backend=f"onnxruntime-{model.device}",
        signature=signature,
        run=model.run,
        omit=model.run,
        shared=True,
        threaded=None if single is None else single.run,
        draw=Draw(signature, example, full_lengths=full),
        tolerance=allowed,
        sequences=over,
        folder=model.path,
        device=model.device,
        operators=operators,
        precision=low,
        limited=limited,
    )


_ROWS = ("batch", "batch_size", "N", "n", "B", "b")
"""Names that people give to the axis of rows, for files that say nothing of their layers."""


def sequences(signature: Signature, over: list[str]) -> tuple[str, ...]:
    """The axes of the inputs among what the recurrent layers run over, which may be expressions in their names."""
    from ._properties._subject import words

    named = {word for axis in over for word in words(axis)}
    return tuple(axis for axis in signature.axis_names if axis in named)


def _zeros(signature: Signature) -> dict[str, Any]:
    return {
        spec.name: np.zeros([1 if isinstance(axis, str) else axis for axis in spec.axes], spec.dtype)
        for spec in signature.inputs
    }


def versions() -> dict[str, str]:
    """The versions of Python, NumPy and ONNX Runtime."""
    from ._device import onnxruntime

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": str(onnxruntime().__version__),
    }


def hardware() -> str:
    """The processor's name, with the instructions that decide which kernels run, and how many cores there are."""
    import os

    found: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        found = {key.strip(): value.strip() for key, value in pairs}
    except OSError:
        pass
    flags = set(found.get("flags", "").split())
    extras = [
        name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("avx512_vnni", "VNNI")) if flag in flags
    ]
    name = found.get("model name") or platform.processor() or platform.machine()
    return f"{' with '.join(filter(None, [name, ', '.join(extras)]))}, {os.cpu_count()} cores"
