"""Inputs that turn a decision by value: each input scaled, shifted and filled, at several sizes, and what lies between.

A decision is proven on inputs that go either way by themselves, so these are sought: first changes that leave an input
much as it is, then far ones, then NaN and infinities, then larger sizes. Between an input of each way the boundary is
bisected, since a way that is right far from it may be wrong beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .sample import Sampler
from .variants import is_flags, variants

Inputs = list[Tensor]

HALVINGS = 20
MOST_ELEMENTS = 2_000_000


@dataclass(frozen=True)
class Sample:
    """Inputs in order, and the sizes of their axes.

    Attributes:
        how: what was done to make them, in words.
    """

    sizes: dict[str, int]
    inputs: Inputs
    how: str = "inputs like the example"


@dataclass(frozen=True)
class Changes:
    """What may turn a decision, near changes first.

    Attributes:
        sampler: draws inputs like the example.
        depends: the names of the inputs that the decision depends on.
        numbers: that were compared with.
    """

    sampler: Sampler
    depends: Collection[str]
    numbers: Collection[float]

    def near(self, sizes: Mapping[str, int], traced: Inputs) -> Iterator[Sample]:
        """From inputs of these sizes, and of some with more rows than columns."""
        tall = {axis: 7 if k == 0 else 3 for k, axis in enumerate(sizes)}
        bases = [Sample(dict(sizes), traced), Sample(tall, self.sampler.draw(tall, seed=5))]
        for base in [*bases, Sample(dict(sizes), self.sampler.draw(sizes, seed=11))]:
            yield from self._of(base)
        if sizes:
            ones = dict.fromkeys(sizes, 1)
            yield Sample(ones, self.sampler.draw(ones, seed=5), f"inputs of the sizes {ones}")

    def at(self, sizes: Mapping[str, int]) -> Iterator[Sample]:
        """From inputs of larger sizes: few."""
        base = Sample(dict(sizes), self.sampler.draw(sizes, seed=7), f"inputs of the sizes {dict(sizes)}")
        if sum(tensor.numel() for tensor in base.inputs) <= MOST_ELEMENTS:
            yield base
            yield from self._of(base, few=True)

    def _of(self, base: Sample, *, few: bool = False) -> Iterator[Sample]:
        names = [name for name in self.sampler.names if name in self.depends]
        return _changed(base, self.sampler.names, names, self.numbers, self.flags, few=few)

    @property
    def flags(self) -> set[str]:
        """The inputs that hold 0 and 1 alone in the example: a mask stays one."""
        return {name for name, x in zip(self.sampler.names, self.sampler.example, strict=True) if is_flags(x)}


def grown(sizes: Mapping[str, int], large: int, others: int) -> Iterator[dict[str, int]]:
    """Each axis large in turn, and all of them somewhat."""
    for axis in sizes:
        yield {other: large if other == axis else others for other in sizes}
    if len(sizes) > 1:
        yield dict.fromkeys(sizes, math.isqrt(large * others))


def _changed(
    base: Sample,
    every: Sequence[str],
    names: Sequence[str],
    numbers: Collection[float],
    flags: Collection[str],
    *,
    few: bool = False,
) -> Iterator[Sample]:
    """`base` with one of the inputs changed, then with all of them changed alike."""
    ways = {
        name: dict(variants(base.inputs[every.index(name)], base.sizes, numbers, name in flags, few=few))
        for name in names
    }
    for label in dict.fromkeys(label for found in ways.values() for label in found):
        having = [name for name in names if label in ways[name]]
        for together in [[name] for name in having] + ([having] if len(having) > 1 else []):
            inputs = [ways[n][label] if n in together else x for n, x in zip(every, base.inputs, strict=True)]
            yield Sample(base.sizes, inputs, f"{' and '.join(together)} {label}")


def beside(a: Sample, b: Sample, turned: Callable[[Sample], bool | None]) -> Iterator[Sample]:
    """Inputs between `a` and `b`, of the same sizes, nearer and nearer to where a decision turns.

    Args:
        a: goes one way.
        b: goes the other.
        turned: whether inputs go the way of `b`; None where the model does not take them.
    """
    for blend in (_linear, _prefix):
        low, high = 0.0, 1.0
        found: list[tuple[bool, Sample]] = []
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            sample = Sample(a.sizes, [blend(x, y, middle) for x, y in zip(a.inputs, b.inputs, strict=True)], BESIDE)
            answer = turned(sample)
            if answer is None:
                break
            found.append((answer, sample))
            low, high = (low, middle) if answer else (middle, high)
        for way in (True, False):
            yield from _last(found, way)
        if not any(_differs(x, y) for x, y in zip(a.inputs, b.inputs, strict=True)):
            return


BESIDE = "inputs beside the boundary"


def distance(a: Sample, b: Sample) -> float:
    """How far two samples of the same sizes are apart."""
    apart = [(x.double() - y.double()).abs() for x, y in zip(a.inputs, b.inputs, strict=True)]
    found = sum(float(one.max()) for one in apart if one.numel())
    return math.inf if math.isnan(found) else found


def _last(found: Sequence[tuple[bool, Sample]], way: bool) -> list[Sample]:
    """The nearest to the boundary on one side, and one on the way to it."""
    own = [sample for answer, sample in found if answer is way]
    return [own[k] for k in sorted({0, len(own) // 2, len(own) - 1})] if own else []


def _differs(x: Tensor, y: Tensor) -> bool:
    """Whether two inputs differ where there is nothing in between: whole numbers, NaN."""
    return bool((x != y).any()) and not (x.is_floating_point() and bool((x.isfinite() & y.isfinite()).all()))


def _linear(x: Tensor, y: Tensor, share: float) -> Tensor:
    if x.dtype is torch.bool or x.is_complex() or bool((_of_flags(x) & _of_flags(y)).all()):
        return _prefix(x, y, share)
    a, b = x.double(), y.double()
    if not bool((a.isfinite() & b.isfinite()).all()):
        return _prefix(x, y, share)
    mixed = a + (b - a) * share
    return (mixed if x.is_floating_point() else mixed.round()).to(x.dtype)


def _of_flags(x: Tensor) -> Tensor:
    return (x == 0) | (x == 1)


def _prefix(x: Tensor, y: Tensor, share: float) -> Tensor:
    """The first elements of `y`, the others of `x`."""
    count = round(share * x.numel())
    return torch.where(torch.arange(x.numel()).reshape(x.shape) < count, y, x)
