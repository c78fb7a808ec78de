"""What counts as equal, and the table that shows it.

NumPy alone: the exporter's comparison of backends and the replay of recorded outputs share it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

VERSION = 1
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one array is from the one that was wanted.

    Attributes:
        error: the largest absolute difference; inf where a NaN, an infinity, the shape or the dtype differs.
        bound: the largest error that passes.
        where: the index of the largest error, None where there is no error or no element to point to.
        passed: whether the error is within the bound.
        note: why an error that is no plain number came about.
    """

    error: float
    bound: float
    where: tuple[int, ...] | None
    passed: bool
    note: str = ""


def compare(got: ArrayLike, want: ArrayLike, tolerance: float) -> Difference:
    """Compare an array with the one wanted, in float64.

    Floats pass when error <= tolerance * max(1, largest finite |want|), with NaN where NaN is wanted and infinities
    equal. Integers and bools pass when they are equal. Shapes and dtypes must be the same.
    """
    a, b = np.asarray(got), np.asarray(want)
    if a.dtype != b.dtype:
        return Difference(math.inf, 0.0, None, False, f"dtype {a.dtype}, expected {b.dtype}")
    if a.shape != b.shape:
        return Difference(math.inf, 0.0, None, False, f"shape {a.shape}, expected {b.shape}")
    if a.dtype.kind in "iub":
        return _compare_exactly(a, b)
    if a.dtype.kind != "f":
        return Difference(math.inf, 0.0, None, False, f"dtype {a.dtype} cannot be compared")
    return _compare_floats(a.astype(np.float64), b.astype(np.float64), tolerance)


def _compare_exactly(a: NDArray[Any], b: NDArray[Any]) -> Difference:
    unequal = a != b
    if not unequal.any():
        return Difference(0.0, 0.0, None, True)
    # Large integers one apart are the same float64: an unequal pair counts as one apart at least.
    error = np.where(unequal, np.maximum(np.abs(a.astype(np.float64) - b.astype(np.float64)), 1.0), 0.0)
    return Difference(float(error.max()), 0.0, _largest(error), False)


def _compare_floats(a: NDArray[np.float64], b: NDArray[np.float64], tolerance: float) -> Difference:
    nan_differs = np.isnan(a) != np.isnan(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, and differences beyond float64
        error = np.where(same, 0.0, np.abs(a - b))
        error[nan_differs] = math.inf
        bound = float(tolerance * max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0.0)))
    largest = float(error.max(initial=0.0))
    note = ""
    if nan_differs.any():
        note = f"NaN in {int(nan_differs.sum())} places where one side has a number"
    elif math.isinf(largest):
        note = "an infinity differs"
    where = _largest(error) if largest > 0 else None
    return Difference(largest, bound, where, math.isfinite(largest) and largest <= bound, note)


def _largest(error: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))


@dataclass(frozen=True, slots=True)
class Row:
    """One output of one backend at one shape, held against the wanted values.

    Attributes:
        backend: "onnxruntime-cpu", "torchscript", ...
        shape: the size of each named axis, such as {"batch": 2, "sequence": 13}.
        output: the name of the graph output.
        error, bound, where, passed, note: as in `Difference`.
        eager_error: eager PyTorch's own float32 error against its float64, where known: the scale to read `error` by.
    """

    backend: str
    shape: dict[str, int]
    output: str
    error: float
    bound: float
    where: tuple[int, ...] | None
    passed: bool
    eager_error: float | None = None
    note: str = ""

    def place(self) -> str:
        """Where it is, as text: "output[0, 12, 3] at batch=2 sequence=13"."""
        index = f"[{', '.join(map(str, self.where))}]" if self.where is not None else ""
        sizes = " ".join(f"{axis}={size}" for axis, size in self.shape.items())
        return f"{self.output}{index}" + (f" at {sizes}" if sizes else "")


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of a comparison; `str(report)` is a table.

    Attributes:
        rows: one per backend, shape and output.
    """

    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))  # a list is welcome too

    @property
    def passed(self) -> bool:
        """Whether there are rows, and all of them pass: nothing compared is nothing shown."""
        return bool(self.rows) and not self.failures

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that do not pass."""
        return tuple(row for row in self.rows if not row.passed)

    def to_json(self) -> str:
        """One line of JSON with "version", "passed" and "rows"; an infinite error is the string "inf"."""
        rows = [
            {key: str(value) if isinstance(value, float) and not math.isfinite(value) else value for key, value in row}
            for row in (asdict(row).items() for row in self.rows)
        ]
        return json.dumps({"version": VERSION, "passed": self.passed, "rows": rows}, allow_nan=False)

    def __str__(self) -> str:
        if not self.rows:
            return "nothing was compared"
        backends: dict[str, list[Row]] = {}
        for row in self.rows:
            backends.setdefault(row.backend, []).append(row)
        head = ("backend", "shapes", "largest error", "where", "eager float32", "verdict")
        lines = _table([head, *(_summary(backend, rows) for backend, rows in backends.items())])
        if self.failures:
            lines += ["", f"{len(self.failures)} of {len(self.rows)} comparisons failed:"]
            lines += [f"  {_failure(row)}" for row in self.failures[:_SHOWN]]
        if len(self.failures) > _SHOWN:
            lines.append(f"  and {len(self.failures) - _SHOWN} more")
        return "\n".join(lines)


def _summary(backend: str, rows: list[Row]) -> tuple[str, ...]:
    worst = max(rows, key=lambda row: row.error)
    shapes = {tuple(row.shape.items()) for row in rows}
    eager = [row.eager_error for row in rows if row.eager_error is not None]
    failed = sum(not row.passed for row in rows)
    return (
        backend,
        str(len(shapes)),
        f"{worst.error:.2g}",
        worst.place() if worst.error > 0 else "-",
        f"{max(eager):.2g}" if eager else "-",
        f"FAILED ({failed} of {len(rows)})" if failed else "passed",
    )


def _failure(row: Row) -> str:
    note = f" ({row.note})" if row.note else ""
    return f"{row.backend}: {row.place()}: error {row.error:.3g}, allowed {row.bound:.3g}{note}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
