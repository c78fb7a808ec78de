"""The yardstick: eager PyTorch in float64, and eager float32 beside it, on inputs of any size."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rnn_runtime import InputError, LimitSpec, Signature
from rnn_runtime._report import compare
from rnn_runtime._signature import DTYPES
from rnn_runtime._tolerances import tolerance

from ._capture.ledger import Assumption
from ._capture.module import REFUSED, Flat, float64, wide_copy, widened
from ._capture.sample import Sampler
from ._capture.streams import StreamedFlat
from ._capture.ties import Ties, Undefined
from ._equal import FLOAT64, all_equal
from ._errors import ExportError
from ._quiet import quiet

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One input and what eager PyTorch makes of it.

    Attributes:
        sizes: the size of each dynamic axis.
        inputs: all inputs by name.
        want: all outputs by name, computed in float64; whole numbers and booleans as the model itself gives them.
        eager: all outputs by name, as the model itself gives them.
        slack: how many times as far off a backend may be: long sequences let errors grow, in eager PyTorch as well.
        loud: whether inputs are so large that sums lose digits and gates saturate: then each number may be as far off
            as the largest one.
    """

    sizes: dict[str, int]
    inputs: Arrays
    want: Arrays
    eager: Arrays
    slack: float = 1.0
    loud: bool = False


class Reference:
    """Runs the eager model, in its own precision and in float64.

    Attributes:
        ties: the lines at which equal elements were put in an order that no result followed.
    """

    def __init__(self, flat: Flat, signature: Signature, sampler: Sampler) -> None:
        self.signature = signature
        self._flat = flat
        self.wide = wide_copy(flat)
        self.states = {state.input for state in signature.states}
        self.ties: set[str] = set()
        self._samplers = sampler.ways()

    @property
    def lifted(self) -> bool:
        """Whether states of inner layers have been made inputs, for streams."""
        return bool(self._flat.lifted)

    def case(self, sizes: Mapping[str, int], seed: int) -> Case | None:
        """A case of these sizes; None where the eager model itself takes no input of these sizes.

        Raises:
            Undefined: on all inputs that it takes the results follow the order of equal elements.
        """
        undefined: Undefined | None = None
        for again in range(DRAWS):
            for sampler in self._samplers:
                inputs = sampler.draw(sizes, seed + 1000 * again)
                try:
                    return self.on(self._reached(inputs, sampler.draw(sizes, seed + 500)), sizes)
                except REFUSED:
                    continue
                except Undefined as error:
                    undefined = error
        if undefined is not None:
            raise undefined
        return None

    def _reached(self, inputs: list[Tensor], before: list[Tensor]) -> list[Tensor]:
        """`inputs` with states that a stream comes to by others: no stream comes to a negative variance."""
        if not isinstance(self._flat, StreamedFlat):
            return inputs
        names = [spec.name for spec in self.signature.inputs]
        zeros = [torch.zeros_like(x) if n in self.states else x for n, x in zip(names, before, strict=True)]
        with quiet(), torch.no_grad():
            results = self._flat(*zeros)
        after = dict(zip([spec.name for spec in self.signature.outputs], results, strict=True))
        states = {state.input: after[state.output] for state in self.signature.states}
        return [states.get(name, tensor) for name, tensor in zip(names, inputs, strict=True)]

    def cases(self, shapes: Sequence[Mapping[str, int]]) -> tuple[list[Case], list[dict[str, int]]]:
        """The cases of these sizes, and the sizes that the eager model itself does not take.

        Raises:
            InputError: it takes no other size of an axis than the traced ones, which come last.
        """
        cases, refused = [], []
        for seed, sizes in enumerate(shapes):
            case = self.case(sizes, seed)
            if case is None:
                refused.append(dict(sizes))
            else:
                cases.append(case)
        for axis, traced in shapes[-1].items():
            if all(case.sizes[axis] == traced for case in cases):
                raise InputError(
                    f"eager PyTorch takes no other size of the axis {axis!r} than the example's ({traced}): another "
                    "input or the model itself fixes it. Name it in every input that has it, or leave it out of `axes`"
                )
        return cases, refused

    def more(self, shapes: Sequence[Mapping[str, int]], seconds: float) -> tuple[list[Case], list[dict[str, int]]]:
        """Cases of further sizes, and at the first of them of other values, while eager PyTorch takes no longer.

        Args:
            shapes: the sizes, in the order in which they are tried.
            seconds: how long all may take; at least one is tried.

        Returns:
            The cases, and the sizes that there was no time for. What eager PyTorch refuses is in neither.
        """
        start, found, left = time.monotonic(), list[Case](), [dict(sizes) for sizes in shapes]
        while left and (not found or time.monotonic() - start < seconds):
            case = self.case(left.pop(0), len(left) + 500)
            if case is None:
                continue
            if not found:
                found += self._variants(case)
            long = max(case.sizes.values(), default=0) >= MORE_LENGTHS[0]
            found += _told(case) if long else [case]
        return found, left

    def _variants(self, case: Case) -> list[Case]:
        """The same input otherwise: small, large, zeros, equal rows, masks of one value; where results are finite.

        Results that are whole numbers are decisions, which may fall either way where values tie.
        """
        if any(want.dtype.kind != "f" for want in case.want.values()):
            return []
        made: list[Case] = []
        for change in _CHANGES:
            arrays = [np.array(change(array.copy())) for array in case.inputs.values()]  # 0-d stays an array
            inputs = [torch.from_numpy(array) for array in arrays]
            try:
                one = self.on(inputs, case.sizes)
            except (*REFUSED, Undefined):
                continue
            if all(np.isfinite(want).all() for want in one.want.values()):
                made.append(replace(one, loud=change is _LARGE))
        return made

    def runs(self, shapes: Sequence[Mapping[str, int]]) -> list[tuple[Mapping[str, int], Arrays]]:
        """Inputs of sizes that the eager model does not take: a graph may refuse them, and not end the process."""
        return [(sizes, {name: one.numpy() for name, one in self.draw(sizes, 0).items()}) for sizes in shapes]

    def orders(self) -> list[Assumption]:
        """For the ledger: where equal elements were put in an order, which no result followed."""
        text = "no result follows the order of equal elements"
        return [Assumption("value", text, place, "tried", "put the other way round") for place in sorted(self.ties)]

    def example(self) -> list[np.ndarray]:
        """The example inputs in order."""
        return [tensor.numpy() for tensor in self._flat.inputs.example]

    def draw(self, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
        """Inputs of these sizes, by name."""
        drawn = self._samplers[0].draw(sizes, seed)
        return {spec.name: tensor for spec, tensor in zip(self.signature.inputs, drawn, strict=True)}

    def float64(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs of the model in float64, by name, from all inputs by name."""
        wide = [widened(tensor) for tensor in inputs.values()]
        with quiet(), torch.no_grad(), float64():
            results = self.wide(*wide)
        return {spec.name: result for spec, result in zip(self.signature.outputs, results, strict=True)}

    def on(self, inputs: Sequence[Tensor], sizes: Mapping[str, int]) -> Case:
        """The case of given inputs, in order. Raises what the eager model raises, and Undefined."""
        with quiet(), torch.no_grad(), Ties() as seen:
            eager = self._flat(*[tensor.clone() for tensor in inputs])  # a model may write into its inputs
        names = [spec.name for spec in self.signature.outputs]
        if len(eager) != len(names):
            raise ExportError(f"the model gives {len(eager)} outputs where the signature has {len(names)}: {names}")
        for name, result in zip(names, eager, strict=True):
            if (dtype := str(result.dtype).removeprefix("torch.")) not in DTYPES:
                raise ExportError(f"the output {name!r} is {dtype}, which NumPy has not: let the model return float32")
        named = dict(zip([spec.name for spec in self.signature.inputs], inputs, strict=True))
        try:
            with seen:
                want = self.float64(named)
            if seen.places:
                with Ties(turned=True):
                    turned = self.float64(named)
                if not all_equal(list(turned.values()), list(want.values()), FLOAT64):
                    raise Undefined(seen.places)
                self.ties |= seen.places
        except REFUSED as error:
            raise ExportError(
                f"the model runs as it is and fails in float64, which results are held against: {error}. Let it "
                "take its dtypes from its inputs and parameters"
            ) from error
        return Case(
            sizes=dict(sizes),
            inputs={
                spec.name: tensor.clone().numpy() for spec, tensor in zip(self.signature.inputs, inputs, strict=True)
            },
            want={
                name: (want[name] if want[name].is_floating_point() else tensor).numpy()
                for name, tensor in zip(names, eager, strict=True)
            },
            eager={name: tensor.clone().numpy() for name, tensor in zip(names, eager, strict=True)},
        )


def _told(case: Case) -> list[Case]:
    """A case of a long sequence with the outputs about which it tells something; nothing where there are none.

    Where eager PyTorch's own rounding has grown that far, another order of summation gives other numbers.
    """
    want = {name: array for name, array in case.want.items() if not _has_grown(case.eager[name], array)}
    eager = {name: case.eager[name] for name in want}
    return [replace(case, want=want, eager=eager, slack=LONG)] if want else []


def _has_grown(eager: np.ndarray, want: np.ndarray) -> bool:
    if want.dtype.kind != "f":
        return False
    own, allowed = compare(eager.astype(want.dtype), want, 0.0), tolerance(eager.dtype.name).error
    return own.error / own.measure > GROWN * (allowed or 0.0)


def runs(cases: Sequence[Case]) -> list[tuple[Mapping[str, int], Arrays]]:
    """The sizes and inputs of cases."""
    return [(case.sizes, case.inputs) for case in cases]


def grid(
    traced: Mapping[str, int], sequences: Collection[str], limits: Sequence[LimitSpec] = ()
) -> list[dict[str, int]]:
    """The sizes that an export is compared at: 1, primes, sizes far above the traced ones, and the traced ones.

    Of an axis that is long in the example, half as much again and twice as much too; of one with a limit, both of its
    ends where they are not very long, and no size outside.

    The first axis meets every size of the second; further axes take turns, so that no two axes always agree.

    Args:
        traced: axis -> the size that was traced.
        sequences: the axes that recurrent layers run over, which take larger sizes than the others.
        limits: of the axes.
    """
    if not traced:
        return [{}] * FIXED
    known = {limit.axis: limit for limit in limits}
    ordered = sorted(traced, key=lambda axis: axis in sequences)
    lists = [
        # a model whose example is that long (samples of a wave) may take nothing short
        _within(
            known.get(axis, LimitSpec(axis)),
            (*(LENGTHS if axis in sequences else BATCHES), *((3 * size // 2, 2 * size) if size > LENGTHS[-1] else ())),
        )
        for axis, size in ((axis, traced[axis]) for axis in ordered)
    ]
    shapes = []
    for i, first in enumerate(lists[0]):
        for j, second in enumerate(lists[-1] if len(lists) > 1 else [0]):
            between = [sizes[(i + j + k) % len(sizes)] for k, sizes in enumerate(lists[1:-1], 1)]
            shapes.append(dict(zip(ordered, [first, *between, second], strict=False)))
    return [*shapes, dict(traced)]


def _within(limit: LimitSpec, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes that a limit allows, with its ends, of which a very long one is there only where nothing else is."""
    ends = [end for end in (limit.min, limit.max) if end is not None and end != 1]
    near = [end for end in ends if end <= LONG_END]
    found = sorted({*near, *(size for size in sizes if limit.allows(size))})
    return tuple(found or ends)


def more_shapes(
    traced: Mapping[str, int], sequences: Collection[str], known: Sequence[Mapping[str, int]]
) -> list[dict[str, int]]:
    """Further sizes, those that take least time first: batches about powers of two, and long sequences.

    Args:
        traced: axis -> the size that was traced.
        sequences: the axes that recurrent layers run over.
        known: sizes that are tried already.
    """
    long = [axis for axis in traced if axis in sequences]
    batches = [axis for axis in traced if axis not in sequences]
    found: list[dict[str, int]] = []
    for k, size in enumerate(MORE_BATCHES if batches else ()):
        found.append({axis: size if axis in batches else 3 + 2 * k for axis in traced})
    for size in MORE_LENGTHS if long else ():
        # one axis alone: a picture of 500 by 500 would take all the time
        found.append({axis: size if axis == long[0] else traced[axis] if axis in long else 2 for axis in traced})
    return [shape for shape in found if shape not in known]


def _times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array * array.dtype.type(factor) if array.dtype.kind == "f" else array


def _masks(value: bool) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.full_like(array, value) if array.dtype == np.bool_ else array


def _equal_rows(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and array.ndim > 1:
        array[:] = array[:1]
    return array


_LARGE = _times(1e3)
_CHANGES = (_times(1e-3), _LARGE, _times(0.0), _equal_rows, _masks(True), _masks(False))

MORE_BATCHES = (3, 4, 8, 9, 16, 33)
MORE_LENGTHS = (128, 500)
GROWN = 10.0
"""Times the tolerance: of long sequences at which eager PyTorch itself is so far off, only the captured program is held
against the model, in float64."""
LONG = 4.0
"""The slack of sequences of these lengths."""

DRAWS = 4
"""How often to draw before sizes count as refused: a row of a mask may come out empty."""
FIXED = 4
"""How many inputs are drawn where no axis is dynamic."""

BATCHES = (1, 2, 7)
LENGTHS = (1, 2, 13, 64)
LONG_END = 600
"""Of a limit, a longer end is not tried at each export: it takes long."""
