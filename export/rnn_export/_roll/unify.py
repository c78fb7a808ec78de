"""What like steps take, argument by argument, in one form: a loop's body.

A value is one of the same step, one that an earlier step made (a carry), one that is always the same, or one that each
step has of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

from .ir import Call, Carried, Count, Each, Place, Same, Unalike
from .reads import shapes, stem

Nodes = list[fx.Node | None]


@dataclass
class Loop:
    """Like steps, and what they take.

    Attributes:
        steps: the nodes of each step by position; None where the last step lacks one, which nothing needs.
        body: the call at each position, with forms in place of nodes; a node is what is the same in each step.
        carries: values, and those of the steps before the first; more than one for a lag above 1.
        each: for each per-step input the nodes that the steps take, which may be fewer than the steps.
    """

    steps: list[Nodes]
    body: list[Call] = field(default_factory=list)
    carries: list[tuple[Place, list[fx.Node]]] = field(default_factory=list)
    each: list[list[fx.Node]] = field(default_factory=list)

    @property
    def model_step(self) -> list[fx.Node]:
        """The nodes of a step that lacks none."""
        return [node for node in self.steps[len(self.steps) // 2] if node is not None]


def unified(numbers: Mapping[fx.Node, int], steps: list[Nodes]) -> Loop:
    """The loop whose steps these are.

    Args:
        numbers: equal for nodes that compute the same.
        steps: the nodes of each step by position.

    Raises:
        Unalike: they do not all do the same.
    """
    place = {node: (k, p) for k, step in enumerate(steps) for p, node in enumerate(step) if node is not None}
    unifier = _Unifier(numbers, place, Loop(steps))
    rows = [[node for node in column if node is not None] for column in zip(*steps, strict=True)]
    for row in rows:
        _require_one_shape(row)
    for row in rows:
        flat = [pytree.tree_flatten((node.args, dict(node.kwargs))) for node in row]
        if any(like != flat[0][1] for _, like in flat):
            raise Unalike("a step takes what all steps before it gave: a list grows from step to step", final=True)
        forms = [unifier.form(values) for values in zip(*(leaves for leaves, _ in flat), strict=True)]
        unifier.loop.body.append(Call(row[0].target, *pytree.tree_unflatten(forms, flat[0][1])))
    return unifier.loop


def _require_one_shape(row: Sequence[fx.Node]) -> None:
    first, second, *others = map(shapes, row)
    if any(shape != second for shape in others):
        raise Unalike("a step takes what all steps before it gave: a tensor grows from step to step", final=True)
    if first != second:
        raise Unalike("its first step is of another shape than the rest")


@dataclass
class _Unifier:
    numbers: Mapping[fx.Node, int]
    place: Mapping[fx.Node, tuple[int, int]]
    loop: Loop

    def form(self, values: Sequence[PyTree]) -> PyTree:
        """One form of what the steps have at one place among their arguments."""
        first = values[0]
        if all(isinstance(v, fx.Node) for v in values):
            return self._value(list(values))
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

    def _value(self, nodes: list[fx.Node]) -> Same | Carried | Each | fx.Node:
        stems = [stem(node) for node in nodes]
        own = [self.place.get(leaf) for leaf, _ in stems]
        if (last := own[-1]) is not None:
            lag = len(nodes) - 1 - last[0]
            place = Place(last[1], stems[-1][1])
            if lag < len(nodes) - 1 and all(
                at == (k - lag, place.position) and stems[k][1] == place.path for k, at in enumerate(own) if k >= lag
            ):
                if lag == 0:
                    return Same(place)
                if all(at is None for at in own[:lag]):
                    return self._carried(place, nodes[:lag])
        if any(at is not None for at in own):
            raise Unalike("what a step takes from the steps before it is not always as far back")
        if len({self.numbers[node] for node in nodes}) == 1:
            return nodes[0]
        for number, known in enumerate(self.loop.each):
            if self._alike(known, nodes):
                return Each(number)
        self.loop.each.append(nodes)
        return Each(len(self.loop.each) - 1)

    def _carried(self, place: Place, initial: list[fx.Node]) -> Carried:
        for number, (other, known) in enumerate(self.loop.carries):
            if other == place and self._alike(known, initial):
                return Carried(number)
        self.loop.carries.append((place, initial))
        return Carried(len(self.loop.carries) - 1)

    def _alike(self, a: Sequence[fx.Node], b: Sequence[fx.Node]) -> bool:
        return [self.numbers[n] for n in a] == [self.numbers[n] for n in b]


def _is_line(values: Sequence[float]) -> bool:
    factor = values[1] - values[0]
    return all(math.isclose(v, values[0] + factor * k, rel_tol=1e-12, abs_tol=1e-15) for k, v in enumerate(values))


def _rounded(value: float) -> float:
    """One over one over a whole number is that number."""
    return float(round(value)) if math.isclose(value, round(value), rel_tol=1e-12) else value
