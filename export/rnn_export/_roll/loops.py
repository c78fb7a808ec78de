"""The loops of an unrolled program: runs of like steps.

The nodes of a program stand in the order in which the model's code ran, so a loop of n steps is a run of n like pieces.
A piece is compared by its operators, its plain arguments and the lines of code it comes from; `unify` then tells what
its steps take from where.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx
from torch.utils import _pytree as pytree

from .ir import Call, Carried, Each, Same, Unalike, is_form
from .reads import is_work, stem, token, value_numbers
from .unify import Loop, Nodes, unified

__all__ = ["Loop", "Unalike", "find"]

FEWEST = 4
"""Like pieces in a row that are taken for a loop."""


def find(graph: fx.Graph, held: Collection[str], lengths: Sequence[int]) -> tuple[list[Loop], list[Unalike]]:
    """The loops of a graph in normal form, and why runs that look like loops are none.

    Args:
        graph: of the model unrolled at `lengths`.
        held: the names of its placeholders that hold weights and constants.
        lengths: what their numbers of steps follow.
    """
    core = [node for node in graph.nodes if is_work(node)]
    seen: dict[object, int] = {}
    tokens = {node: seen.setdefault(token(node, held), len(seen)) for node in core}
    finder = _Finder(lengths, value_numbers(graph), tokens)
    loops: list[Loop] = []
    todo = [core]
    while todo:
        nodes = todo.pop()
        for chain, period in _runs([tokens[node] for node in nodes]):
            found = finder.loop(nodes, chain, period)
            if found is not None:
                loop, first, last = found
                loops.append(loop)
                taken = {node for step in loop.steps for node in step}
                todo += [nodes[:first], [n for n in nodes[first:last] if n not in taken], nodes[last:]]
                break
    return loops, list(finder.reasons.values())


@dataclass
class _Finder:
    lengths: Sequence[int]
    numbers: Mapping[fx.Node, int]
    tokens: Mapping[fx.Node, int]
    reasons: dict[str, Unalike] = field(default_factory=dict)

    def loop(self, nodes: list[fx.Node], run: range, period: int) -> tuple[Loop, int, int] | None:
        """A loop among `nodes` whose run of like tokens is `run`, and where in `nodes` it begins and ends."""
        for length in self.lengths:
            times, rest = divmod(len(run) // period, length)
            if times > 1 and rest == 0:
                # As many like pieces in each step, or as many loops one after another.
                whole = self.loop(nodes, run, times * period)
                return whole or self.loop(nodes, run[: length * period], period)
        chain = self._backward(nodes, list(run), period)
        for skip in range(min(2 * period, len(chain) - 3 * period) + 1):
            try:
                steps: list[Nodes] = [
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

    def _unified(self, nodes: list[fx.Node], steps: list[Nodes]) -> Loop:
        if len(steps[-1]) < len(steps[0]):
            steps = steps[:-1]
        if len(steps) < 3:
            raise Unalike("too few steps are alike")
        loop = unified(self.numbers, steps)
        # The last step may lack nodes whose values nothing needs.
        last = self._last(nodes, loop)
        return loop if last is None else unified(self.numbers, [*steps, last])

    def _last(self, nodes: list[fx.Node], loop: Loop) -> Nodes | None:
        """What there is of one more step, found by what it takes from the step before."""
        taken = {node for step in loop.steps for node in step}
        start = max((nodes.index(n) for n in loop.steps[-1] if n is not None), default=0) + 1
        candidates = [node for node in nodes[start:] if node not in taken]
        found: Nodes = []
        for work, model in zip(loop.body, loop.model_step, strict=True):
            here = {node: p for p, node in enumerate(found) if node is not None}
            likely = (node for node in candidates if self.tokens[node] == self.tokens[model] and node not in here)
            found.append(next((node for node in likely if self._follows(node, work, here, loop)), None))
        return found if any(found) else None

    def _follows(self, node: fx.Node, work: Call, here: dict[fx.Node, int], loop: Loop) -> bool:
        """Whether a node takes what a body's call does, `here` being what is known of the same step."""
        made = {other for step in loop.steps for other in step} | set(here)
        taken = pytree.tree_leaves((work.args, work.kwargs), is_leaf=is_form)
        for form, value in zip(taken, pytree.tree_leaves((node.args, dict(node.kwargs))), strict=True):
            match form:
                case Same((position, path)):
                    leaf, own = stem(value)
                    if here.get(leaf) != position or own[: len(path)] != path:
                        return False
                case Carried(number):
                    (position, path), initial = loop.carries[number]
                    leaf, own = stem(value)
                    if loop.steps[-len(initial)][position] is not leaf or own[: len(path)] != path:
                        return False
                case fx.Node():
                    if self.numbers[form] != self.numbers[value]:
                        return False
                case Each() if isinstance(value, fx.Node) and stem(value)[0] in made:
                    return False
        return True


_MOST_BETWEEN = 40
"""Nodes that may stand in the middle of a loop's first step alone."""


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
