"""Settling what a model asks of its sizes: proven, tried on its other side, or made a limit; else the export ends.

The candidate (the captured program, or the rolled module) is run beside the eager model in float64 at sizes where an
answer turns. Where they agree there, the code behind that answer is surveyed in its turn, until nothing new is asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from rnn_runtime._report import compare, scale
from rnn_runtime._signature import LimitSpec

from .._equal import all_equal
from .._errors import ExportError
from .._quiet import quiet
from .ledger import Assumption, Kind
from .module import copied, float64, wide_copy
from .prepare import Prepared
from .questions import DENSE, LARGEST, Edge, Question, edges, questions
from .survey import Survey, survey

TOLERANCE = 1e-6
"""Times the largest value where that is above 1. In float64 rounding stays far below, and a wrong step far above."""
ROUGHEST = 1e-2
"""The widest tolerance, where the model itself rounds to fewer digits."""
LONGEST = 20_000
"""The largest size of an axis that is run."""
LONGEST_LOOP = 5_000
"""The same where the model loops over an axis in Python."""
MOST_NUMBERS = 4_000_000
"""The most numbers in the inputs of one run."""
SURVEYS = 40
"""The most surveys of one model."""
LONGEST_SURVEYED = 128
"""The largest size of an axis in a survey of a model whose loops it unrolls."""

Sizes = Mapping[str, int]
Outcome = Literal["same", "refused", "different", "too large"]
"""What comes of sizes: the candidate gives what the eager model gives; the eager model itself takes no such input; the
candidate gives something else; or nobody can run them."""

Draw = Callable[[Sizes, int], list[Tensor]]
"""Inputs of given sizes, by a seed."""


def settle_sizes(
    prepared: Prepared, candidate: nn.Module, draws: Sequence[Draw], *, loops: bool, guards: Survey | None = None
) -> Prepared:
    """`prepared` with what it asks of its sizes settled: its limits, its assumptions and the sizes that were tried.

    Args:
        prepared: the model.
        candidate: what is to stand for it.
        draws: ways to draw inputs, of which the first that the eager model takes counts.
        loops: whether the model loops over an axis in Python.
        guards: what a trace took for granted, to be settled too; where the model's loops have been rolled, alone.

    Raises:
        ExportError: something is neither true, nor right on its other side, nor a limit; names the line.
    """
    trials = Trials(prepared, candidate, draws, loops=loops)
    surveys = guards is None or not loops
    settled = _Settling(prepared, trials, loops=loops).run(guards, surveys=surveys)
    if surveys:
        _require_all(settled)
    return settled


def _require_all(prepared: Prepared) -> None:
    """See that what the model asks at the traced sizes is settled: an assumption that got lost ends the export."""
    known = {assumption.text for assumption in prepared.assumptions}
    lost = [q for q in questions(survey(prepared, prepared.sizes)) if q.text not in known and (q.compares or q.place)]
    if lost:
        raise ExportError(
            f"the export lost sight of an assumption ({lost[0].text}: {lost[0].place or 'an operator of PyTorch'}), so "
            "the bundle could be wrong: please report this"
        )


class Trials:
    """Runs the candidate beside the eager model, each sizes once."""

    def __init__(self, prepared: Prepared, candidate: nn.Module, draws: Sequence[Draw], *, loops: bool) -> None:
        self._prepared = prepared
        with quiet():  # PyTorch warns of its own ways to copy a program
            self._model, self._candidate = wide_copy(prepared.flat), wide_copy(candidate)
        self._draws = draws
        self._longest = LONGEST_LOOP if loops else LONGEST
        self._tolerance = TOLERANCE
        self._known: dict[tuple[int, ...], Outcome] = {}
        self._calibrate()

    def _calibrate(self) -> None:
        """See that the candidate is the model at the traced sizes, and take a wider tolerance where the model rounds.

        A model that goes to bfloat16 on its way is as far off itself in float64 as in float32.
        """
        if self.at(self._prepared.sizes) != "different":
            return
        self._tolerance = min(ROUGHEST, 8 * self._own_error())
        self._known.clear()
        if self.at(self._prepared.sizes) == "different":
            raise ExportError(
                f"what was captured is not the model, already at {_listed(self._prepared.sizes)}: it may keep state "
                "between calls in a way that was not found, draw random numbers, or change its own parameters"
            )

    def _own_error(self) -> float:
        """How far eager PyTorch in the model's own precision is off, times the largest value where that is above 1."""
        inputs = self._draws[0](self._prepared.sizes, 0)
        with quiet(), torch.no_grad():
            narrow = copied(self._prepared.flat)(*(x.clone() for x in inputs))
            with float64():
                wide = self._model(*(x.double() if x.is_floating_point() else x.clone() for x in inputs))
        errors = [
            compare(a.to(b.dtype).numpy(), b.numpy(), 0.0).error / scale(b.numpy())
            for a, b in zip(narrow, wide, strict=True)
        ]
        return max((error for error in errors if math.isfinite(error)), default=0.0)

    def at(self, sizes: Sizes) -> Outcome:
        """What comes of these sizes."""
        key = tuple(sizes.values())
        if key not in self._known:
            self._known[key] = self._try(sizes) if self._runs(sizes) else "too large"
        return self._known[key]

    def _runs(self, sizes: Sizes) -> bool:
        numbers = sum(
            _product(sizes[axes[dim]] if dim in axes else size for dim, size in enumerate(tensor.shape))
            for tensor, axes in zip(self._prepared.traced, self._axes(), strict=True)
        )
        return max(sizes.values(), default=1) <= self._longest and numbers <= MOST_NUMBERS

    def _axes(self) -> list[Mapping[int, str]]:
        return [self._prepared.axes[name] for name in self._prepared.names]

    def _try(self, sizes: Sizes) -> Outcome:
        with quiet(), torch.no_grad(), float64():
            for seed in range(4):
                for draw in self._draws:
                    inputs = [x.double() if x.is_floating_point() else x for x in draw(sizes, seed)]
                    try:
                        want = self._model(*(x.clone() for x in inputs))
                    except Exception:  # whatever the model raises, it takes no such input
                        continue
                    try:
                        got = self._candidate(*(x.clone() for x in inputs))
                    except Exception:
                        return "different"
                    return "same" if all_equal(got, want, self._tolerance) else "different"
        return "refused"


def _product(sizes: object) -> int:
    result = 1
    for size in sizes:  # type: ignore[attr-defined]
        result *= size
    return result


class _Unexplained(Exception):
    """The candidate is not the model where the answer to a question is still that of the trace."""


class _Settling:
    def __init__(self, prepared: Prepared, trials: Trials, *, loops: bool) -> None:
        self._prepared = prepared
        self._loops = loops
        self._trials = trials
        self._limits = dict(prepared.limits)
        self._asked = {assumption.text: assumption for assumption in prepared.assumptions}
        self._tried: dict[tuple[int, ...], dict[str, int]] = {}

    def run(self, guards: Survey | None, *, surveys: bool) -> Prepared:
        numbers: list[Question] = []
        todo = [dict(self._prepared.sizes)] if surveys else []
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
                break
            surveyed.add(key)
            todo += self._answer(self._survey(sizes), numbers)
        for number in numbers:
            if number.text not in self._asked:
                self._asked[number.text] = self._number(number)
        return replace(
            self._prepared,
            limits=self._limits,
            assumptions=tuple(self._asked.values()),
            tried=(*self._prepared.tried, *self._tried.values()),
        )

    def _answer(self, found: Survey, numbers: list[Question]) -> list[dict[str, int]]:
        """Settle the comparisons of a run; numbers come last. Gives sizes at which the model may ask more."""
        beyond: list[dict[str, int]] = []
        asked = [question for question in questions(found) if question.text not in self._asked]
        numbers += [question for question in asked if not question.compares and question.place]
        compared = [question for question in asked if question.compares]
        # Where a size on this side fails too, the limit that another question comes to may explain it.
        for waiting in (compared, later := list[Question]()):
            for question in waiting:
                try:
                    self._asked[question.text], more = self._settle(question, found.sizes)
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
        return found

    def _too_long(self, sizes: Sizes) -> bool:
        return self._loops and max(sizes.values(), default=1) > LONGEST_SURVEYED

    def _within(self, sizes: Sizes) -> bool:
        return all(limit.allows(sizes[axis]) for axis, limit in self._limits.items() if axis in sizes)

    def _bounds(self, axis: str) -> tuple[int, int]:
        limit = self._limits.get(axis)
        return (limit.min, limit.max or LARGEST) if limit is not None else (1, LARGEST)

    def _settle(self, question: Question, sizes: dict[str, int]) -> tuple[Assumption, list[dict[str, int]]]:
        """How a comparison is settled, and sizes on its other side at which the model may ask more."""
        if question.proven:
            return self._assumption(question, "proven"), []
        turns = edges(question, sizes, self._bounds)
        if not turns:
            return self._assumption(question, "proven", f"no size up to {LARGEST} turns it"), []
        how: list[str] = []
        beyond: list[dict[str, int]] = []
        limited = False
        for turn in turns:
            for size in _around(turn, turns):
                there = {**sizes, turn.axis: size}
                if not self._within(there):
                    limited = True
                    continue
                outcome = self._try(there)
                if outcome == "same":
                    how.append(f"{turn.axis}={size}")
                    if size == turn.outside and question.own:
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
        before = self._limits.get(turn.axis, LimitSpec(turn.axis))
        if turn.outside > turn.inside:
            if before.max is None or last < before.max:
                self._limits[turn.axis] = replace(before, max=last, reason=self._reason(before, question))
        elif last > before.min:
            self._limits[turn.axis] = replace(before, min=last, reason=self._reason(before, question))
        limit = self._limits[turn.axis]
        if limit.max is not None and limit.max <= limit.min:
            raise ExportError(
                f"the model takes one size of {turn.axis!r} alone ({limit.min}): {question.place or question.text}. "
                "Leave the axis out of `axes`"
            )

    def _reason(self, before: LimitSpec, question: Question) -> str:
        reason = question.place or question.text
        return f"{before.reason}; {reason}" if before.reason and reason not in before.reason else reason

    def _said(self, axis: str) -> str:
        limit = self._limits.get(axis)
        if limit is None:
            return ""
        return f"{axis} from {limit.min}" + (f" to {limit.max}" if limit.max is not None else "")

    def _unlike(self, question: Question, sizes: Sizes) -> str:
        where = question.place or f"{question.text}, which PyTorch asks"
        return (
            f"the model does something else at {_listed(sizes)} than at {_listed(self._prepared.sizes)}: {where} "
            f"asks whether {question.text}, and a graph has one way. Take the decision by size out of the model, "
            "declare limits that leave the other side out, as in axes={...: {1: rnn_export.Axis('sequence', "
            "max=300)}}, or leave the axis out of `axes`"
        )

    def _number(self, question: Question) -> Assumption:
        """A size that became a plain number: right where it was another and the candidate still the model."""
        here = question.answer(self._prepared.sizes)
        others = [sizes for sizes in self._tried.values() if question.answer(sizes) not in (None, here)]
        for axis in question.axes if not others else ():
            for size in (2 * self._prepared.sizes[axis] + 1, self._prepared.sizes[axis] + 1):
                there = {**self._prepared.sizes, axis: size}
                if self._within(there) and question.answer(there) != here and self._try(there) == "same":
                    others.append(there)
        if not others:
            raise ExportError(
                f"the model makes a plain number of a size ({question.text}): {question.place}. Use sizes of tensors "
                "in tensor operations and plain arithmetic alone, or leave the axis out of `axes`"
            )
        return self._assumption(question, "tried", ", ".join(_listed(sizes) for sizes in others[:3]))

    def _assumption(self, question: Question, settled: Literal["proven", "tried"], how: str = "") -> Assumption:
        kind: Kind = "guard" if question.compares else "number"
        return Assumption(kind, question.text, question.place, settled, how)


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


def _listed(sizes: Sizes) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items())
