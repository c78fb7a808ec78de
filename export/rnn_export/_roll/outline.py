"""An unrolled program as an outline that can be held against that of another length, and made one with it.

An outline is made of tuples and lists alone. Values are ("input", name), ("item", number), ("step", loop, position,
path, step) and ("read", operator, value, numbers...). Plain numbers may differ between two lengths; everything else has
to be equal.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from . import loops
from .loops import Always, Carried, Count, Each, Loop, Same, Unalike, aten

JOINS = {aten.stack.default, aten.cat.default}


@dataclass(frozen=True)
class Affine:
    """A number that follows the lengths: (the sum of factor * length, + offset) // divisor.

    Attributes:
        factors: (number of a length, factor), of which none is 0.
        offset: what does not follow.
        divisor: 1 in most cases; more where a loop goes through an axis in strides.
    """

    factors: tuple[tuple[int, int], ...]
    offset: int
    divisor: int = 1

    @classmethod
    def fit(cls, values: Sequence[int], points: Sequence[tuple[int, ...]]) -> Affine:
        """The rule that gives these values at these lengths.

        Raises:
            Unalike: there is none.
        """
        first = points[0]
        moved = {
            unit: [
                (point[unit], value) for point, value in zip(points, values, strict=True) if _alone(first, point, unit)
            ]
            for unit in range(len(first))
        }
        factors = []
        for unit, pairs in moved.items():
            (n, a), (m, b) = pairs[:2]
            factor, rest = divmod(b - a, m - n)
            if rest:
                break
            if factor:
                factors.append((unit, factor))
        else:
            offset = values[0] - sum(factor * first[unit] for unit, factor in factors)
            found = cls(tuple(factors), offset)
            if all(found.at(point) == value for point, value in zip(points, values, strict=True)):
                return found
        for unit, pairs in moved.items():
            for divisor in range(2, len(pairs) // 2 + 1):
                factor = pairs[divisor][1] - pairs[0][1]
                least = [divisor * value - factor * length for length, value in pairs]
                found = cls(((unit, factor),), max(least), divisor)
                if all(found.at(point) == value for point, value in zip(points, values, strict=True)):
                    return found
        shown = ", ".join(f"{value} at {'by'.join(map(str, p))}" for value, p in zip(values, points, strict=True))
        raise Unalike(f"a size follows the length by no plain rule ({shown})")

    def at(self, point: Sequence[int]) -> int:
        return (sum(factor * point[unit] for unit, factor in self.factors) + self.offset) // self.divisor


@dataclass(frozen=True)
class Quotient:
    """A number with a point: top / (length + offset), as t / T grows by 1 / T from step to step."""

    top: float
    unit: int
    offset: int

    @classmethod
    def fit(cls, values: Sequence[float], points: Sequence[tuple[int, ...]]) -> Quotient:
        """The rule that gives these values at these lengths.

        Raises:
            Unalike: there is none.
        """
        for unit, n in enumerate(points[0]):
            m, b = next((p[unit], v) for p, v in zip(points, values, strict=True) if p[unit] != n)
            if b == values[0]:
                continue
            offset = (b * m - values[0] * n) / (values[0] - b)
            found = cls(values[0] * (n + round(offset)), unit, round(offset))
            if all(
                math.isclose(found.top / (p[unit] + found.offset), v, rel_tol=1e-12)
                for p, v in zip(points, values, strict=True)
                if p[unit] + found.offset
            ):
                return found
        raise Unalike("a number follows the length by no plain rule")


def _alone(first: tuple[int, ...], point: tuple[int, ...], unit: int) -> bool:
    """Whether two points differ in one length at most."""
    return all(a == b for k, (a, b) in enumerate(zip(first, point, strict=True)) if k != unit)


@dataclass
class Outline:
    """A program of one length, and what of it the outline's items stand for.

    Attributes:
        items: ("call", operator, arguments, keywords) or ("loop", steps, body, carries, each).
        output: the values of the results.
        sources: the node or the loop of each item.
    """

    items: list[Any] = field(default_factory=list)
    output: Any = ()
    sources: list[fx.Node | Loop] = field(default_factory=list)


def outline(graph: fx.Graph, found: Sequence[Loop]) -> Outline:
    """The outline of a graph in normal form with its loops."""
    return _Outliner(graph, found).run()


class _Outliner:
    def __init__(self, graph: fx.Graph, found: Sequence[Loop]) -> None:
        self.graph = graph
        self.loop_of = {
            n: (loop, k, p) for loop in found for k, s in enumerate(loop.steps) for p, n in enumerate(s) if n
        }
        self.number: dict[int, int] = {}  # id of a loop or a node -> item
        self.result = Outline()

    def run(self) -> Outline:
        order = {node: k for k, node in enumerate(self.graph.nodes)}
        units: dict[int, Any] = {}
        for node in self.graph.nodes:
            if node.op != "call_function" or node.target in loops.VIRTUAL:
                continue
            unit = self.loop_of[node][0] if node in self.loop_of else node
            units.setdefault(id(unit), unit)
        needs = {
            key: {id(self._unit(leaf)) for leaf in _leaves(unit)} & set(units) - {key} for key, unit in units.items()
        }
        first = {
            key: order[unit] if isinstance(unit, fx.Node) else min(order[n] for n in unit.steps[0] if n)
            for key, unit in units.items()
        }
        waiting = sorted(units, key=lambda key: first[key])
        while waiting:
            ready = next((key for key in waiting if not needs[key]), None)
            if ready is None:
                raise Unalike("two loops take from each other in turns")
            waiting.remove(ready)
            for others in needs.values():
                others.discard(ready)
            self._add(units[ready])
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        results: Any = output.args[0]
        self.result.output = [self._value(v) if isinstance(v, fx.Node) else v for v in results]
        return self.result

    def _unit(self, leaf: fx.Node) -> Any:
        return self.loop_of[leaf][0] if leaf in self.loop_of else leaf

    def _add(self, unit: Any) -> None:
        self.number[id(unit)] = len(self.result.items)
        self.result.sources.append(unit)
        if isinstance(unit, fx.Node):
            given: Any = unit.args
            args: Any = [self._argument(a) for a in given]
            if unit.target in JOINS:
                args[0] = ("list", _segments([self._value(v) for v in given[0]]))
            self.result.items.append(("call", unit.target, args, self._argument(dict(unit.kwargs))))
            return
        body = [(target, self._form(args), self._form(kwargs)) for target, args, kwargs in unit.body]
        carries = [(p, path, [self._value(v) for v in initial]) for p, path, initial in unit.carries]
        each = [_segments([self._value(v) for v in nodes]) for nodes in unit.each]
        self.result.items.append(("loop", len(unit.steps), body, carries, each))

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self._value(value)
        if isinstance(value, tuple | list):
            return [self._argument(item) for item in value]
        if isinstance(value, dict):
            return {key: self._argument(item) for key, item in value.items()}
        return value

    def _form(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [self._form(item) for item in value]
        if isinstance(value, dict):
            return {key: self._form(item) for key, item in value.items()}
        if isinstance(value, Same):
            return ("same", value.position, value.path)
        if isinstance(value, Carried):
            return ("carried", value.carry)
        if isinstance(value, Always):
            return ("always", self._value(value.node))
        if isinstance(value, Each):
            return ("each", value.number)
        if isinstance(value, Count):
            return ("count", value.factor, value.start, value.inverse)
        return value

    def _value(self, node: fx.Node) -> Any:
        leaf, path = loops.stem(node)
        if leaf.op in ("placeholder", "get_attr"):
            value: Any = ("input", leaf.name)
        elif leaf in self.loop_of:
            loop, step, position = self.loop_of[leaf]
            own = [part for part in path if part[0] is operator.getitem]
            path = path[len(own) :]
            value = ("step", self.number[id(loop)], position, tuple(own), step)
        else:
            value = ("item", self.number[id(leaf)])
        for part in path:
            value = ("read", part[0], value, *(self._argument(item) for item in part[1:]))
        return value


def _leaves(unit: Any) -> list[fx.Node]:
    """What a node or a loop takes from outside itself."""
    if isinstance(unit, fx.Node):
        return [leaf for node in unit.all_input_nodes for leaf in _with_sizes(node)]
    inside = {node for step in unit.steps for node in step if node is not None}
    return [leaf for node in inside for a in node.all_input_nodes for leaf in _with_sizes(a) if leaf not in inside]


def _with_sizes(node: fx.Node) -> list[fx.Node]:
    leaf, path = loops.stem(node)
    found = [leaf]
    for part in path:
        found += [item for item in part[1:] if isinstance(item, fx.Node)]
    return found


def _segments(values: list[Any]) -> list[Any]:
    """A list in short: ("one", value), and ("run", first, moves, count) for values that go on in equal strides."""
    found: list[Any] = []
    at = 0
    while at < len(values):
        end, moves = at + 1, None
        while end < len(values):
            stride = _stride(values[end - 1], values[end])
            if stride is None or (moves is not None and stride != moves):
                break
            moves, end = stride, end + 1
        if end - at >= _SHORTEST_RUN:
            found.append(("run", values[at], moves, end - at))
            at = end
        else:
            found.append(("one", values[at]))
            at += 1
    return found


_SHORTEST_RUN = 3
_WIDEST = 16
"""The widest stride in which a loop goes."""


def _stride(a: Any, b: Any) -> Any:
    """By how much each number grows from `a` to `b`, which are alike apart from numbers; None where they are not."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        if len(a) != len(b):
            return None
        if a and a[0] in ("input", "item", "step") and a[:4] != b[:4]:
            return None  # another value, and not the same one of another step
        parts = [_stride(x, y) for x, y in zip(a, b, strict=True)]
        return None if any(part is None for part in parts) else tuple(parts)
    if _is_number(a) and _is_number(b):
        return b - a if abs(b - a) <= _WIDEST else None
    return () if type(a) is type(b) and a == b else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def fit(parts: Sequence[Any], points: Sequence[tuple[int, ...]]) -> Any:
    """One outline out of those of several lengths: numbers that differ follow the lengths.

    Args:
        parts: the same part of each outline.
        points: the lengths of each.

    Raises:
        Unalike: they differ in more than numbers, or a number follows the lengths by no plain rule.
    """
    first = parts[0]
    kind = tuple if isinstance(first, tuple) else list
    if isinstance(first, tuple | list):
        if any(not isinstance(part, tuple | list) or len(part) != len(first) for part in parts):
            raise Unalike(_OTHERS)
        return kind(fit(part, points) for part in zip(*parts, strict=True))
    if isinstance(first, dict):
        if any(not isinstance(part, dict) or part.keys() != first.keys() for part in parts):
            raise Unalike(_OTHERS)
        return {key: fit([part[key] for part in parts], points) for key in first}
    if all(type(part) is type(first) and part == first for part in parts):
        return first
    if all(map(_is_number, parts)):
        return Affine.fit(parts, points)
    if all(isinstance(part, float) and part for part in parts):
        return Quotient.fit(parts, points)
    raise Unalike(_OTHERS)


_OTHERS = "another length of the sequence gives other operations, apart from the number of steps"
