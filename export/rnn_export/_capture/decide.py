"""Which way a captured program goes where the model decides by the value of a tensor; proven on the eager model.

A way is general where it gives what eager PyTorch gives also on inputs that go the other way: a loop that resets the
state is right where nothing is to be reset. Each decision is forced either way, in float64, on inputs of which some go
the one way by themselves and some the other. What has no general way is refused, so that no bundle is ever silently
wrong on inputs that eager PyTorch treats in another way.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._equal import FLOAT64, all_equal
from .._errors import ExportError
from .._quiet import quiet
from . import tree
from .builtins import symbolic
from .module import Flat, copied, float64, wide_copy, widened
from .prepare import Prepared
from .sample import Sampler
from .values import Decisions, Event, Place, way_out

Inputs = list[Tensor]


@dataclass(frozen=True)
class Decision:
    """A decision by value, and the way that the captured program goes.

    Attributes:
        place: the line that decides.
        answer: the way.
        check: the other way is an error, or for lengths that a bundle does not take: a check of the inputs, which the
            program does not make.
        seen: the ways that inputs which were tried go by themselves.
    """

    place: Place
    answer: bool
    check: bool
    seen: frozenset[bool]


@dataclass(frozen=True)
class Sample:
    """Inputs in order, and the sizes of their axes."""

    sizes: dict[str, int]
    inputs: Inputs


@dataclass(frozen=True)
class _Run:
    """What one call gave: its results, or the error that it raised; and the decisions in it."""

    results: list[tuple[tree.Path, Tensor]]
    error: Exception | None
    events: list[Event]
    lengths: set[str]

    def goes(self, place: Place) -> set[bool]:
        return {event.natural for event in self.events if event.place == place}


def decide(prepared: Prepared) -> tuple[tuple[Decision, ...], list[Sample]]:
    """The decisions that the model makes, and inputs that go either way at each, to compare a bundle on.

    Raises:
        ExportError: a decision has no general way; names the line.
    """
    first = [prepared.traced, Sampler(prepared.names, prepared.axes, prepared.traced).draw(prepared.sizes, seed=0)]
    runs = [_run(copied(prepared.flat), prepared.names, [x.clone() for x in inputs], {}) for inputs in first]
    if not any(one.events for one in runs):
        return (), []
    wide = wide_copy(prepared.flat)
    assert isinstance(wide, Flat)

    def run(inputs: Inputs, answers: Mapping[Place, bool]) -> _Run:
        given = [widened(tensor) for tensor in inputs]
        with float64():
            return _run(copied(wide), prepared.names, given, answers)

    lengths = {name for one in runs for name in one.lengths}
    samples, outside = _samples(prepared, lengths)
    natural = [run(sample.inputs, {}) for sample in samples]
    good = [k for k, one in enumerate(natural) if one.error is None]
    if not good:
        return (), []  # the model itself fails: whoever calls it next says so
    decided: dict[Place, Decision] = {}
    witnesses: dict[int, None] = {}

    def undecided(runs: Sequence[_Run]) -> Iterator[Place]:
        for one in runs:
            for event in one.events:
                if event.place not in decided:
                    yield event.place

    runs = natural
    while (place := next(undecided([runs[k] for k in good]), None)) is not None:
        ways = {way: [k for k in good if way in runs[k].goes(place)] for way in (True, False)}
        depends = {name for k in good for e in runs[k].events if e.place == place for name in e.inputs}
        answers = {known: decision.answer for known, decision in decided.items()}
        trials: dict[bool, list[_Run]] = {}

        def equal(way: bool, trials: dict[bool, list[_Run]] = trials) -> bool:
            return all(_equal(natural[k], one) for k, one in zip(good, trials[way], strict=True))

        found: Decision | None = None
        for way in sorted((True, False), key=lambda way: len(ways[not way]), reverse=True):
            if not ways[not way]:
                continue
            if not depends and not ways[way]:
                continue
            trials[way] = [run(samples[k].inputs, {**answers, place: way}) for k in good]
            if equal(way):
                found = Decision(place, way, False, frozenset(w for w in (True, False) if ways[w]))
                break
        if found is None:
            (usual,) = [way for way in (True, False) if ways[way]] if not all(ways.values()) else (None,)
            if usual is not None and (
                not depends
                or all(_checks(one, place) for one in trials[not usual])
                # lengths alone decide, and go the other way only where the bundle takes them not
                or (depends <= lengths and any((not usual) in run(one, answers).goes(place) for one in outside))
            ):
                found = Decision(place, usual, bool(depends), frozenset([usual]))
        if found is None:
            raise ExportError(_refusal(place, trials, ways))
        decided[place] = found
        for way in found.seen if found.check or len(found.seen) > 1 else ():
            witnesses.setdefault(ways[way][0])
        answers[place] = found.answer
        runs = [run(sample.inputs, answers) if k in good else runs[k] for k, sample in enumerate(samples)]
    return tuple(decided.values()), [samples[k] for k in witnesses]


def _run(flat: Flat, names: Sequence[str], inputs: Inputs, answers: Mapping[Place, bool]) -> _Run:
    """Call `flat` once, with its decisions answered so and recorded."""
    mode = Decisions(answers, dict(zip(names, inputs, strict=True)))
    try:
        with quiet(), torch.no_grad(), symbolic(flat.model), mode:
            return _Run(flat.named(*inputs), None, mode.events, mode.lengths)
    except Exception as error:
        return _Run([], error, mode.events, mode.lengths)


def _refusal(place: Place, trials: Mapping[bool, Sequence[_Run]], ways: Mapping[bool, Sequence[int]]) -> str:
    both = all(ways.values())
    seen = "inputs go either way, and neither way" if both else "no way"
    return (
        f"the model decides by the value of a tensor ({place}), and a graph has one way: {seen} gives what eager "
        f"PyTorch gives on inputs that go the other way. {way_out(place.text)}"
    )


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


def _samples(prepared: Prepared, lengths: set[str]) -> tuple[list[Sample], list[Inputs]]:
    """Inputs to try: the traced ones; draws at two sizes; and the traced inputs with one of them made to be special.

    Beside them those with lengths that a bundle does not take: all of them 0, or one below the smallest that the
    example shows to be meant, 0 or 1.
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
    return [one for one in found if fits(one.inputs)], [one.inputs for one in found if not fits(one.inputs)]


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
