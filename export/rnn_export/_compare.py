"""Compare: every backend against eager float64, over sizes that were never traced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rnn_runtime import MismatchError, Report, Row
from rnn_runtime._report import compare as difference

from ._backends import Backend
from ._reference import Case

TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}
"""Largest absolute error, times the largest value where that is above 1. Rounding of one type, summed over a layer's
width and a few hundred steps, stays a hundred times below each; a wrong gate, axis or weight is far above."""

EAGER_FACTOR = 4
"""A backend may also be this many times as far off as eager PyTorch in the model's own precision: where eager itself is
that far off, another order of summation is no defect."""


def compare(cases: Sequence[Case], backends: Iterable[Backend], tolerance: float | None = None) -> Report:
    """All outputs of all backends on all cases; the eager model's own error is the first backend's.

    Args:
        cases: inputs, and what eager PyTorch makes of them.
        backends: what is compared with it.
        tolerance: the largest absolute error, times the largest value where that is above 1; by dtype if None.
    """
    rows = [row for case in cases for row in _rows("eager", case, case.eager, tolerance)]
    for backend in backends:
        for case in cases:
            try:
                got = backend.run(case.inputs)
            except Exception as error:
                first = str(error).strip().splitlines()[0]
                got = {}
                rows += [_failed(backend.name, case, name, f"{type(error).__name__}: {first}") for name in case.want]
            else:
                rows += _rows(backend.name, case, got, tolerance)
    return Report(tuple(rows))


def bundle_tolerance(cases: Sequence[Case], report: Report, tolerance: float | None) -> float:
    """One tolerance for a bundle's own check, over all its outputs."""
    if tolerance is None:
        tolerance = max((TOLERANCE.get(array.dtype.name, 0.0) for array in cases[0].eager.values()), default=0.0)
    return max([tolerance, *(EAGER_FACTOR * row.eager_error for row in report.rows if row.eager_error)])


def _rows(backend: str, case: Case, got: dict[str, np.ndarray], tolerance: float | None) -> list[Row]:
    rows = []
    for name, want in case.want.items():
        eager = case.eager[name]
        allowed = tolerance if tolerance is not None else TOLERANCE.get(eager.dtype.name, 0.0)
        own = difference(eager.astype(want.dtype), want, allowed)
        if got[name].dtype != eager.dtype:
            rows.append(
                _failed(backend, case, name, f"dtype {got[name].dtype} where eager PyTorch gives {eager.dtype}")
            )
            continue
        found = difference(got[name].astype(want.dtype), want, allowed)
        bound = max(found.bound, EAGER_FACTOR * own.error)
        rows.append(
            Row(
                backend=backend,
                shape=case.sizes,
                output=name,
                error=found.error,
                bound=bound,
                where=found.where,
                passed=found.passed or (bool(np.isfinite(found.error)) and found.error <= bound),
                eager_error=own.error,
                note=found.note,
            )
        )
    return rows


def _failed(backend: str, case: Case, output: str, note: str) -> Row:
    return Row(
        backend=backend,
        shape=case.sizes,
        output=output,
        error=float("inf"),
        bound=0.0,
        where=None,
        passed=False,
        note=note,
    )


def require(report: Report, what: str) -> Report:
    """The report itself where everything passed.

    Raises:
        MismatchError: something did not; carries the report.
    """
    if not report.passed:
        wrong = sorted({row.backend for row in report.failures})
        raise MismatchError(f"{what} leaves eager PyTorch on {', '.join(wrong)}:\n{report}", report)
    return report
