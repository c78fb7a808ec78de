"""Writing the new program: nodes, sizes, states, and where in the stream a piece begins."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import sympy
import torch
from torch import fx
from torch.fx.node import map_arg

from ..._errors import ExportError
from ..graph import aten, module_path
from ..trace import user_line
from .facts import expression, is_number, name_of
from .relation import STEPS, Along, Atom

LAST = 9223372036854775807
"""The end of a slice that goes to the end."""


class Unstreamable(ExportError):
    """An operator has no form on a stream."""


@dataclass(frozen=True)
class Held:
    """A state that the rewriting puts in.

    Attributes:
        input, output: the nodes of its value before and after a piece.
        stem: what its name begins with: the module that needs it.
        letter: what its name ends with.
        holds: what it is, in words.
        atoms: its sizes.
        dtype: of the state.
        span: how many steps it looks back; of what is carried from step to step, 0.
    """

    input: fx.Node
    output: fx.Node
    stem: str
    letter: str
    holds: str
    atoms: tuple[Atom, ...]
    dtype: torch.dtype
    span: int = 0


class Writer:
    """Writes a new graph, node by node of a program.

    Attributes:
        graph: what has been written.
        steps: the size of the streamed axis.
        env: what each node of the program has become.
        relations: how each lies along the steps.
        held: the states so far.
        carried: whether something carries a state from step to step.
        rows: the size of the batch, where it is an axis.
        node: the one at hand.
    """

    def __init__(self, steps: sympy.Expr) -> None:
        self.graph = fx.Graph()
        self.steps = steps
        self.env: dict[fx.Node, Any] = {}
        self.relations: dict[fx.Node, Any] = {}
        self.held: list[Held] = []
        self.carried = False
        self.rows = Atom(sympy.Integer(1))
        self.node: fx.Node
        self._symbols: dict[sympy.Expr, tuple[fx.Node, int]] = {}
        self._inputs: list[fx.Node] = []
        self._states: dict[fx.Node, tuple[tuple[Atom, ...], torch.dtype]] = {}
        self._counter: Held | None = None
        self._count: fx.Node

    def refuse(self, why: str, way_out: str) -> NoReturn:
        """Raises Unstreamable for the node that is at hand."""
        node = self.node
        line = user_line(node.meta.get("stack_trace") or "")
        where = ", ".join(filter(None, [repr(module_path(node)) if module_path(node) else "", line]))
        raise Unstreamable(
            f"state='lift', but {name_of(node)}{f' ({where})' if where else ''} {why}, so the model cannot run on a "
            f"stream. {way_out}, or use state='none'"
        )

    def emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node that stands for the one at hand."""
        new = self.graph.call_function(target, args, kwargs)
        new.meta.update({k: v for k, v in self.node.meta.items() if k in ("stack_trace", "nn_module_stack")})
        return new

    def copy(self, node: fx.Node, replaced: Mapping[int, Any] | None = None) -> fx.Node:
        """The node with its arguments as they are now, some of them given."""
        args = list(node.args)
        for k, arg in enumerate(args):
            args[k] = replaced[k] if replaced and k in replaced else map_arg(arg, self.now)
        new = self.graph.create_node("call_function", node.target, tuple(args), map_arg(node.kwargs, self.now))
        new.meta.update(node.meta)
        return new

    def now(self, node: fx.Node) -> Any:
        """What a node of the program is in the new graph."""
        if is_number(node):
            size = expression(node.meta["val"])
            if self.steps in size.free_symbols:
                self.refuse("computes with the number of steps, which a stream does not know", "Leave it out")
            return self.number(size)
        return self.env[node]

    def number(self, size: sympy.Expr) -> Any:
        """A node, or a plain number, with the value of an expression in sizes; of the steps, those of the piece."""
        if size.is_Integer:
            return int(size)
        if size in self._symbols:
            return self.emit(aten.sym_size.int, *self._symbols[size])
        if isinstance(size, sympy.Add | sympy.Mul):
            how = operator.add if isinstance(size, sympy.Add) else operator.mul
            first, *rest = size.args
            result = self.number(first)
            for part in rest:
                result = self.emit(how, result, self.number(part))
            return result
        self.refuse(f"follows the size {size}", "Use sizes that are axes")

    def sizes(self, along: Along, items: int | None = None) -> list[Any]:
        """The shape of a value's piece, or of so many items of it."""
        length = self.steps if items is None else sympy.Integer(items)
        return [self.number(sympy.Mul(*(length if atom.steps else atom.size for atom in dim))) for dim in along.dims]

    def along(self, node: fx.Node) -> Along:
        """The relation of a node that has the steps, in a dimension for themselves."""
        relation = self.relations[node]
        assert isinstance(relation, Along)
        return relation

    def state(self, atoms: Sequence[Atom], dtype: torch.dtype) -> fx.Node:
        """A further input, of these sizes."""
        with self.graph.inserting_after(self._inputs[-1]):
            new = self.graph.placeholder(f"held_{len(self._inputs)}")
        self._inputs.append(new)
        self._states[new] = tuple(atoms), dtype
        return new

    def hold(self, before: fx.Node, after: fx.Node, letter: str, holds: str, span: int = 0) -> Held:
        """Keep a state that `state` has made, whose next value is `after`."""
        atoms, dtype = self._states[before]
        after = self.emit(aten.reshape.default, after, [self.number(atom.size) for atom in atoms])
        stem = module_path(self.node).replace(".", "_")
        held = Held(before, after, stem, letter, holds, atoms, dtype, span)
        self.held.append(held)
        return held

    def count(self) -> fx.Node:
        """How many steps each row has had before this piece, (rows,)."""
        if self._counter is None:
            before = self.state([self.rows], torch.int64)
            self._count = self.emit(aten.clamp.default, before, 0)  # a state that someone gives is a number of steps
            after = self.emit(aten.add.Tensor, self._count, self.number(self.steps))
            self._counter = Held(before, after, "", "steps", "the number of steps so far", (self.rows,), torch.int64)
            self.held.append(self._counter)
        return self._count

    def fresh(self, relation: Along) -> fx.Node:
        """Whether a row is at its start, to go with a value."""
        return self.spread(self.emit(aten.eq.Scalar, self.count(), 0), [self.rows], relation)

    def positions(self, relation: Along) -> fx.Node:
        """The number of each step, to go with a value."""
        return self.spread(self.numbers(), [self.rows, STEPS], relation)

    def numbers(self) -> fx.Node:
        """The number of each step of each row, (rows, steps)."""
        piece = self.emit(aten.arange.default, self.number(self.steps))
        return self.emit(aten.add.Tensor, self.emit(aten.unsqueeze.default, self.count(), 1), piece)

    def spread(self, value: fx.Node, given: Sequence[Atom], relation: Along) -> fx.Node:
        """A value of rows, or of rows and steps, in the dimensions of another one."""
        atoms = [atom for atom in given if atom.size != 1]
        order = [atom for atom in relation.atoms if atom in atoms]
        if sorted(order, key=str) != sorted(atoms, key=str):
            self.refuse("needs the number of a step where the rows of the batch are not seen", "Keep them apart")
        if order != atoms:
            value = self.emit(aten.transpose.int, value, 0, 1)
        loose: list[Any] = []
        full: list[Any] = []
        for dim in relation.dims:
            shared = len(dim) > 1 and any(atom in atoms for atom in dim)
            for atom in dim or (Atom(sympy.Integer(1)),):
                own = self.number(self.steps if atom.steps else atom.size) if atom in atoms or shared else 1
                loose.append(own if atom in atoms else 1)
                full.append(own)
        value = self.emit(aten.reshape.default, value, loose)
        if all(len(dim) <= 1 or not set(dim) & set(atoms) for dim in relation.dims) and len(loose) == len(
            relation.dims
        ):
            return value
        value = self.emit(aten.expand.default, value, full)
        shape = [
            sympy.Mul(*(self.steps if a.steps else a.size for a in dim)) if set(dim) & set(atoms) else sympy.Integer(1)
            for dim in relation.dims
        ]
        return self.emit(aten.reshape.default, value, [self.number(size) for size in shape])
