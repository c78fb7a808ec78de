"""Runs of a model that decides by value: inputs, and what it gives on each by itself and where it is forced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._equal import FLOAT64, all_equal
from .._quiet import quiet
from . import tree
from .builtins import symbolic
from .limits import others
from .module import Flat, copied, float64, wide_copy, widened
from .prepare import Prepared
from .sample import Sampler
from .values import Decisions, Event, Place
from .witness import Inputs, Sample


@dataclass(frozen=True)
class Run:
    """What one call gave: its results, or the error that it raised; and the decisions in it."""

    results: list[tuple[tree.Path, Tensor]]
    error: Exception | None
    events: list[Event]
    lengths: set[str]
    numbers: set[float]

    def goes(self, place: Place) -> set[bool]:
        return {event.natural for event in self.events if event.place == place}


class Runs:
    """Inputs that the model takes, with what it gives on each by itself and with the decisions that are made.

    Attributes:
        samples: the inputs.
        natural: what the model gives, in float64.
        runs: the same with the answers so far.
        lengths: the inputs that are lengths.
        outside: inputs with lengths that a bundle does not take.
    """

    def __init__(self, prepared: Prepared, lengths: set[str]) -> None:
        self.prepared, self.lengths = prepared, lengths
        wide = wide_copy(prepared.flat)
        assert isinstance(wide, Flat)
        self._wide = wide
        self._answers: Mapping[Place, bool] = {}
        self.samples: list[Sample] = []
        self.natural: list[Run] = []
        self.runs: list[Run] = []
        samples, self.outside, self.fits = _samples(prepared, lengths)
        for sample in samples:
            self.add(sample)

    def run(self, inputs: Inputs, answers: Mapping[Place, bool]) -> Run:
        """Call a copy in float64, its decisions answered so."""
        with float64():
            return call(copied(self._wide), self.prepared.names, [widened(tensor) for tensor in inputs], answers)

    def tried(self, sample: Sample) -> tuple[Run, Run] | None:
        """What the model gives by itself and with the answers so far; None where it does not take the inputs."""
        if not self.fits(sample.inputs):
            return None
        natural = self.run(sample.inputs, {})
        if natural.error is not None:
            return None
        return natural, self.run(sample.inputs, self._answers) if self._answers else natural

    def add(self, sample: Sample, known: tuple[Run, Run] | None = None) -> bool:
        """Keep a sample for all trials to come, where the model takes it."""
        known = known or self.tried(sample)
        if known is not None:
            self.samples.append(sample)
            self.natural.append(known[0])
            self.runs.append(known[1])
        return known is not None

    def rerun(self, answers: Mapping[Place, bool]) -> None:
        """Call the model on all samples with these answers."""
        self._answers = answers
        self.runs = [self.run(sample.inputs, answers) for sample in self.samples]

    def undecided(self, decided: Collection[Place]) -> Place | None:
        """The first decision that has no answer."""
        events = (event.place for one in self.runs for event in one.events)
        return next((place for place in events if place not in decided), None)

    def ways(self, place: Place) -> dict[bool, list[int]]:
        """The samples that go either way."""
        return {way: [k for k, one in enumerate(self.runs) if way in one.goes(place)] for way in (True, False)}

    def depends(self, place: Place) -> set[str]:
        """The inputs that a decision depends on."""
        return {name for one in self.runs for event in one.events if event.place == place for name in event.inputs}

    def forced(self, place: Place, way: bool) -> list[Run]:
        """What the model gives on each sample where it goes that way."""
        return [self.run(sample.inputs, {**self._answers, place: way}) for sample in self.samples]

    def right(self, runs: Sequence[Run]) -> bool:
        """Whether these are what the model gives by itself."""
        return all(_equal(natural, one) for natural, one in zip(self.natural, runs, strict=True))

    def serves(self, index: int) -> bool:
        """Whether the model takes a sample in its own precision too, so that a bundle can be compared on it."""
        inputs = [tensor.clone() for tensor in self.samples[index].inputs]
        return call(copied(self.prepared.flat), self.prepared.names, inputs, {}).error is None


def call(flat: Flat, names: Sequence[str], inputs: Inputs, answers: Mapping[Place, bool]) -> Run:
    """Call `flat` once, with its decisions answered so and recorded."""
    mode = Decisions(answers, dict(zip(names, inputs, strict=True)))
    try:
        with quiet(), torch.no_grad(), symbolic(flat.model), mode:
            return Run(flat.named(*inputs), None, mode.events, mode.lengths, mode.numbers)
    except Exception as error:
        return Run([], error, mode.events, mode.lengths, mode.numbers)


def _equal(a: Run, b: Run) -> bool:
    return (
        b.error is None
        and [path for path, _ in a.results] == [path for path, _ in b.results]
        and all_equal([x for _, x in b.results], [x for _, x in a.results], FLOAT64)
    )


def _samples(prepared: Prepared, lengths: set[str]) -> tuple[list[Sample], list[Inputs], Callable[[Inputs], bool]]:
    """Inputs to try: the traced ones; draws at two sizes; and the traced inputs with one of them made to be special.

    Beside them those with lengths that a bundle does not take: all of them 0, or one below the smallest that the
    example shows to be meant, 0 or 1; and what tells them apart.
    """
    names, traced = prepared.names, prepared.traced
    least = {
        name: min(1, max(0, int(tensor.min())))
        for name, tensor in zip(names, traced, strict=True)
        if name in lengths and tensor.dim() == 1 and not tensor.is_floating_point()
    }

    def fits(inputs: Inputs) -> bool:
        given = dict(zip(names, inputs, strict=True))
        return all(int(given[name].min()) >= low and int(given[name].max()) > 0 for name, low in least.items())

    sampler = Sampler(names, prepared.axes, traced)
    found = [Sample(prepared.sizes, traced)]
    twice = {axis: next(others(prepared.limits, axis, 2 * n, besides=()), n) for axis, n in prepared.sizes.items()}
    for sizes in (prepared.sizes, twice):
        found += [Sample(dict(sizes), sampler.draw(sizes, seed=seed)) for seed in range(4)]
    for k, tensor in enumerate(traced):
        found += [
            Sample(prepared.sizes, [*traced[:k], special, *traced[k + 1 :]])
            for special in _special(tensor, sorted(set(prepared.sizes.values())))
        ]
    outside = [one.inputs for one in found if not fits(one.inputs)]
    return [one for one in found if fits(one.inputs)], outside, fits


def _special(tensor: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """Values that decisions are made for: nothing, all, one alone, all but one, large, negative."""

    def one(value: Any, rest: Any, index: int) -> Tensor:
        filled = torch.full_like(tensor, rest)
        filled.view(-1)[index] = value
        return filled

    if tensor.numel() == 0:
        return
    low, high = (False, True) if tensor.dtype is torch.bool else (0, 1)
    yield torch.full_like(tensor, low)
    yield torch.full_like(tensor, high)
    if not tensor.is_floating_point() and tensor.dtype is not torch.bool:
        yield torch.full_like(tensor, -1)
    if tensor.dtype is torch.bool or bool(((tensor == 0) | (tensor == 1)).all()):
        for index in (0, -1):
            yield one(high, low, index)
            yield one(low, high, index)
    elif tensor.is_floating_point():
        yield tensor * 1000
        yield -tensor
    else:
        yield torch.full_like(tensor, int(tensor.max()))
        yield torch.full_like(tensor, int(tensor.min()))
        yield one(0, int(tensor.max()), -1)
        for size in sizes if tensor.dim() == 1 else ():
            yield torch.full_like(tensor, size)
