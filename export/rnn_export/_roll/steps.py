"""The graph of one step of a scan: (states..., per-step values..., closure...) -> (next states..., outputs...)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sympy
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

from . import numbers
from .batched import Known
from .body import FILLS, Work, counts
from .emitter import Nodes
from .ir import Carried, Count, Each, Form, Place, Same, Unalike, changed, is_value
from .lengths import computed
from .rewrite import aten
from .values import EmittedLoop


def write_step(
    loop: EmittedLoop, positions: Sequence[int], carried: Sequence[int], outputs: Sequence[Place]
) -> tuple[fx.GraphModule, list[fx.Node], list[fx.Node]]:
    """The graph of some works.

    Args:
        loop: has the works.
        positions: theirs, in order.
        carried: the numbers of the carries that are states.
        outputs: the values that are collected.

    Returns:
        The graph; what goes into it over the steps; and as it is.
    """
    works = [loop.body.works[p] for p in positions]
    writer = _Writer(loop, Nodes(fx.Graph()))
    for k in carried:
        carry = loop.body.carries[k]
        names = [f"state_{k}_{row}" for row in range(len(carry.initial))]
        writer.states[k] = [writer.take(name, loop.example(carry.place)) for name in names]
    over, closure = writer.take_outer(works, set(positions))
    for position, work in zip(positions, works, strict=True):
        writer.values[position] = writer.work(work)
    results: list[fx.Node] = []
    for k in carried:
        # A lag of more than one is a row of states, each of which moves up by one.
        results += [*writer.states[k][1:], writer.same(loop.body.carries[k].place)]
    results += [writer.same(place) for place in outputs]
    writer.v.graph.output(tuple(results))
    writer.v.graph.eliminate_dead_code()
    return fx.GraphModule(nn.Module(), writer.v.graph), over, closure


@dataclass
class _Writer:
    loop: EmittedLoop
    v: Nodes
    states: dict[int, list[fx.Node]] = field(default_factory=dict)
    outer: dict[Form, fx.Node] = field(default_factory=dict)
    values: dict[int, fx.Node] = field(default_factory=dict)
    tensors: list[tuple[fx.Node, Tensor]] = field(default_factory=list)
    lengths: dict[int, fx.Node] = field(default_factory=dict)
    number: fx.Node | None = None

    def take(self, name: str, meta: Tensor) -> fx.Node:
        """A placeholder."""
        node: fx.Node = self.v.graph.placeholder(name)
        self.tensors.append((node, meta))
        return node

    def take_outer(self, works: Sequence[Work], inside: set[int]) -> tuple[list[fx.Node], list[fx.Node]]:
        """Take what the works need from outside: what goes over the steps, and what is the same in each."""
        loop, e = self.loop, self.loop.e
        forms = list(dict.fromkeys(form for work in works for form in work.forms))
        needed = [form for form in forms if self._is_outer(form, inside)]
        known = {form: value for form in needed if isinstance(value := loop.value(form), Known)}
        over, closure = [], []
        for form, value in known.items():
            if value.steps:
                self.outer[form] = self.take(f"x_{len(self.outer)}", value.meta)
                over.append(value.node)
        if not over or any(isinstance(form, Count) for form in forms):
            over.append(e.v.add(aten.arange.default, e.number(loop.total)))
            self.number = self.v.graph.placeholder("step")
        for form, value in known.items():
            if not value.steps:
                self.outer[form] = self.take(f"outer_{len(self.outer)}", value.meta)
                closure.append(value.node)
        for form in needed:
            if form not in known:
                for symbol in e.meta(form).node.expr.free_symbols:  # type: ignore[arg-type]
                    closure += self._size_source(symbol)
        for unit in numbers.units([(work.call.args, work.call.kwargs) for work in works]):
            # A tensor as long as the length is tells it.
            closure.append(e.v.add(aten.arange.default, e.length(unit)))
            self.lengths[unit] = self.v.graph.placeholder(f"length_{unit}")
        return over, closure

    def _is_outer(self, form: Form, inside: set[int]) -> bool:
        match form:
            case Same(place):
                return place.position not in inside
            case Carried(carry):
                return carry not in self.states
            case _:
                return isinstance(form, Each) or is_value(form)

    def _size_source(self, size: sympy.Symbol) -> list[fx.Node]:
        """A tensor to take into the step, where no other in it has a size that it uses."""
        if any(str(s) == str(size) for _, t in self.tensors for s in t.shape):
            return []
        if (found := self.loop.e.sized(size)) is None:
            raise Unalike(f"a step uses the size {size}, which no input has")
        self.take(f"sized_{len(self.tensors)}", self.loop.e.nodes[found[0]].meta["val"])
        return [self.loop.e.inputs[found[0]]]

    def work(self, work: Work) -> fx.Node:
        """Do a work."""
        self.v.at(work.source, ("stack_trace",))
        args, kwargs = self._plain(changed((work.call.args, work.call.kwargs), self.value))
        if work.call.target in FILLS and counts(work.call.args):
            value = self.v.add(aten.to.dtype, args[1], work.meta.dtype)
            return self.v.add(aten.expand.default, value, args[0])
        return self.v.add(work.target, *args, **kwargs)

    def _plain(self, tree: PyTree) -> PyTree:
        return pytree.tree_map(lambda leaf: numbers.written(leaf, self.v.add, self._length), tree)

    def _length(self, unit: int) -> fx.Node:
        return self.v.add(aten.sym_size.int, self.lengths[unit], 0)

    def value(self, form: Form) -> fx.Node:
        """The node of a form."""
        if form in self.outer:
            return self.outer[form]
        match form:
            case Same(place):
                return self.same(place)
            case Carried(carry):
                return self.states[carry][0]
            case Count():
                assert self.number is not None
                return numbers.counted(form, self.number, self.v.add, self._length)
            case _:
                expression = self.loop.e.meta(form).node.expr  # type: ignore[arg-type]
                sizes = {symbol.name: self._size(symbol) for symbol in expression.free_symbols}
                node: fx.Node = computed(expression, sizes, self.v.add)
                return node

    def _size(self, symbol: sympy.Symbol) -> fx.Node:
        for node, tensor in self.tensors:
            for dim, other in enumerate(tensor.shape):
                if str(other) == str(symbol):
                    return self.v.add(aten.sym_size.int, node, dim)
        raise Unalike(f"a step uses the size {symbol}, which no tensor in it has")

    def same(self, place: Place) -> fx.Node:
        """A value that the step made."""
        node = self.values[place.position]
        for part in place.path:
            node = self.v.add(part.target, node, *part.args)
        return node
