"""Which way a captured program goes where the model decides by the value of a tensor; proven on the eager model.

A way is general where it gives what eager PyTorch gives also on inputs that go the other way: a loop that resets the
state is right where nothing is to be reset. Each decision is forced either way, in float64, on inputs of which some go
the one way by themselves and some the other. What has no general way is refused, so that no bundle is ever silently
wrong on inputs that eager PyTorch treats in another way.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._equal import FLOAT64, all_equal
from .._errors import ExportError
from .._quiet import quiet
from . import tree
from .builtins import symbolic
from .ledger import Assumption, Kind
from .module import Flat, copied, float64, wide_copy, widened
from .prepare import Prepared
from .sample import Sampler
from .values import Decisions, Event, Place, way_out
from .witness import BESIDE, Inputs, Sample, beside, candidates, candidates_at

ENOUGH = 6
"""Inputs of each way."""
MODEST = 64
"""Sizes up to which more inputs of a way are sought where there are some."""


@dataclass(frozen=True)
class Decision:
    """A decision by value, and the way that the captured program goes.

    Attributes:
        place: the line that decides.
        answer: the way.
        check: the other way is an error, or for lengths that a bundle does not take: a check of the inputs, which the
            program does not make.
        seen: the ways that inputs which were tried go by themselves.
        assumptions: what was taken for granted, and with what it was tried.
    """

    place: Place
    answer: bool
    check: bool
    seen: frozenset[bool]
    assumptions: tuple[Assumption, ...] = ()


@dataclass(frozen=True)
class _Run:
    """What one call gave: its results, or the error that it raised; and the decisions in it."""

    results: list[tuple[tree.Path, Tensor]]
    error: Exception | None
    events: list[Event]
    lengths: set[str]
    numbers: set[float]

    def goes(self, place: Place) -> set[bool]:
        return {event.natural for event in self.events if event.place == place}


def decide(prepared: Prepared) -> tuple[tuple[Decision, ...], list[Sample]]:
    """The decisions that the model makes, and inputs that go either way at each, to compare a bundle on.

    Raises:
        ExportError: a decision has no general way, or no inputs were found that go its other way; names the line.
    """
    first = [prepared.traced, Sampler(prepared.names, prepared.axes, prepared.traced).draw(prepared.sizes, seed=0)]
    runs = [_run(copied(prepared.flat), prepared.names, [x.clone() for x in inputs], {}) for inputs in first]
    if not any(one.events for one in runs):
        return (), []
    trials = _Trials(prepared, {name for one in runs for name in one.lengths})
    if not trials.samples:
        return (), []  # the model itself fails: whoever calls it next says so
    decided: dict[Place, Decision] = {}
    witnesses: dict[int, None] = {}
    while (place := trials.undecided(decided)) is not None:
        found, shown = _settled(place, trials, {known: one.answer for known, one in decided.items()})
        decided[place] = found
        witnesses.update(dict.fromkeys(shown))
        trials.rerun({known: one.answer for known, one in decided.items()})
    return tuple(decided.values()), [trials.samples[k] for k in witnesses if trials.serves(k)]


class _Trials:
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
        self.natural: list[_Run] = []
        self.runs: list[_Run] = []
        samples, self.outside, self.fits = _samples(prepared, lengths)
        for sample in samples:
            self.add(sample)

    def run(self, inputs: Inputs, answers: Mapping[Place, bool]) -> _Run:
        """Call a copy in float64, its decisions answered so."""
        with float64():
            return _run(copied(self._wide), self.prepared.names, [widened(tensor) for tensor in inputs], answers)

    def tried(self, sample: Sample) -> tuple[_Run, _Run] | None:
        """What the model gives by itself and with the answers so far; None where it does not take the inputs."""
        if not self.fits(sample.inputs):
            return None
        natural = self.run(sample.inputs, {})
        if natural.error is not None:
            return None
        return natural, self.run(sample.inputs, self._answers) if self._answers else natural

    def add(self, sample: Sample, known: tuple[_Run, _Run] | None = None) -> bool:
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

    def forced(self, place: Place, way: bool) -> list[_Run]:
        """What the model gives on each sample where it goes that way."""
        return [self.run(sample.inputs, {**self._answers, place: way}) for sample in self.samples]

    def right(self, runs: Sequence[_Run]) -> bool:
        """Whether these are what the model gives by itself."""
        return all(_equal(natural, one) for natural, one in zip(self.natural, runs, strict=True))

    def serves(self, index: int) -> bool:
        """Whether the model takes a sample in its own precision too, so that a bundle can be compared on it."""
        inputs = [tensor.clone() for tensor in self.samples[index].inputs]
        return _run(copied(self.prepared.flat), self.prepared.names, inputs, {}).error is None


def _settled(place: Place, trials: _Trials, answers: Mapping[Place, bool]) -> tuple[Decision, list[int]]:
    """The decision at a place, and the samples to compare a bundle on."""
    depends, ways = trials.depends(place), trials.ways(place)
    if not all(ways.values()):
        usual = bool(ways[True])
        if not depends:
            return _decision(place, usual, False, [usual], "it depends on no input"), []
        if all(_checks(one, place) for one in trials.forced(place, not usual)):
            how = f"{trials.samples[ways[usual][0]].how}; the other way is an error of the model's own"
            return _decision(place, usual, True, [usual], how), [ways[usual][0]]
    if depends:
        _search(place, trials, depends)
        ways = trials.ways(place)
    if not all(ways.values()):
        # lengths alone decide, and go the other way only where the bundle takes them not
        if depends <= trials.lengths and any(
            (not usual) in trials.run(one, answers).goes(place) for one in trials.outside
        ):
            how = f"{trials.samples[ways[usual][0]].how}; only lengths that a bundle does not take go the other way"
            return _decision(place, usual, True, [usual], how), [ways[usual][0]]
        raise ExportError(
            f"the model decides by the value of a tensor ({place}), and a graph has one way: no inputs were found that "
            f"go the other way than {usual}, so nothing shows that the graph would be right there. "
            f"{way_out(place.text)}"
        )
    for way in sorted((True, False), key=lambda way: len(ways[not way]), reverse=True):
        if trials.right(trials.forced(place, way)):
            shown = [k for side in (True, False) for k in _shown(trials, ways[side])]
            said = (f"{str(side).lower()} with {trials.samples[ways[side][0]].how}" for side in (True, False))
            how = f"{', '.join(said)}; both are as eager PyTorch on {len(trials.samples)} inputs"
            return _decision(place, way, False, [True, False], how), shown
    raise ExportError(
        f"the model decides by the value of a tensor ({place}), and a graph has one way: inputs go either way, and "
        f"neither way gives what eager PyTorch gives on inputs that go the other way. {way_out(place.text)}"
    )


def _decision(place: Place, answer: bool, check: bool, seen: Collection[bool], how: str) -> Decision:
    kind: Kind = "constant" if how == "it depends on no input" else "value"
    where = f"{place.file}:{place.line}"
    note = Assumption(kind, place.text, where, "proven" if kind == "constant" else "tried", how)
    return Decision(place, answer, check, frozenset(seen), (note,))


def _shown(trials: _Trials, indices: Sequence[int]) -> list[int]:
    """Of the samples that go one way, the first, and one that lies beside the boundary."""
    near = [k for k in indices if trials.samples[k].how == BESIDE]
    return [indices[0], *near[-1:]]


def _search(place: Place, trials: _Trials, depends: set[str]) -> None:
    """Add samples that go either way at a place, and some between them."""
    prepared = trials.prepared
    sampler = Sampler(prepared.names, prepared.axes, prepared.traced)
    numbers = {number for one in trials.natural for number in one.numbers}
    ways = trials.ways(place)
    count = {way: len(ways[way]) for way in (True, False)}
    for sample in candidates(sampler, prepared.sizes, prepared.traced, depends, numbers):
        same = sample.sizes in ({}, prepared.sizes) or all(size <= MODEST for size in sample.sizes.values())
        if min(count.values()) >= ENOUGH or (min(count.values()) and not same):
            break
        known = trials.tried(sample)
        went = known[1].goes(place) if known is not None else set()
        if any(count[way] < ENOUGH for way in went):
            trials.add(sample, known)
            for way in went:
                count[way] += 1
    # Larger inputs have their like of the other way among those that are as large.
    ways = trials.ways(place)
    for way in (True, False):
        if not ways[way]:
            return
    only = {way: [k for k in ways[way] if k not in ways[not way]] for way in (True, False)}
    pairs = [(j, k) for k in only[True] for j in only[False] if trials.samples[j].sizes == trials.samples[k].sizes]
    if not pairs and only[True] and only[False]:
        rare = min((True, False), key=lambda way: len(only[way]))
        for k in only[rare][:1]:
            sizes = trials.samples[k].sizes
            for sample in candidates_at(sampler, sizes, depends, numbers):
                known = trials.tried(sample)
                if known is not None and known[1].goes(place) == {not rare}:
                    trials.add(sample, known)
                    other = len(trials.samples) - 1
                    pairs.append((other, k) if rare else (k, other))
                    break

    def turned(sample: Sample) -> bool | None:
        known = trials.tried(sample)
        return None if known is None else True in known[1].goes(place)

    for j, k in [*pairs[:1], *pairs[len(pairs) // 2 : len(pairs) // 2 + 1], *pairs[-1:]]:
        for sample in beside(trials.samples[j], trials.samples[k], turned):
            trials.add(sample)


def _run(flat: Flat, names: Sequence[str], inputs: Inputs, answers: Mapping[Place, bool]) -> _Run:
    """Call `flat` once, with its decisions answered so and recorded."""
    mode = Decisions(answers, dict(zip(names, inputs, strict=True)))
    try:
        with quiet(), torch.no_grad(), symbolic(flat.model), mode:
            return _Run(flat.named(*inputs), None, mode.events, mode.lengths, mode.numbers)
    except Exception as error:
        return _Run([], error, mode.events, mode.lengths, mode.numbers)


def _equal(a: _Run, b: _Run) -> bool:
    return (
        b.error is None
        and [path for path, _ in a.results] == [path for path, _ in b.results]
        and all_equal([x for _, x in b.results], [x for _, x in a.results], FLOAT64)
    )


def _checks(run: _Run, place: Place) -> bool:
    """Whether a run ended with a `raise` or `assert` in the function that decides: the decision is a check."""
    trace = run.error.__traceback__ if run.error is not None else None
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    raised = dis.opname[code.co_code[trace.tb_lasti]] in ("RAISE_VARARGS", "RERAISE")
    return raised and (code.co_filename, code.co_qualname) == place.code[:2]


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
    for sizes in (prepared.sizes, {axis: 2 * size for axis, size in prepared.sizes.items()}):
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
