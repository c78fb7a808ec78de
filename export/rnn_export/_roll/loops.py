"""The loops of an unrolled program: runs of like steps, and what each step takes from where.

The nodes of a program stand in the order in which the model's code ran, so a loop of n steps is a run of n like pieces.
A piece is compared by its operators, its plain arguments and the lines of code it comes from; then, argument by
argument, what the steps take is brought to one form: a value of the same step, one that an earlier step made (a carry),
one that is always the same, or one that each step has of its own.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten

VIRTUAL = {aten.select.int, aten.slice.Tensor, operator.getitem}
"""Reads: what they give is seen as a part of what they read, and not as a step's own work."""

FEWEST = 4
"""Like pieces in a row that are taken for a loop."""


class Unalike(Exception):
    """The pieces of a run are no steps of one loop; says why.

    Attributes:
        final: other lengths would show nothing else.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True)
class Same:
    """A value that this step made: its position in the step, and the reads on the way (`path`)."""

    position: int
    path: tuple[Any, ...]


@dataclass(frozen=True)
class Carried:
    """A value that the step `lag` steps before made."""

    position: int
    path: tuple[Any, ...]
    lag: int
    carry: int


@dataclass(frozen=True)
class Always:
    """A value from outside that is the same in each step."""

    node: fx.Node


@dataclass(frozen=True)
class Each:
    """A value from outside of which each step has its own: its number among the loop's."""

    number: int


@dataclass(frozen=True)
class Count:
    """A number that grows with the step, factor * step + start, or one over that."""

    factor: int | float
    start: int | float
    inverse: bool = False


@dataclass
class Loop:
    """Like steps, and what they take.

    Attributes:
        steps: the nodes of each step by position; None where the last step lacks one, which nothing needs.
        body: for each position (operator, arguments, keywords) with the forms above in place of nodes.
        carries: (position, path, initial values); those of a lag above 1 hold the values of the steps before the first.
        each: for each per-step input the nodes that the steps take, which may be fewer than the steps.
    """

    steps: list[list[fx.Node | None]]
    body: list[tuple[Any, Any, Any]] = field(default_factory=list)
    carries: list[tuple[int, tuple[Any, ...], tuple[fx.Node, ...]]] = field(default_factory=list)
    each: list[list[fx.Node]] = field(default_factory=list)

    @property
    def model_step(self) -> list[fx.Node]:
        """The nodes of a step that lacks none."""
        return [node for node in self.steps[len(self.steps) // 2] if node is not None]


def find(graph: fx.Graph, held: Collection[str], lengths: Sequence[int]) -> tuple[list[Loop], list[Unalike]]:
    """The loops of a graph in normal form, and why runs that look like loops are none.

    Args:
        graph: of the model unrolled at `length`.
        held: the names of its placeholders that hold weights and constants.
        lengths: what their numbers of steps follow.
    """
    return _Finder(graph, held, lengths).run()


class _Finder:
    def __init__(self, graph: fx.Graph, held: Collection[str], lengths: Sequence[int]) -> None:
        self.graph = graph
        self.lengths = lengths
        self.numbers = value_numbers(graph)
        self.tokens: dict[fx.Node, int] = {}
        seen: dict[Any, int] = {}
        self.core = [node for node in graph.nodes if is_work(node)]
        for node in self.core:
            self.tokens[node] = seen.setdefault(_token(node, held), len(seen))
        self.reasons: dict[str, Unalike] = {}

    def run(self) -> tuple[list[Loop], list[Unalike]]:
        loops: list[Loop] = []
        todo = [self.core]
        while todo:
            nodes = todo.pop()
            for chain, period in _runs([self.tokens[node] for node in nodes]):
                found = self._loop(nodes, chain, period)
                if found is not None:
                    loop, first, last = found
                    loops.append(loop)
                    todo += [nodes[:first], [n for n in nodes[first:last] if not self._in(loop, n)], nodes[last:]]
                    break
        return loops, list(self.reasons.values())

    def _in(self, loop: Loop, node: fx.Node) -> bool:
        return any(node in step for step in loop.steps)

    def _loop(self, nodes: list[fx.Node], run: range, period: int) -> tuple[Loop, int, int] | None:
        """A loop among `nodes` whose run of like tokens is `run`, and where in `nodes` it begins and ends."""
        for length in self.lengths:
            times, rest = divmod(len(run) // period, length)
            if times > 1 and rest == 0:
                # As many like pieces in each step, or as many loops one after another.
                whole = self._loop(nodes, run, times * period)
                return whole or self._loop(nodes, run[: length * period], period)
        chain = self._backward(nodes, list(run), period)
        for skip in range(min(2 * period, len(chain) - 3 * period) + 1):
            try:
                steps: list[list[fx.Node | None]] = [
                    [nodes[i] for i in chain[k : k + period]] for k in range(skip, len(chain), period)
                ]
                loop = self._unified(nodes, steps)
            except Unalike as error:
                if skip == 0:
                    self.reasons.setdefault(str(error), error)
                continue
            places = [nodes.index(n) for step in loop.steps for n in step if n is not None]
            return loop, min(places), max(places) + 1
        return None

    def _backward(self, nodes: list[fx.Node], chain: list[int], period: int) -> list[int]:
        """The run, and before it nodes of its first step that stand apart, since something else stood between."""
        body = {self.tokens[nodes[i]] for i in chain[:period]}
        at, skipped = chain[0] - 1, 0
        front: list[int] = []
        while at >= 0 and skipped <= _MOST_BETWEEN and len(front) < period:
            want = self.tokens[nodes[(front + chain)[period - 1]]]
            if self.tokens[nodes[at]] == want:
                front.insert(0, at)
                skipped = 0
            elif self.tokens[nodes[at]] in body:
                break
            else:
                skipped += 1
            at -= 1
        return front + chain

    def _unified(self, nodes: list[fx.Node], steps: list[list[fx.Node | None]]) -> Loop:
        period = len(steps[0])
        if len(steps[-1]) < period:
            steps = steps[:-1]
        if len(steps) < 3:
            raise Unalike("too few steps are alike")
        unifier = _Unifier(self.numbers, steps)
        unifier.require_one_shape()
        loop = unifier.loop()
        # The last step may lack nodes whose values nothing needs.
        last = self._last(nodes, loop)
        if last is not None:
            unifier = _Unifier(self.numbers, [*steps, last])
            unifier.require_one_shape()
            loop = unifier.loop()
        return loop

    def _last(self, nodes: list[fx.Node], loop: Loop) -> list[fx.Node | None] | None:
        """What there is of one more step, found by what it takes from the step before."""
        taken = {node for step in loop.steps for node in step}
        before = {node: p for p, node in enumerate(loop.steps[-1])}
        start = max((nodes.index(n) for n in loop.steps[-1] if n is not None), default=0) + 1
        candidates = [node for node in nodes[start:] if node not in taken]
        found: list[fx.Node | None] = []
        tokens = [self.tokens[node] for node in loop.model_step]
        for position, (_, args, kwargs) in enumerate(loop.body):
            here = {node: p for p, node in enumerate(found) if node is not None}
            match = None
            for node in candidates:
                if (
                    self.tokens[node] == tokens[position]
                    and node not in here
                    and self._follows(node, args, kwargs, before, here, loop)
                ):
                    match = node
                    break
            found.append(match)
        return found if any(found) else None

    def _follows(self, node: fx.Node, args: Any, kwargs: Any, before: Any, here: Any, loop: Loop) -> bool:
        for form, value in _pairs((args, kwargs), (node.args, node.kwargs)):
            if isinstance(form, Same | Carried):
                leaf, path = stem(value)
                own = before if isinstance(form, Carried) and form.lag == 1 else here
                if isinstance(form, Carried) and form.lag > 1:
                    step = loop.steps[len(loop.steps) - form.lag]
                    own = {n: p for p, n in enumerate(step)}
                if own.get(leaf) != form.position or path[: len(form.path)] != form.path:
                    return False
            elif isinstance(form, Always):
                if self.numbers[form.node] != self.numbers[value]:
                    return False
            elif isinstance(form, Each) and isinstance(value, fx.Node):
                leaf, _ = stem(value)
                if leaf in before or leaf in here or leaf in {n for step in loop.steps for n in step}:
                    return False
        return True


_MOST_BETWEEN = 40
"""Nodes that may stand in the middle of a loop's first step alone."""


def is_work(node: fx.Node) -> bool:
    """Whether a node computes something: no input, no read, no size."""
    value = node.meta.get("val")
    return node.op == "call_function" and node.target not in VIRTUAL and isinstance(value, Tensor | tuple | list)


def stem(node: fx.Node) -> tuple[fx.Node, tuple[Any, ...]]:
    """A node without the reads on top of it, and those reads, innermost first."""
    path: list[Any] = []
    while node.op == "call_function" and node.target in VIRTUAL:
        path.insert(0, (node.target, *node.args[1:]))
        node = node.args[0]  # type: ignore[assignment]
    return node, tuple(path)


def value_numbers(graph: fx.Graph) -> dict[fx.Node, int]:
    """Equal numbers for nodes that compute the same from the same."""
    numbers: dict[fx.Node, int] = {}
    seen: dict[Any, int] = {}
    for node in graph.nodes:
        key: Any = node
        if node.op == "call_function" and not (set(getattr(node.target, "tags", ())) & _RANDOM):
            shown = fx.node.map_arg((node.args, node.kwargs), lambda a: f"%{numbers[a]}")
            key = (str(node.target), repr(shown))
        numbers[node] = seen.setdefault(key, len(seen))
    return numbers


_RANDOM = {torch.Tag.nondeterministic_seeded}


def _token(node: fx.Node, held: Collection[str]) -> Any:
    def shown(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return value.name if value.name in held else "*"
        if isinstance(value, tuple | list):
            made = [shown(item) for item in value]
            # A list that grows from step to step is found, and refused by its name.
            return ["*", ...] if joins and set(map(str, made)) == {"*"} else made
        if isinstance(value, dict):
            return {key: shown(item) for key, item in value.items()}
        return "#" if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)

    joins = node.target in (aten.stack.default, aten.cat.default)
    return str(node.target), repr(shown((node.args, dict(node.kwargs)))), node.meta.get("stack_trace")


def _runs(tokens: Sequence[int]) -> Iterator[tuple[range, int]]:
    """Runs of like pieces, the longest first; of equal ones that with the shortest piece: (positions, period)."""
    found: list[tuple[int, int, int]] = []
    size = len(tokens)
    for period in range(1, size // FEWEST + 1):
        start = 0
        while start + period < size:
            end = start
            while end + period < size and tokens[end] == tokens[end + period]:
                end += 1
            if end - start >= (FEWEST - 1) * period:
                found.append((-(end + period - start), period, start))
            start = max(end, start) + 1
    for negative, period, start in sorted(found):
        yield range(start, start - negative), period


def _pairs(form: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(form, tuple | list):
        for a, b in zip(form, value, strict=True):
            yield from _pairs(a, b)
    elif isinstance(form, dict):
        for key in form:
            yield from _pairs(form[key], value[key])
    else:
        yield form, value


class _Unifier:
    """Brings the arguments of like steps to one form."""

    def __init__(self, numbers: dict[fx.Node, int], steps: list[list[fx.Node | None]]) -> None:
        self.numbers = numbers
        self.steps = steps
        self.place = {node: (k, p) for k, step in enumerate(steps) for p, node in enumerate(step) if node is not None}
        self.carries: list[tuple[int, tuple[Any, ...], tuple[fx.Node, ...]]] = []
        self.each: list[list[fx.Node]] = []

    def require_one_shape(self) -> None:
        for position in range(len(self.steps[0])):
            shapes = [_shapes(node) for step in self.steps if (node := step[position]) is not None]
            if any(shape != shapes[1] for shape in shapes[2:]):
                raise Unalike(
                    "a step takes what all steps before it gave: a tensor grows from step to step", final=True
                )
            if shapes[0] != shapes[1]:
                raise Unalike("its first step is of another shape than the rest")

    def loop(self) -> Loop:
        body = []
        for position in range(len(self.steps[0])):
            nodes = [step[position] for step in self.steps if step[position] is not None]
            first = nodes[0]
            assert first is not None
            args = self._form([node.args for node in nodes], top=True)  # type: ignore[union-attr]
            kwargs = self._form([dict(node.kwargs) for node in nodes], top=True)  # type: ignore[union-attr]
            body.append((first.target, args, kwargs))
        return Loop(self.steps, body, self.carries, self.each)

    def _form(self, values: list[Any], *, top: bool = False) -> Any:
        first = values[0]
        if isinstance(first, tuple | list):
            if any(not isinstance(v, tuple | list) or len(v) != len(first) for v in values):
                raise Unalike("a step takes what all steps before it gave: a list grows from step to step", final=True)
            made = [self._form([v[i] for v in values], top=top) for i in range(len(first))]
            return tuple(made) if isinstance(first, tuple) else made
        if isinstance(first, dict):
            if any(v.keys() != first.keys() for v in values):
                raise Unalike("steps call an operator with other arguments")
            return {key: self._form([v[key] for v in values], top=top) for key in first}
        if all(isinstance(v, fx.Node) for v in values):
            return self._value(values)
        if any(isinstance(v, fx.Node) for v in values):
            raise Unalike("a tensor at one step is a plain number at another")
        if all(type(v) is type(first) and v == first for v in values):
            return first
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            if _is_line(values):
                return Count(values[1] - values[0], values[0])
            if all(values) and _is_line(inverses := [1 / v for v in values]):
                return Count(_rounded(inverses[1] - inverses[0]), _rounded(inverses[0]), inverse=True)
        raise Unalike(f"its steps use different numbers ({', '.join(map(str, values[:4]))}, ...)")

    def _value(self, nodes: list[fx.Node]) -> Any:
        stems = [stem(node) for node in nodes]
        own = [self.place.get(leaf) for leaf, _ in stems]
        if own[-1] is not None:
            lag = len(nodes) - 1 - own[-1][0]
            position, path = own[-1][1], stems[-1][1]
            if lag < len(nodes) - 1 and all(
                at == (k - lag, position) and stems[k][1] == path for k, at in enumerate(own) if k >= lag
            ):
                if lag == 0:
                    return Same(position, path)
                if all(at is None for at in own[:lag]):
                    return self._carried(position, path, lag, tuple(nodes[:lag]))
        if any(at is not None for at in own):
            raise Unalike("what a step takes from the steps before it is not always as far back")
        if len({self.numbers[node] for node in nodes}) == 1:
            return Always(nodes[0])
        for number, known in enumerate(self.each):
            if [self.numbers[n] for n in known] == [self.numbers[n] for n in nodes]:
                return Each(number)
        self.each.append(nodes)
        return Each(len(self.each) - 1)

    def _carried(self, position: int, path: tuple[Any, ...], lag: int, initial: tuple[fx.Node, ...]) -> Carried:
        key = (position, path, initial)
        for number, (p, q, known) in enumerate(self.carries):
            if (p, q) == (position, path) and [self.numbers[n] for n in known] == [self.numbers[n] for n in initial]:
                return Carried(position, path, lag, number)
        self.carries.append(key)
        return Carried(position, path, lag, len(self.carries) - 1)


def _is_line(values: Sequence[float]) -> bool:
    factor = values[1] - values[0]
    return all(math.isclose(v, values[0] + factor * k, rel_tol=1e-12, abs_tol=1e-15) for k, v in enumerate(values))


def _rounded(value: float) -> float:
    """One over one over a whole number is that number."""
    return float(round(value)) if math.isclose(value, round(value), rel_tol=1e-12) else value


def _shapes(node: fx.Node) -> list[str]:
    values = node.meta["val"]
    return [
        f"{tuple(map(str, v.shape))} {v.dtype}"
        for v in (values if isinstance(values, tuple | list) else [values])
        if isinstance(v, Tensor)
    ]
