"""What counts as equal, and the table that shows it.

NumPy alone: the exporter's comparison of backends and the replay of recorded outputs share it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._statistics import Statistics

APART = 1000.0
"""How many times as large a value may be and still be a measure of another's rounding."""

VERSION = 1
"""Of the JSON that `Report.to_json` writes; docs/report.md describes it. Another meaning of a key raises it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one array is from the one that was wanted.

    Attributes:
        error: the absolute difference of the element that is furthest off for its measure; inf where a NaN, an
            infinity, the shape or the dtype differs.
        bound: the largest error of that element that passes.
        where: its index, None where there is no error or no element to point to.
        passed: whether the error is within the bound.
        note: why an error that is no plain number came about.
        measure: what a tolerance is a share of for that element; see `measures`.
    """

    error: float
    bound: float
    where: tuple[int, ...] | None
    passed: bool
    note: str = ""
    measure: float = 1.0


def compare(got: ArrayLike, want: ArrayLike, tolerance: float) -> Difference:
    """Compare an array with the one wanted, in float64.

    Floats pass when each error <= tolerance * its measure (see `measures`), with NaN where NaN is wanted and infinities
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
        measure = measures(b)
    where = _largest(error / measure) if error.size else ()
    largest, own = (float(error[where]), float(measure[where])) if error.size else (0.0, 1.0)
    note = ""
    if nan_differs.any():
        note = f"NaN in {int(nan_differs.sum())} places where one side has a number"
    elif math.isinf(largest):
        note = "an infinity differs"
    bound = tolerance * own
    passed = math.isfinite(largest) and largest <= bound
    return Difference(largest, bound, where if largest > 0 else None, passed, note, own)


def measures(want: NDArray[Any]) -> NDArray[np.float64]:
    """For each element what a tolerance is a share of: at least 1, and the largest value that rounds along with it.

    A sum is rounded at the size of its largest part, so a small result may be as far off as the large ones beside it;
    but for those more than `APART` times as large: the -1e9 of a mask lends nothing to the numbers that it leaves.
    """
    sizes = np.abs(np.where(np.isfinite(want), want, 0.0).astype(np.float64))
    largest = float(sizes.max(initial=1.0))
    if largest <= APART:
        return np.full(want.shape, largest)
    ordered = np.sort(sizes, axis=None)
    reach = np.searchsorted(ordered, APART * np.maximum(1.0, sizes), side="right") - 1
    return np.asarray(np.maximum(1.0, ordered[np.maximum(reach, 0)]))


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
        statistics: more about the same difference; None where nothing can be counted.
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
    statistics: Statistics | None = None

    def place(self) -> str:
        """Where it is, as text: "output[0, 12, 3] at batch=2 sequence=13"."""
        index = f"[{', '.join(map(str, self.where))}]" if self.where is not None else ""
        sizes = " ".join(f"{axis}={size}" for axis, size in self.shape.items())
        return f"{self.output}{index}" + (f" at {sizes}" if sizes else "")


@dataclass(frozen=True, slots=True)
class Check:
    """One property on one backend.

    Attributes:
        property: its name.
        backend: "onnxruntime-cpu", "torchscript", ...
        promise: what should hold, in a sentence.
        verdict: "passed", "failed" or "skipped".
        note: why it was skipped; what differs where that is no plain number.
        trials: how many inputs were tried.
        error, bound: the largest error, and what was allowed there.
        where: of a failure, the output and index, or what was compared.
        trial: of a failure, the smallest that fails: the size of each axis and the property's own numbers.
        inputs: of a failure, the inputs of that trial as nested lists, where they are few.
        command: of a failure, what reproduces it.
        seconds: how long it took.
    """

    property: str
    backend: str
    promise: str
    verdict: str
    note: str = ""
    trials: int = 0
    error: float = 0.0
    bound: float = 0.0
    where: str = ""
    trial: dict[str, int] | None = None
    inputs: dict[str, Any] | None = None
    command: str = ""
    seconds: float = 0.0

    def text(self) -> str:
        """What was found, in a line."""
        if self.verdict == "skipped":
            return self.note
        if self.verdict == "passed":
            return f"{self.trials} trials, largest error {self.error:.2g}"
        at = " ".join(f"{name}={value}" for name, value in (self.trial or {}).items())
        size = f"error {self.error:.3g}, allowed {self.bound:.3g}" if math.isfinite(self.error) else ""
        return f"{self.where} at {at}: {'; '.join(filter(None, [size, self.note]))}"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a backend leaves the yardstick first.

    Attributes:
        backend: which; several that leave it at one place are listed with commas in a text.
        place: "in" a recurrent layer, "before" it, or "after" the last.
        module: the layer's path in the model, "" for the model itself; after the last, the name of an output.
        operator: RNN, LSTM, GRU, Scan; "" after the last.
        layer: the number of the layer in the module, from 0; None where only the module as a whole can be seen.
        direction: "forward" or "backward"; "" where there is none.
        step: the first time step that is off, in the order in which the direction reads them; None where there is none.
        error: the largest there.
        shape: the size of each axis of the input that it was found with.
        reason: what explains it; "" where nothing known does.
    """

    backend: str
    place: str
    module: str
    operator: str
    layer: int | None
    direction: str
    step: int | None
    error: float
    shape: dict[str, int]
    reason: str = ""

    def __str__(self) -> str:
        if self.place == "after":
            where = f"in the output {self.module!r}, after the last recurrent layer that can be seen into"
        else:
            name = repr(self.module) if self.module else "the model itself"
            before = "the input of " if self.place == "before" else ""
            layer = "" if self.layer is None else f", layer {self.layer}"
            direction = f", {self.direction} direction" if self.direction else ""
            where = f"in {before}{name} ({self.operator}){layer}{direction}"
        step = "" if self.step is None else f", at time step {self.step}"
        sizes = " ".join(f"{axis}={size}" for axis, size in self.shape.items())
        error = f"error {self.error:.3g}" if math.isfinite(self.error) else "no number to compare"
        reason = f": {self.reason}" if self.reason else ""
        leave = "leave" if ", " in self.backend else "leaves"
        return f"{self.backend} first {leave} eager PyTorch {where}{step} ({error}, {sizes}){reason}"


@dataclass(frozen=True, slots=True)
class Series:
    """The error along a long sequence.

    Attributes:
        backend, output: whose.
        steps: the first step of each stretch.
        errors: the largest absolute error in the stretch that begins there.
    """

    backend: str
    output: str
    steps: tuple[int, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found; `str(report)` is a table.

    Attributes:
        rows: one per backend, shape and output.
        checks: one per property and backend.
        divergences: where backends leave the yardstick, where that was looked for.
        series: the error along long sequences.
        about: of what and with what: "bundle", "level", "seed", "seconds", "versions", "hardware" ...
        warnings: what is right and yet worth knowing before the model is used, a sentence each.
    """

    rows: tuple[Row, ...]
    checks: tuple[Check, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    series: tuple[Series, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rows", "checks", "divergences", "series", "warnings"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list is welcome too

    @property
    def passed(self) -> bool:
        """Whether something was compared, and all of it passes: nothing compared is nothing shown."""
        compared = bool(self.rows) or any(check.verdict == "passed" for check in self.checks)
        return compared and not self.failures and not self.broken

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that do not pass."""
        return tuple(row for row in self.rows if not row.passed)

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict == "failed")

    def to_json(self) -> str:
        """One line of JSON, as docs/report.md describes it; a number that JSON has not is a string such as "inf"."""
        content = {
            "version": VERSION,
            "passed": self.passed,
            "about": dict(self.about),
            "rows": [asdict(row) for row in self.rows],
            "checks": [asdict(check) for check in self.checks],
            "divergences": [{**asdict(found), "text": str(found)} for found in self.divergences],
            "series": [asdict(series) for series in self.series],
            "warnings": list(self.warnings),
        }
        return json.dumps(_plain(content), allow_nan=False)

    def to_junit(self) -> str:
        """JUnit XML for CI: a test suite for each backend, a test case for each shape and each property."""
        from . import _junit

        return _junit.write(self)

    def to_html(self) -> str:
        """One page of HTML that needs no network: the verdict, plots, versions and hardware.

        Raises:
            DependencyError: matplotlib is missing.
        """
        from . import _html

        return _html.write(self)

    def parts(self) -> list[list[tuple[str, ...]] | str]:
        """What a terminal shows, in order: tables, whose first row is the head, and texts."""
        from . import _text

        return _text.parts(self)

    def __str__(self) -> str:
        from . import _text

        return _text.plain(self)


def _plain(value: Any) -> Any:
    """The same for JSON: numbers that it has not as strings, tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
