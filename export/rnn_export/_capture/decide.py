"""Which way a captured program goes where the model decides by the value of a tensor; proven on the eager model.

A way is general where it gives what eager PyTorch gives also on inputs that go the other way: a loop that resets the
state is right where nothing is to be reset. Each decision is forced either way, in float64, on inputs of which some go
the one way by themselves and some the other. What has no general way is refused, so that no bundle is ever silently
wrong on inputs that eager PyTorch treats in another way.
"""

from __future__ import annotations

import dis
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .._errors import ExportError
from .ledger import Assumption, Kind
from .limits import fitted
from .module import copied
from .prepare import Prepared
from .runs import Run, Runs, call
from .sample import Sampler
from .values import Place, way_out
from .witness import BESIDE, Changes, Sample, beside, distance, grown

ENOUGH = 6
"""Inputs of each way."""
PER_SIZE = 2
"""Inputs of each way at each of the largest sizes."""
FEW_LARGER = 3
PAIRS = 2
"""Of inputs of each way, the nearest, between which inputs beside the boundary are sought."""
LARGER, LARGEST = (330, 3), (4096, 9)
"""The size of one axis, and that of the others. What a way does may be seen at large sizes alone, as a cut at 100
is; and where no input like the example turns a decision, `mask.sum() > 5000` among them, larger ones do."""


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


def decide(prepared: Prepared) -> tuple[tuple[Decision, ...], list[Sample]]:
    """The decisions that the model makes, and inputs that go either way at each, to compare a bundle on.

    Raises:
        ExportError: a decision has no general way, or no inputs were found that go its other way; names the line.
    """
    first = [prepared.traced, Sampler(prepared.names, prepared.axes, prepared.traced).draw(prepared.sizes, seed=0)]
    runs = [call(copied(prepared.flat), prepared.names, [x.clone() for x in inputs], {}) for inputs in first]
    if not any(one.events for one in runs):
        return (), []
    trials = Runs(prepared, {name for one in runs for name in one.lengths})
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


def _settled(place: Place, trials: Runs, answers: Mapping[Place, bool]) -> tuple[Decision, list[int]]:
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


def _shown(trials: Runs, indices: Sequence[int]) -> list[int]:
    """Of the samples that go one way, the first, and one that lies beside the boundary."""
    near = [k for k in indices if trials.samples[k].how == BESIDE]
    return [indices[0], *near[-1:]]


def _search(place: Place, trials: Runs, depends: set[str]) -> None:
    """Add samples that go either way at a place, and some between them."""
    prepared = trials.prepared
    sampler = Sampler(prepared.names, prepared.axes, prepared.traced)
    numbers = {number for one in trials.natural for number in one.numbers}
    changes = Changes(sampler, depends, numbers)
    count = {way: len(found) for way, found in trials.ways(place).items()}

    def add(samples: Iterable[Sample], most: int) -> None:
        """Those that go the way of few, up to so many of each way."""
        had = {True: 0, False: 0}
        for sample in samples:
            if min(count.values()) >= ENOUGH or min(had.values()) >= most:
                return
            known = trials.tried(sample)
            went = known[1].goes(place) if known is not None else set()
            if any(count[way] < ENOUGH and had[way] < most for way in went):
                trials.add(sample, known)
                for way in went:
                    count[way] += 1
                    had[way] += 1

    add(changes.near(prepared.sizes, prepared.traced), ENOUGH)
    for sizes in fitted(prepared.limits, grown(prepared.sizes, *LARGER)):
        for sample in itertools.islice(changes.at(sizes), FEW_LARGER):  # whatever way they go
            trials.add(sample)
    if not all(trials.ways(place).values()):
        for sizes in fitted(prepared.limits, grown(prepared.sizes, *LARGEST)):
            add(changes.at(sizes), PER_SIZE)
    ways = trials.ways(place)
    only = {way: [k for k in ways[way] if k not in ways[not way]] for way in (True, False)}
    pairs = [(j, k) for j in only[True] for k in only[False] if trials.samples[j].sizes == trials.samples[k].sizes]

    def turned(sample: Sample) -> bool | None:
        known = trials.tried(sample)
        return None if known is None else False in known[1].goes(place)

    far = {(j, k): distance(trials.samples[j], trials.samples[k]) for j, k in pairs}
    for j, k in sorted(pairs, key=lambda pair: far[pair])[:PAIRS]:
        for sample in beside(trials.samples[j], trials.samples[k], turned):
            trials.add(sample)


def _checks(run: Run, place: Place) -> bool:
    """Whether a run ended with a `raise` or `assert` in the function that decides: the decision is a check."""
    trace = run.error.__traceback__ if run.error is not None else None
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    raised = dis.opname[code.co_code[trace.tb_lasti]] in ("RAISE_VARARGS", "RERAISE")
    return raised and (code.co_filename, code.co_qualname) == place.code[:2]
