"""Settling what a model asks of its sizes: proven, tried on its other side, or made a limit; else the export ends.

The candidate (the captured program, or the rolled module) is run beside the eager model in float64 at sizes where an
answer turns. Where they agree there, the code behind that answer is surveyed in its turn, until nothing new is asked.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rnn_runtime._signature import LimitSpec

from .._errors import ExportError
from .counting import counted
from .ledger import OF_SIZES, Assumption, Kind
from .limits import allowed, larger, narrowed
from .prepare import Prepared
from .questions import DENSE, LARGEST, Edge, Question, edges, questions
from .survey import Survey, survey
from .trials import Outcome, Sizes, Trials, listed

SURVEYS = 40
"""The most surveys of one model."""
FEW = 8
"""A line that asks more than so many things, as `while t < T` does at each step, is not followed further: each answer
is tried, and what a loop counts itself has its own proof."""
NUMBERS = (*range(1, 65), *(int(64 * 1.5**k) for k in range(1, 10)), 4099)
"""Sizes at which the model's own code is given another plain number."""
LONGEST_SURVEYED = 128
"""The largest size of an axis in a survey of a model whose loops it unrolls."""


def settle_sizes(prepared: Prepared, trials: Trials, guards: Survey | None = None, *, surveys: bool = True) -> Prepared:
    """`prepared` with what it asks of its sizes settled: its limits, its assumptions and the sizes that were tried.

    Args:
        prepared: the model.
        trials: run what is to stand for it beside it.
        guards: what a trace took for granted, to be settled too.
        surveys: find out what the model asks; where its loops have been rolled, that was done before.

    Raises:
        ExportError: something is neither true, nor right on its other side, nor a limit; names the line.
    """
    settling = _Settling(prepared, trials)
    settled = settling.run(guards, surveys=surveys)
    for found in settling.surveys:
        _require_all(settled, found)
    return settled


def _require_all(prepared: Prepared, found: Survey) -> None:
    """See that what the model asks in a survey is settled: an assumption that got lost ends the export."""
    known = {(assumption.text, assumption.place) for assumption in prepared.assumptions}
    lost = [q for q in questions(found) if (q.text, q.place) not in known and (q.compares or q.place)]
    if lost:
        raise ExportError(
            f"the export lost sight of an assumption ({lost[0].text}: {lost[0].place or 'an operator of PyTorch'}), so "
            "the bundle could be wrong: please report this"
        )


class _Unexplained(Exception):
    """The candidate is not the model where the answer to a question is still that of the trace."""


class _Settling:
    def __init__(self, prepared: Prepared, trials: Trials) -> None:
        self._prepared = prepared
        self._trials = trials
        self._limits = dict(prepared.limits)
        self._others = [a for a in prepared.assumptions if a.kind not in OF_SIZES]
        self._asked = {(a.text, a.place): a for a in prepared.assumptions if a.kind in OF_SIZES}
        self._tried: dict[tuple[int, ...], dict[str, int]] = {}
        self._lines: Counter[str] = Counter()
        self.surveys: list[Survey] = []

    def run(self, guards: Survey | None, *, surveys: bool) -> Prepared:
        numbers: list[Question] = []
        # Two sizes of each axis: a list that is as long as an axis by chance is not so at the other.
        both = [dict(self._prepared.sizes), larger(self._prepared.limits, self._prepared.sizes)]
        todo = [sizes for sizes in both if sizes == both[0] or self._try(sizes) == "same"] if surveys else []
        surveyed: set[tuple[int, ...]] = set()
        while todo or guards is not None:
            if not todo and guards is not None:  # what the trace asked beyond what the model did
                more = self._answer(guards, numbers)
                todo, guards = more if surveys else [], None
                continue
            sizes = todo.pop(0)
            key = tuple(sizes.values())
            if key in surveyed or not self._within(sizes) or self._too_long(sizes):
                continue
            if len(surveyed) == SURVEYS:
                raise ExportError(
                    f"the model decides by its sizes in so many ways that {SURVEYS} surveys did not come to an end, "
                    f"the last at {listed(sizes)}: take decisions by size out of the model, or declare limits"
                )
            surveyed.add(key)
            todo += self._answer(self._survey(sizes), numbers)
        for number in numbers:
            if (number.text, number.place) not in self._asked:
                self._asked[number.text, number.place] = self._number(number)
        return replace(
            self._prepared,
            limits=self._limits,
            assumptions=(*self._others, *self._asked.values()),
            tried=(*self._prepared.tried, *self._tried.values()),
            counts=self._counts(),
        )

    def _counts(self) -> tuple[str, ...]:
        """The numbers that the model counts itself; all plain numbers where no survey had other sizes of all axes."""
        if not self.surveys:
            return self._prepared.counts
        few, *others = self.surveys
        more = [one for one in others if one.sizes == larger(self._prepared.limits, self._prepared.sizes)]
        return tuple(counted(few.numbers, more[0].numbers) if more else sorted(few.numbers))

    def _answer(self, found: Survey, numbers: list[Question]) -> list[dict[str, int]]:
        """Settle the comparisons of a run; numbers come last. Gives sizes at which the model may ask more."""
        beyond: list[dict[str, int]] = []
        texts = {text for text, _ in self._asked}  # of a trace, whose questions have no lines
        asked = [
            question
            for question in questions(found)
            if (question.text, question.place) not in self._asked and (question.place or question.text not in texts)
        ]
        numbers += [question for question in asked if not question.compares and question.place]
        compared = [question for question in asked if question.compares]
        # Where a size on this side fails too, the limit that another question comes to may explain it.
        for waiting in (compared, later := list[Question]()):
            for question in waiting:
                try:
                    self._asked[question.text, question.place], more = self._settle(question, found.sizes)
                    beyond += more
                except _Unexplained as error:
                    if waiting is later:
                        raise ExportError(str(error)) from None
                    later.append(question)
        return beyond

    def _survey(self, sizes: Sizes) -> Survey:
        found = survey(self._prepared, sizes)
        if found.error is not None:
            raise ExportError(
                f"what the model asks of its sizes cannot be found out at {dict(sizes)}: "
                f"{type(found.error).__name__}: {str(found.error).strip().partition(chr(10))[0]}"
            ) from found.error
        self.surveys.append(found)
        return found

    def _too_long(self, sizes: Sizes) -> bool:
        return self._trials.loops and max(sizes.values(), default=1) > LONGEST_SURVEYED

    def _within(self, sizes: Sizes) -> bool:
        return allowed(self._limits, sizes)

    def _bounds(self, axis: str) -> tuple[int, int]:
        limit = self._limits.get(axis)
        return (limit.min, limit.max or LARGEST) if limit is not None else (1, LARGEST)

    def _settle(self, question: Question, sizes: dict[str, int]) -> tuple[Assumption, list[dict[str, int]]]:
        """How a comparison is settled, and sizes on its other side at which the model may ask more."""
        if question.proven:
            return self._assumption(question, "proven"), []
        self._lines[question.place] += 1
        turns = edges(question, sizes, self._bounds)
        if not turns:
            return self._assumption(question, "tried", f"no size that was looked at up to {LARGEST} turns it"), []
        how: list[str] = []
        beyond: list[dict[str, int]] = []
        limited = False
        for turn in turns:
            around = _around(turn, turns)
            first = self._first_asked(question, turn, sizes)
            for size in dict.fromkeys([*around, *([first] if first is not None else [])]):
                there = {**sizes, turn.axis: size}
                if not self._within(there):
                    limited = True
                    continue
                outcome = self._try(there)
                if outcome == "same":
                    how.append(f"{turn.axis}={size}")
                    if size in (turn.outside, first) and question.own and self._lines[question.place] <= FEW:
                        beyond.append(there)
                elif size == turn.inside and outcome == "different":
                    raise _Unexplained(self._unlike(question, there))
                elif outcome == "refused":
                    how.append(f"eager PyTorch takes no {turn.axis}={size}")
                    limited |= self._refused(question, turn, sizes)
                elif size != turn.inside:
                    self._limit(question, turn, size, sizes)
                    limited = True
        settled = "limited" if limited else "tried"
        said = "; ".join(str(limit) for limit in map(self._said, question.axes) if limit) if limited else ", ".join(how)
        return replace(self._assumption(question, "tried", said), settled=settled), beyond  # type: ignore[arg-type]

    def _first_asked(self, question: Question, turn: Edge, sizes: Sizes) -> int | None:
        """The nearest size on the other side of an edge at which the model comes to ask, as it may at few there.

        In `if T % 16 == 0: if T > 512:` the second is asked at multiples of 16 alone: 513 and 514 show nothing.
        """
        least, largest = self._bounds(turn.axis)
        up = turn.outside > turn.inside
        row = range(turn.outside, min(largest, turn.outside + DENSE) + 1) if up else range(turn.outside, least - 1, -1)
        for size in row:
            there = {**sizes, turn.axis: size}
            if question.answer(there) not in (None, question.answer(sizes)) and question.asked(there):
                return size
        return None

    def _try(self, sizes: dict[str, int]) -> Outcome:
        outcome = self._trials.at(sizes)
        if outcome == "same":
            self._tried.setdefault(tuple(sizes.values()), sizes)
        return outcome

    def _refused(self, question: Question, turn: Edge, sizes: Sizes) -> bool:
        """Make a limit of where the eager model itself stops, if it does so just where the answer turns."""
        if len(question.axes) > 1 or self._trials.at({**sizes, turn.axis: turn.inside}) != "same":
            return False
        if self._trials.at({**sizes, turn.axis: turn.outside}) != "refused" or self._returns(question, turn, sizes):
            return False
        # The other axes may have to do with it: rows that come in as many as the batch has are refused for both.
        for other in (1, 2, 3):
            if self._trials.at(dict.fromkeys(sizes, other) | {turn.axis: turn.outside}) != "refused":
                return False
        self._set(turn, turn.inside, question)
        return True

    def _limit(self, question: Question, turn: Edge, size: int, sizes: Sizes) -> None:
        """Leave out `size`, at which the candidate is not the model."""
        last = max(
            (n for n in _around(turn, [turn]) if (n < size) == (turn.outside > turn.inside) and n != size),
            key=lambda n: abs(n - sizes[turn.axis]),
            default=turn.inside,
        )
        last = self._everywhere(question, turn, last, sizes)
        if not self._useful(question, turn, last, sizes):
            raise ExportError(self._unlike(question, {**sizes, turn.axis: size}))
        self._set(turn, last, question)

    def _everywhere(self, question: Question, turn: Edge, last: int, sizes: Sizes) -> int:
        """How far an axis may go whatever sizes the others have; nowhere where they have no limits."""
        up = turn.outside > turn.inside
        nowhere = 0 if up else LARGEST + 1
        ends = [self._bounds(axis) for axis in question.axes if axis != turn.axis]
        others = [axis for axis in question.axes if axis != turn.axis]
        for corner in itertools.product(*ends) if others else ():
            there = {**sizes, **dict(zip(others, corner, strict=True))}
            if max(corner, default=0) == LARGEST or question.answer(there) != question.answer(sizes):
                return nowhere
            for edge in edges(question, there, self._bounds):
                if edge.axis == turn.axis and (edge.outside > edge.inside) == up:
                    last = min(last, edge.inside) if up else max(last, edge.inside)
        return last

    def _returns(self, question: Question, turn: Edge, sizes: Sizes) -> bool:
        """Whether further on the answer is again what it is here, as that to a question about remainders."""
        row = range(turn.outside, turn.outside + DENSE) if turn.outside > turn.inside else range(turn.outside, 0, -1)
        return any(question.answer({**sizes, turn.axis: size}) == question.answer(sizes) for size in row)

    def _useful(self, question: Question, turn: Edge, last: int, sizes: Sizes) -> bool:
        """Whether a limit leaves the size that was traced; of what comes and goes with the size, twice or half that."""
        here = sizes[turn.axis]
        if turn.outside > turn.inside:
            return last >= (2 * here if self._returns(question, turn, sizes) else here)
        return last <= (here // 2 if self._returns(question, turn, sizes) else here)

    def _set(self, turn: Edge, last: int, question: Question) -> None:
        up, reason = turn.outside > turn.inside, question.place or question.text
        known = self._limits.get(turn.axis, LimitSpec(turn.axis))
        if up and (known.max is None or last < known.max):
            self._limits = narrowed(self._limits, LimitSpec(turn.axis, max=last, reason=reason))
        elif not up and last > known.min:
            self._limits = narrowed(self._limits, LimitSpec(turn.axis, min=last, reason=reason))
        limit = self._limits.get(turn.axis, known)
        if limit.max is not None and limit.max <= limit.min:
            raise ExportError(
                f"the model takes one size of {turn.axis!r} alone ({limit.min}): {reason}. Leave the axis out of `axes`"
            )

    def _said(self, axis: str) -> str:
        return f"{axis} {self._limits[axis].sizes}" if axis in self._limits else ""

    def _unlike(self, question: Question, sizes: Sizes) -> str:
        where = question.place or f"{question.text}, which PyTorch asks"
        return (
            f"the model does something else at {listed(sizes)} than at {listed(self._prepared.sizes)}: {where} "
            f"asks whether {question.text}, and a graph has one way. Take the decision by size out of the model, "
            "declare limits that leave the other side out, as in axes={...: {1: rnn_export.Axis('sequence', "
            "max=300)}}, or leave the axis out of `axes`"
        )

    def _number(self, question: Question) -> Assumption:
        """A size that became a plain number: right where it was another and the candidate still the model.

        What the model's own code makes of it nobody sees: it is limited to the sizes that were tried.
        """
        here = question.answer(self._prepared.sizes)
        others = [sizes for sizes in self._tried.values() if question.answer(sizes) not in (None, here)]
        for axis in question.axes:
            near = (self._prepared.sizes[axis] + 1, 2 * self._prepared.sizes[axis] + 1)
            sizes = NUMBERS if question.own else near
            for there in ({**self._prepared.sizes, axis: size} for size in sizes):
                if not self._within(there) or question.answer(there) == here:
                    continue
                # Files are held at what `_try` has tried, and need not be at so many sizes.
                outcome = self._try(there) if there[axis] in near else self._trials.at(there)
                if outcome == "different":
                    raise ExportError(self._plain(question))
                others += [there] if outcome == "same" else []
        if not others:
            raise ExportError(self._plain(question))
        if not question.own:
            return self._assumption(question, "tried", ", ".join(listed(sizes) for sizes in others[:3]))
        for axis in question.axes:
            self._set(Edge(axis, 1, 2), max(sizes[axis] for sizes in others), question)
        said = "; ".join(filter(None, map(self._said, question.axes)))
        return replace(self._assumption(question, "tried", said), settled="limited")

    def _plain(self, question: Question) -> str:
        return (
            f"the model makes a plain number of a size ({question.text}): {question.place}. Use sizes of tensors "
            "in tensor operations and plain arithmetic alone, or leave the axis out of `axes`"
        )

    def _assumption(self, question: Question, settled: Literal["proven", "tried"], how: str = "") -> Assumption:
        kind: Kind = "guard" if question.compares else "number"
        return Assumption(kind, question.text, question.place, settled, how, question.own)


def _around(turn: Edge, turns: Sequence[Edge]) -> list[int]:
    """The sizes to try about an edge: both sides of it, one further, and some way on, where the answer is the same."""
    sign = 1 if turn.outside > turn.inside else -1
    next_ = [t.inside for t in turns if t.axis == turn.axis and (t.inside - turn.outside) * sign > 0]
    far = 2 * turn.outside + 1 if sign > 0 else turn.outside // 2
    sizes = [turn.inside, turn.outside, turn.outside + sign, far]
    last = min(next_, key=lambda n: abs(n - turn.outside)) if next_ else None
    return list(
        dict.fromkeys(n for n in sizes if n >= 1 and (last is None or n == turn.inside or (last - n) * sign >= 0))
    )
