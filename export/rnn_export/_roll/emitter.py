"""The new graph: its nodes, and in it the values and numbers of the loop program."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import fx
from torch.fx.node import Target
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

from . import numbers
from .ir import Input, Made, Number, OfStep, Path, Place, Program, Read, Value, is_value
from .lengths import Length, computed
from .rewrite import aten
from .unify import Loop

if TYPE_CHECKING:
    from .values import EmittedLoop


@dataclass
class Nodes:
    """Adds nodes to a graph, with the line of code and the module of one of the unrolled program."""

    graph: fx.Graph
    meta: dict[str, object] = field(default_factory=dict)

    def at(self, source: fx.Node, names: Sequence[str] = ("stack_trace", "nn_module_stack")) -> None:
        """Take over where a node comes from."""
        self.meta = {name: source.meta[name] for name in names if name in source.meta}

    def add(self, target: Target, *args: PyTree, **kwargs: PyTree) -> fx.Node:
        """Add an operator."""
        assert callable(target)
        node: fx.Node = self.graph.call_function(target, args, kwargs)
        node.meta.update(self.meta)
        return node


@dataclass
class Emitter:
    """What the new graph has.

    Attributes:
        v: adds its nodes.
        fitted: the program that it stands for.
        lengths, axes: what the program's numbers follow, and where the axes are.
        nodes: those of the unrolled program by name.
        inputs: the placeholders, weights and constants by name.
        made, loops: of each item the node, or the loop.
        taken: by loop and value the steps of which it is taken.
    """

    v: Nodes
    fitted: Program
    lengths: Sequence[Length]
    axes: Mapping[str, tuple[str, int]]
    nodes: Mapping[str, fx.Node]
    inputs: dict[str, fx.Node] = field(default_factory=dict)
    made: dict[int, fx.Node] = field(default_factory=dict)
    loops: dict[int, EmittedLoop] = field(default_factory=dict)
    taken: dict[int, dict[Place, list[object]]] = field(default_factory=dict)
    sizes: dict[int, fx.Node] = field(default_factory=dict)

    def length(self, unit: int) -> fx.Node:
        """The node of a length."""
        if unit not in self.sizes:
            expression = self.lengths[unit].number
            named = {axis: self.axes[axis] for axis in sorted(symbol.name for symbol in expression.free_symbols)}
            sizes = {axis: self.v.add(aten.sym_size.int, self.inputs[name], dim) for axis, (name, dim) in named.items()}
            self.sizes[unit] = computed(expression, sizes, self.v.add)
        return self.sizes[unit]

    def sized(self, size: object) -> tuple[str, int] | None:
        """An input that has a size, and the dimension."""
        for name in self.inputs:
            for dim, other in enumerate(getattr(self.nodes[name].meta["val"], "shape", ())):
                if str(other) == str(size):
                    return name, dim
        return None

    def number(self, number: Number) -> PyTree:
        """A number as a plain one or a node."""
        return numbers.written(number, self.v.add, self.length)

    def plain(self, tree: PyTree) -> PyTree:
        """Arguments with nodes in the place of values and of numbers that follow lengths."""
        return pytree.tree_map(
            lambda leaf: self.value(leaf) if is_value(leaf) else self.number(leaf), tree, is_leaf=is_value
        )

    def value(self, value: Value) -> fx.Node:
        """The node of a value."""
        match value:
            case Input(name):
                return self.inputs[name]
            case Made(item):
                return self.made[item]
            case OfStep(loop, place, step):
                return self.loops[loop].at(place, step)
            case Read(target, source, args):
                return self.v.add(target, self.value(source), *self.plain(args))

    def meta(self, value: Value) -> Any:
        """The value in the unrolled program, a fake tensor or a size: its dtype, rank and sizes."""
        match value:
            case Input(name):
                return self.nodes[name].meta["val"]
            case Made(item):
                source = self.fitted.sources[item]
                assert isinstance(source, fx.Node)
                return source.meta["val"]
            case OfStep(item, place, _):
                loop = self.fitted.sources[item]
                assert isinstance(loop, Loop)
                return at_path(loop.model_step[place.position].meta["val"], place.path)
            case Read(target, source, (first, *_)):
                inner = self.meta(source)
                if target is operator.getitem:
                    return inner[first]
                with inner.fake_mode:
                    return inner.select(first, 0) if target is aten.select.int else inner.narrow(first, 0, 1)
        raise AssertionError(value)

    def rank(self, value: Value) -> int:
        """The number of a value's dimensions."""
        return int(self.meta(value).dim())


def at_path(value: Any, path: Path) -> Any:
    """A fake value after some reads."""
    for part in path:
        if part.target is operator.getitem:
            value = value[part.args[0]]
        else:
            assert callable(part.target)
            with value.fake_mode:
                value = part.target(value, *part.args)
    return value
