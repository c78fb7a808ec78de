"""What a property looks at, and what a property is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._guards import Sizes
from .._report import Difference, compare
from .._signature import Signature
from .._statistics import statistics
from .._tolerances import SLACK, decides, tolerance
from ._draw import Arrays, Draw

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""All outputs by name, from inputs by name."""

Trial = dict[str, int]
"""What one try varies: the size of each axis, and whole numbers of the property's own. Small is simple."""

Part = tuple[str, Difference]
"""What was compared (an output, as a rule), and how it differs."""


class OutOfDomain(Exception):
    """The model itself takes no input of this kind."""


@dataclass(frozen=True)
class Subject:
    """One backend with all that a property needs to know of the model.

    Attributes:
        backend: its name, such as "onnxruntime-cpu".
        signature: the model's.
        run: runs all inputs.
        draw: makes inputs.
        tolerance: for each output, as the bundle has it.
        sequences: the axes that recurrent layers run over.
        omit: runs inputs without the states; None where the backend takes all of them always.
        shared: any number of threads may run it at once.
        threaded: the same model on another number of threads; None where that cannot be chosen.
        folder, device: what a child process would load, and where; None where it cannot.
        reference: the yardstick, eager PyTorch in float64; None where PyTorch is not at hand. Raises OutOfDomain where
            the model takes no such input.
        operators: how many nodes of each kind the graph has.
        precision: of the graph, as the table of tolerances has it.
        limited: the model takes some sizes and not others.
    """

    backend: str
    signature: Signature
    run: Run
    draw: Draw
    tolerance: Mapping[str, float]
    sequences: Collection[str] = ()
    omit: Run | None = None
    shared: bool = False
    threaded: Run | None = None
    folder: Path | None = None
    device: str = "cpu"
    reference: Run | None = None
    operators: Mapping[str, int] = field(default_factory=dict)
    precision: str = ""
    limited: bool = False

    @property
    def batch(self) -> str | None:
        """The axis of independent rows: the lengths', or the states', or the one that no layer runs over."""
        signature = self.signature
        if signature.lengths is not None:
            axis = signature.input(signature.lengths.input).axes[0]
            return axis if isinstance(axis, str) else None
        states = {axis for pair in signature.states for axis in signature.input(pair.input).axes}
        named = [axis for axis in signature.axis_names if axis not in self.sequences]
        found = [axis for axis in named if axis in states] or named
        return found[0] if len(found) == 1 else "batch" if "batch" in found else None

    @property
    def sequence(self) -> str | None:
        """The one axis that the recurrent layers run over; None where there are several or none."""
        return next(iter(self.sequences)) if len(self.sequences) == 1 else None

    def attempt(self, inputs: Mapping[str, NDArray[Any]], run: Run | None = None) -> Mapping[str, NDArray[Any]]:
        """Run these inputs.

        Raises:
            OutOfDomain: a size is outside of the model's limits; or it fails, and so does the model itself, or it is
                known to take some sizes alone.
            Exception: it fails where the model itself does not.
        """
        require_within(self.signature, inputs)
        try:
            return (run or self.run)(inputs)
        except OutOfDomain:
            raise
        except Exception as error:
            if self.reference is not None:
                self.reference(inputs)  # raises where the model itself does
            elif self.limited:
                raise OutOfDomain(str(error)) from None
            raise

    def between(self, output: str, got: NDArray[Any], want: NDArray[Any]) -> Difference:
        """Compare two runs of one backend: each may be off by the tolerance, so twice that lies between them.

        Of low precision their noise counts. Dynamic quantisation scales a row by the largest value of the whole batch,
        so that rows and pieces are alike to that noise alone.
        """
        found = compare(got, want, 2 * self.tolerance[output])
        line = tolerance(want.dtype.name, self.backend, self.precision)
        more = statistics(got, want, found.bound) if line.error is None and math.isfinite(found.error) else None
        if more is None:
            return found
        passed = decides(more, line, SLACK)
        return replace(found, bound=max(found.bound, found.error) if passed else found.bound, passed=passed)

    def sizes(self, trial: Trial) -> dict[str, int]:
        """The sizes of the axes among what a trial varies."""
        return {axis: trial[axis] for axis in self.signature.axis_names}

    def inputs(self, trial: Trial) -> Arrays:
        """All inputs of a trial: `seed` and `values` choose what the sizes are filled with."""
        return self.draw(self.sizes(trial), trial["seed"], trial["values"])

    def within(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes of axes, each moved to the nearest that the model's limits allow."""
        return {axis: self.signature.limit(axis).nearest(size) for axis, size in sizes.items()}

    def space(self, least: Mapping[str, int] | None = None, **more: tuple[int, int]) -> dict[str, tuple[int, int]]:
        """From where to where a trial's numbers go: sizes within the limits, values and seed, and others by name."""
        sizes = {}
        for axis in self.signature.axis_names:
            limit, most = self.signature.limit(axis), _MOST_STEPS if axis in self.sequences else _MOST_ROWS
            low = max(limit.min, (least or {}).get(axis, 1))
            sizes[axis] = (low, max(low, limit.nearest(max(most, low + most - 1) if low > 2 else most)))
        return {**sizes, **more, "values": (0, 4), "seed": (0, 9999)}


_MOST_ROWS = 9
_MOST_STEPS = 40


class Property(Protocol):
    """Something that must hold for every input.

    Attributes:
        name: one word.
        promise: what holds, in a sentence.
    """

    name: str
    promise: str

    def unfit(self, subject: Subject) -> str | None:
        """Why it says nothing about this model on this backend; None where it does."""
        ...

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """What a trial varies, and from where to where."""
        ...

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Trials that are always made."""
        ...

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """What was compared in one trial. Raises OutOfDomain where the model takes no such input."""
        ...


def require_within(signature: Signature, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises OutOfDomain where a size is outside of the model's limits, which no backend has to take."""
    if not signature.limits:
        return
    sizes = Sizes()
    for spec in signature.inputs:
        if spec.name in arrays and arrays[spec.name].ndim == len(spec.axes):
            sizes.add(spec, arrays[spec.name].shape)
    if problems := sizes.outside(signature.limits):
        raise OutOfDomain(problems[0])


def narrow(signature: Signature, arrays: Mapping[str, NDArray[Any]], axis: str, start: int, stop: int) -> Arrays:
    """All inputs, of which those that have `axis` are cut to the indices from `start` to `stop` there."""
    cut = dict(arrays)
    for spec in signature.inputs:
        if axis in spec.axes:
            index = (slice(None),) * spec.axes.index(axis) + (slice(start, stop),)
            cut[spec.name] = cut[spec.name][index]
    return cut


def words(axis: int | str) -> set[str]:
    """The names in an axis, which may be an expression such as "2*sequence"."""
    return set(re.findall(r"[A-Za-z_]\w*", axis)) if isinstance(axis, str) else set()


def common(got: NDArray[Any], want: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both arrays cut to the sizes that they share; as they are where their ranks differ."""
    if got.ndim != want.ndim:
        return got, want
    index = tuple(slice(min(pair)) for pair in zip(got.shape, want.shape, strict=True))
    return got[index], want[index]


def failed(note: str) -> Difference:
    """A difference that is no number."""
    return Difference(float("inf"), 0.0, None, False, note)


def same(got: NDArray[Any], want: NDArray[Any]) -> Difference:
    """Compare bit by bit, NaN with NaN."""
    exact = compare(got, want, 0.0)
    if exact.passed and exact.error == 0 and got.tobytes() != want.tobytes() and not np.isnan(want).any():
        return failed("zeros of another sign")
    return exact
