"""Compare: every backend against eager float64, over sizes that were never traced."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rnn_runtime import InputError, MismatchError, Report, Row
from rnn_runtime._report import Difference, measures
from rnn_runtime._report import compare as difference
from rnn_runtime._statistics import Statistics, statistics
from rnn_runtime._tolerances import Tolerance, decides
from rnn_runtime._tolerances import tolerance as table

from ._backends import Backend
from ._reference import Case

EAGER_FACTOR = 4
"""A backend may also be this many times as far off as eager PyTorch in the model's own precision: where eager itself is
that far off, another order of summation is no defect."""

MOST = 100
"""And at most this many times the tolerance: beyond, a comparison says nothing about an output."""


def compare(
    cases: Sequence[Case],
    backends: Iterable[Backend],
    tolerance: float | None = None,
    precision: str = "",
    slack: float = 0.0,
) -> Report:
    """All outputs of all backends on all cases; the eager model's own error is the first backend's.

    Args:
        cases: inputs, and what eager PyTorch makes of them.
        backends: what is compared with it.
        tolerance: the largest absolute error, times the largest value where that is above 1; by dtype if None.
        precision: of the graph, as the table of tolerances has it.
        slack: decibels less than the table's that will do.
    """
    # The eager model's own error is for comparison: it cannot fail against itself.
    rows = [replace(row, passed=True) for case in cases for row in held("eager", case, case.eager, tolerance)]
    for backend in backends:
        pairs: list[tuple[Case, Mapping[str, np.ndarray]]] = []
        found: list[Row] = []
        for case in cases:
            try:
                got = backend.run({name: array.copy() for name, array in case.inputs.items()})
            except Exception as error:
                first = (str(error).strip().splitlines() or [""])[0]
                found += [_failed(backend.name, case, name, f"{type(error).__name__}: {first}") for name in case.want]
            else:
                found += held(backend.name, case, got, tolerance, precision, slack)
                pairs.append((case, got))
        rows += _together(found, pairs, precision, slack) if tolerance is None else found
    return Report(tuple(rows))


def _together(
    rows: list[Row], pairs: list[tuple[Case, Mapping[str, np.ndarray]]], precision: str, slack: float
) -> list[Row]:
    """The rows of a backend, an output of low precision judged over all cases: one step alone decides too little."""
    judged = []
    for row in rows:
        line = table(next((case.eager[row.output].dtype.name for case, _ in pairs), ""), row.backend, precision)
        if line.error is None and row.statistics is not None and np.isfinite(row.error):
            found = together([(got[row.output], case.want[row.output]) for case, got in pairs])
            if found is not None:
                passed, note = _decided(found, line, slack)
                row = replace(row, passed=passed, note=note)
        judged.append(row)
    return judged


def together(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Statistics | None:
    """How an output differs from the one wanted over all cases, each a pair of both; None for whole numbers."""
    return statistics(_rows(got for got, _ in pairs), _rows(want for _, want in pairs), 0.0)


def _rows(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays put together along all axes but the last, or along that too where they differ in it."""
    flat = [array.reshape(-1, array.shape[-1] if array.ndim else 1) for array in arrays]
    same = len({array.shape[1] for array in flat}) == 1
    return np.concatenate(flat if same else [array.reshape(-1, 1) for array in flat])


def check_tolerance(tolerance: float | None) -> None:
    """Raises InputError where a tolerance is given that is no number of 0 or more."""
    good = tolerance is None or (
        isinstance(tolerance, int | float) and not isinstance(tolerance, bool) and 0 <= tolerance < math.inf
    )
    if not good:
        raise InputError(f"tolerance is {tolerance!r}; expected a number of 0 or more, such as 1e-5, or None")


def bundle_tolerance(golden: Sequence[Case], tolerance: float | None) -> dict[str, float]:
    """For each output the tolerance that a bundle's own check uses: an error, times the largest value above 1."""
    found: dict[str, float] = {}
    for case in golden:
        for name, want in case.want.items():
            allowed, own = own_error(case, name, tolerance)
            floor = min(EAGER_FACTOR * own.error / own.measure, MOST * allowed) if tolerance is None else 0.0
            found[name] = max(found.get(name, 0.0), allowed, floor if want.dtype.kind == "f" else 0.0)
    return found


def own_error(case: Case, name: str, tolerance: float | None) -> tuple[float, Difference]:
    """The tolerance of an output, and how far eager PyTorch in the model's own precision is off."""
    eager, want = case.eager[name], case.want[name]
    allowed = tolerance if tolerance is not None else table(eager.dtype.name).error or 0.0
    return allowed, difference(eager.astype(want.dtype), want, allowed)


def held(
    backend: str,
    case: Case,
    got: Mapping[str, np.ndarray],
    tolerance: float | None,
    precision: str = "",
    slack: float = 0.0,
) -> list[Row]:
    """What a backend makes of a case, held against the yardstick: a row for each output."""
    rows = []
    for name, want in case.want.items():
        eager = case.eager[name]
        allowed, own = own_error(case, name, tolerance)
        if got[name].dtype != eager.dtype:
            rows.append(
                _failed(backend, case, name, f"dtype {got[name].dtype} where eager PyTorch gives {eager.dtype}")
            )
            continue
        found = difference(got[name].astype(want.dtype), want, allowed)
        widened = min(EAGER_FACTOR * own.error / own.measure * found.measure, MOST * found.bound)
        bound = found.bound if tolerance is not None else max(found.bound, widened)
        if tolerance is None:
            bound = min(bound * case.slack, max(EAGER_FACTOR * bound, MOST * found.bound))
            if case.loud:
                bound = max(bound, MOST * allowed * float(measures(want).max(initial=1.0)))
        more = statistics(got[name], want, bound)
        passed, note = found.passed or (bool(np.isfinite(found.error)) and found.error <= bound), found.note
        line = table(eager.dtype.name, backend, precision)
        if tolerance is None and line.error is None and more is not None and np.isfinite(found.error):
            passed, note = _decided(more, line, slack)
        rows.append(
            Row(
                backend=backend,
                shape=case.sizes,
                output=name,
                error=found.error,
                bound=bound,
                where=found.where,
                passed=passed,
                eager_error=own.error,
                note=note,
                statistics=more,
            )
        )
    return rows


def _decided(found: Statistics, line: Tolerance, slack: float) -> tuple[bool, str]:
    """Whether an output of low precision is as good as it can be, and what is wrong where not."""
    if decides(found, line, slack):
        return True, ""
    least = (line.snr or 0.0) - slack
    return False, f"SNR {found.snr:.1f} dB, {least} wanted; the largest element agrees in {found.agreement:.0%}"


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
