"""An unrolled program and its loops as a loop program, and one of any length out of those of several."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import networkx
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

from . import numbers
from .ir import Call, Carry, Input, Join, Made, Moving, OfStep, Place, Program, Read, Repeat, Row, Run, Unalike, Value
from .reads import JOINS, VIRTUAL, stem
from .unify import Loop

Unit = fx.Node | int
"""What becomes an item: a node, or a loop by its number."""


def outline(graph: fx.Graph, found: Sequence[Loop]) -> Program:
    """The program of a graph in normal form with its loops.

    Raises:
        Unalike: two loops take from each other in turns.
    """
    places = {
        n: (k, s, p)
        for k, loop in enumerate(found)
        for s, step in enumerate(loop.steps)
        for p, n in enumerate(step)
        if n is not None
    }
    order = _order(graph, found, places)
    writer = _Writer(places, {unit: k for k, unit in enumerate(order)})
    items = tuple(writer.call(unit) if isinstance(unit, fx.Node) else writer.repeat(found[unit]) for unit in order)
    sources = tuple(unit if isinstance(unit, fx.Node) else found[unit] for unit in order)
    return Program(items, writer.tree(list(graph.output_node().args[0])), sources)  # type: ignore[arg-type]


def _order(graph: fx.Graph, found: Sequence[Loop], places: Mapping[fx.Node, tuple[int, int, int]]) -> list[Unit]:
    """Nodes and loops so that each comes after what it takes, and else as the model's code has them."""

    def unit_of(node: fx.Node) -> Unit:
        return places[node][0] if node in places else node

    needs: networkx.DiGraph[Unit] = networkx.DiGraph()
    first: dict[Unit, int] = {}
    for k, node in enumerate(graph.nodes):
        if node.op == "call_function" and node.target not in VIRTUAL:
            unit = unit_of(node)
            begins = node not in places or places[node][1] == 0
            first[unit] = min(first.get(unit, k), k) if begins else first.get(unit, len(graph.nodes))
            needs.add_node(unit)
    for node in graph.nodes:
        if (unit := unit_of(node)) in first:
            leaves = {unit_of(leaf) for given in node.all_input_nodes for leaf in _leaves(given)}
            needs.add_edges_from((leaf, unit) for leaf in leaves if leaf in first and leaf != unit)
    try:
        return list(networkx.lexicographical_topological_sort(needs, key=first.__getitem__))
    except networkx.NetworkXUnfeasible:
        raise Unalike("two loops take from each other in turns") from None


def _leaves(node: fx.Node) -> list[fx.Node]:
    """What a value is read of, and the sizes that it is read by."""
    leaf, path = stem(node)
    return [leaf, *(item for part in path for item in part.args if isinstance(item, fx.Node))]


@dataclass
class _Writer:
    places: Mapping[fx.Node, tuple[int, int, int]]
    number: Mapping[Unit, int]

    def call(self, node: fx.Node) -> Call | Join:
        args, kwargs = self.tree(list(node.args)), self.tree(dict(node.kwargs))
        if node.target in JOINS:
            return Join(node.target, in_short(args[0]), args[1] if len(args) > 1 else kwargs.get("dim", 0))
        return Call(node.target, args, kwargs)

    def repeat(self, loop: Loop) -> Repeat:
        return Repeat(
            len(loop.steps),
            tuple(Call(work.target, self.tree(list(work.args)), self.tree(work.kwargs)) for work in loop.body),
            tuple(Carry(place, tuple(map(self.value, initial))) for place, initial in loop.carries),
            tuple(in_short([self.value(node) for node in nodes]) for nodes in loop.each),
        )

    def tree(self, given: PyTree) -> PyTree:
        """Arguments with values in the place of nodes."""
        return pytree.tree_map(lambda leaf: self.value(leaf) if isinstance(leaf, fx.Node) else leaf, given)

    def value(self, node: fx.Node) -> Value:
        leaf, path = stem(node)
        value: Value
        if leaf.op in ("placeholder", "get_attr"):
            value = Input(leaf.name)
        elif leaf in self.places:
            loop, step, position = self.places[leaf]
            own = tuple(part for part in path if part.target is operator.getitem)
            path = path[len(own) :]
            value = OfStep(self.number[loop], Place(position, own), step)
        else:
            value = Made(self.number[leaf])
        for part in path:
            value = Read(part.target, value, self.tree(part.args))
        return value


_MOST_TURNS = 4
_SHORTEST_RUN = 3
_WIDEST = 16
"""The widest stride in which a loop goes."""


def in_short(values: Sequence[Value]) -> Row:
    """A row with runs in the place of values that go on in equal strides, by themselves or in turn."""
    found: list[Value | Run] = []
    while values:
        run = _run(values)
        found.append(run or values[0])
        values = values[len(run.values) * int(run.count) if run else 1 :]
    return tuple(found)


def _run(values: Sequence[Value]) -> Run | None:
    """The run at the front of a row."""
    for period in range(1, min(_MOST_TURNS, len(values) // _SHORTEST_RUN) + 1):
        rows = [_moving(values[k::period]) for k in range(period)]
        count = min(count for _, count in rows)
        if count >= _SHORTEST_RUN:
            return Run(tuple(value for value, _ in rows), count)
    return None


def _moving(values: Sequence[Value]) -> tuple[Value, int]:
    """The first value with the numbers that move in those after it, and how many of them go on so."""
    moving = _between(values[0], values[1])
    if moving is None:
        return values[0], 1
    return moving, next((k for k, value in enumerate(values) if _at(moving, k) != value), len(values))


def _between(a: Value, b: Value) -> Value | None:
    """`a` with `Moving` for each number that is another in `b`; None where they differ in more."""
    (left, like), (right, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    if like != other:
        return None
    made = []
    for x, y in zip(left, right, strict=True):
        if type(x) is type(y) and x == y:
            made.append(x)
        elif type(x) is type(y) is int and abs(y - x) <= _WIDEST:
            made.append(Moving(x, y - x))
        else:
            return None
    found: Value = pytree.tree_unflatten(made, like)
    return found


def _at(value: Value, k: int) -> Value:
    """The value of a run at a place."""
    found: Value = pytree.tree_map(lambda x: x.start + k * x.stride if isinstance(x, Moving) else x, value)
    return found


def fit(programs: Sequence[Program], points: Sequence[numbers.Point]) -> Program:
    """One program out of those of several lengths: numbers that differ follow the lengths.

    Args:
        programs: one for each point.
        points: the lengths of each.

    Raises:
        Unalike: they differ in more than numbers, or a number follows the lengths by no plain rule.
    """
    flat = [pytree.tree_flatten(replace(program, sources=())) for program in programs]
    if any(like != flat[0][1] for _, like in flat):
        raise Unalike(_OTHERS)
    fitted: Program = pytree.tree_unflatten(
        [_fit(row, points) for row in zip(*(leaves for leaves, _ in flat), strict=True)], flat[0][1]
    )
    return replace(fitted, sources=programs[0].sources)


def _fit(row: Sequence[PyTree], points: Sequence[numbers.Point]) -> PyTree:
    first = row[0]
    if all(type(one) is type(first) and one == first for one in row):
        return first
    if all(type(one) is int for one in row):
        return numbers.whole(row, points)
    if all(isinstance(one, float) and one for one in row):
        return numbers.part(row, points)
    if all(isinstance(one, Moving) and one.stride == first.stride for one in row):
        return replace(first, start=_fit([one.start for one in row], points))
    raise Unalike(_OTHERS)


_OTHERS = "another length of the sequence gives other operations, apart from the number of steps"
