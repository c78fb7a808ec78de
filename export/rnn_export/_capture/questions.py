"""What a model asks of its sizes, as functions of axes, and the sizes at which an answer turns."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from .survey import Record, Survey

DENSE = 4096
"""Up to this size each one is looked at."""
LARGEST = 2**20
"""The largest size that is looked at; from `DENSE` on each third as large again, and then where exactly it turns."""

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Question:
    """One thing that is asked of sizes.

    Attributes:
        text: the expression in the names of axes.
        place: the line that asks; "" where it is not the user's.
        axes: those that the answer depends on.
        answer: the answer at given sizes: a truth, or a number; None at sizes at which nobody asks.
        compares: whether it is a comparison.
        own: whether the user's code asked itself.
        proven: whether the answer is the same at all sizes.
        before: what the run asked before this outside of loops, and what it was answered: elsewhere another answer
            may lead past this question.
    """

    text: str
    place: str
    axes: tuple[str, ...]
    answer: Callable[[Sizes], Any]
    compares: bool
    own: bool
    proven: bool
    before: tuple[tuple[Callable[[Sizes], Any], bool], ...] = ()

    def asked(self, sizes: Sizes) -> bool:
        """Whether what comes before is answered at these sizes as in the run, so that the model comes to ask this."""
        try:
            return all(bool(answer(sizes)) is was for answer, was in self.before)
        except (ZeroDivisionError, OverflowError, ValueError):
            return False


@dataclass(frozen=True)
class Edge:
    """Two neighbouring sizes of an axis between which an answer turns.

    Attributes:
        axis: its name.
        inside: the one on the side of the run that asked.
        outside: the other one.
    """

    axis: str
    inside: int
    outside: int


def questions(found: Survey) -> list[Question]:
    """What a run asked, each thing once; of what each step of a loop asks, what the first and the last ones do."""
    asked: dict[tuple[str, str], Question] = {}
    before: dict[str, tuple[Callable[[Sizes], Any], bool]] = {}
    names = {symbol: sympy.Symbol(axis, integer=True, positive=True) for axis, symbol in found.axes.items()}
    for record in found.records:
        for expression, index, count in _at_steps(record.expression, found.counts):
            named = expression.xreplace(names)
            axes = tuple(sorted(symbol.name for symbol in named.free_symbols))
            text = str(named)
            key = (text, record.place)  # a line behind another condition asks anew
            if not axes or key in asked:
                continue
            there = (index.xreplace(names), count.xreplace(names))
            if set(found.axes) >= set(axes):
                question = _question(text, record, axes, named, there)
                asked[key] = replace(question, before=tuple(before.values()))
                if (
                    question.compares
                    and not question.proven
                    and record.expression.free_symbols.isdisjoint(found.counts)
                ):
                    before[text] = (question.answer, bool(record.value))
    return list(asked.values())


def _question(text: str, record: Record, axes: tuple[str, ...], expression: Any, there: Any) -> Question:
    value, step, steps = (_function(part) for part in (expression, *there))

    def answer(sizes: Sizes) -> Any:
        try:
            return value(sizes) if 0 <= step(sizes) < steps(sizes) else None
        except (ZeroDivisionError, OverflowError, ValueError):
            return None  # Python itself fails there, so the model does

    compares = isinstance(record.value, bool)
    return Question(text, record.place, axes, answer, compares, record.own, compares and _always(expression))


def _at_steps(expression: Any, counts: Mapping[Any, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """The expression at the first two and the last two steps of the loops it lies in; with the step, and their number.

    Of loops in one another the first and the last are taken together, and the step is that of the innermost.
    """
    own = [symbol for symbol in expression.free_symbols if symbol in counts]
    if not own:
        yield expression, sympy.Integer(0), sympy.Integer(1)
        return
    inner = max(own, key=list(counts).index)
    count = counts[inner]
    for index in (count - 1, count - 2, sympy.Integer(0), sympy.Integer(1)):
        for more, _, _ in _at_steps(expression.xreplace({inner: index}), counts):
            for number, _, _ in itertools.islice(_at_steps(count, counts), 4):
                for at, _, _ in itertools.islice(_at_steps(index, counts), 4):
                    yield more, at, number


def _function(expression: Any) -> Callable[[Sizes], Any]:
    code = compile(PythonPrinter().doprint(expression), "<question>", "eval")
    space = {
        "__builtins__": {},
        "math": math,
        "max": max,
        "min": min,
        "float": float,
        "int": int,
        "round": round,
        "abs": abs,
    }
    space |= {"torch": torch, "True": True, "False": False}

    def function(sizes: Sizes) -> Any:
        return eval(code, space, dict(sizes))  # made by SymPy from what the model asked

    return function


def _always(expression: Any) -> bool:
    """Whether SymPy proves a comparison to come out the same for all sizes of one and more."""
    if expression in (sympy.true, sympy.false):
        return True
    bounds = bound_sympy(expression, {symbol: ValueRanges(1, int_oo) for symbol in expression.free_symbols})
    return bool(bounds.is_singleton())


def edges(question: Question, sizes: Sizes, limits: Callable[[str], tuple[int, int]], most: int = 2) -> list[Edge]:
    """Where the answer turns, seen from `sizes` along each axis: the nearest ones on both sides, `most` of each.

    Args:
        question: what is asked.
        sizes: those of the run that asked.
        limits: the least and the largest size of an axis.
        most: how many on each side.
    """
    here = question.answer(sizes)
    found: list[Edge] = []
    for axis in question.axes:
        least, largest = limits(axis)
        for row in (_up(sizes[axis], largest, _named(question)), range(sizes[axis] - 1, least - 1, -1)):
            found += itertools.islice(_turns(question, sizes, axis, row, here), most)
    return found


def _up(start: int, largest: int, named: Collection[int]) -> Iterator[int]:
    """Sizes from `start` on: each one to `DENSE`, then every third as large again, and those about numbers named."""
    size, more = start + 1, sorted(named)
    while size <= largest:
        yield size
        step = size + (1 if size < DENSE else size // 3)
        yield from (number for number in more if size < number < min(step, largest + 1))
        size = step


def _named(question: Question) -> set[int]:
    """The numbers of a question beyond `DENSE` that a size may be, as it is asked and divided by each other."""
    found = {int(number) for number in re.findall(r"\d+", question.text)}
    near = found | {a // b for a in found for b in found if b}
    return {number + more for number in near if number >= DENSE for more in (-1, 0, 1)}


def _turns(question: Question, sizes: Sizes, axis: str, row: Any, here: Any) -> Iterator[Edge]:
    def differs(size: int) -> bool:
        answer = question.answer({**sizes, axis: size})
        return answer is not None and answer != here

    before, was = sizes[axis], False
    for size in row:
        now = differs(size)
        if now != was:
            a, b = before, size
            while abs(b - a) > 1:  # between large sizes not each one was looked at
                middle = (a + b) // 2
                a, b = (middle, b) if differs(middle) == was else (a, middle)
            if now:
                yield Edge(axis, a, b)
        before, was = size, now
