"""The body of a loop: what each position of a step computes, with a layer's cells taken apart where that helps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx
from torch import fx
from torch.fx.node import Target
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

from . import numbers
from .cells import LAYERS
from .ir import Call, Carried, Carry, Count, Form, Place, Same, Unalike, changed, forms, is_form, is_value, result
from .rewrite import aten

FILLS = {aten.full.default}
"""Operators whose number, where it is a step's own, is written as a tensor that is expanded."""


@dataclass(frozen=True)
class Work:
    """One operator of a step.

    Attributes:
        call: the operator, with forms among its arguments.
        meta: what it gives, a fake tensor or several.
        source: a node of the unrolled program that it stands for.
    """

    call: Call
    meta: Any
    source: fx.Node

    @cached_property
    def forms(self) -> list[Form]:
        """What it takes."""
        return forms((self.call.args, self.call.kwargs))

    @property
    def target(self) -> Target:
        """The operator that takes its arguments, once the step's own number is a tensor."""
        counted = counts((self.call.args, self.call.kwargs))
        return with_tensor(self.call.target) if counted and self.call.target not in FILLS else self.call.target


@dataclass(frozen=True)
class Body:
    """The works of a step in order, and what it takes of earlier steps."""

    works: list[Work]
    carries: list[Carry]

    def needs(self, position: int) -> set[int]:
        """The positions whose values a work takes, of this step or an earlier one."""
        return {self.place(form).position for form in self.works[position].forms if isinstance(form, Same | Carried)}

    def place(self, form: Same | Carried) -> Place:
        """The value that is taken, in any step."""
        return form.place if isinstance(form, Same) else self.carries[form.carry].place

    @cached_property
    def groups(self) -> list[list[int]]:
        """The positions that need each other's values from step to step; each group comes after what it needs."""
        # Tarjan's algorithm, which networkx uses, finds a group after all that can be reached from it.
        graph = networkx.DiGraph()
        graph.add_nodes_from(range(len(self.works)))
        graph.add_edges_from((p, need) for p in range(len(self.works)) for need in sorted(self.needs(p)))
        return [sorted(group) for group in networkx.strongly_connected_components(graph)]

    def is_cycle(self, group: list[int]) -> bool:
        """Whether a group carries something from step to step by itself."""
        return len(group) > 1 or group[0] in self.needs(group[0])

    def is_constant(self, position: int) -> bool:
        """Whether a position gives the same at each step."""
        return all(
            self.is_constant(form.place.position) if isinstance(form, Same) else is_value(form)
            for form in self.works[position].forms
        )


def taken_apart(body: Body, keep: set[int], wanted: list[Place]) -> tuple[Body, list[Place]]:
    """The body with the cells at other positions than `keep` as products and gates, and where the wanted values are.

    The product with the input then stands apart from the one with the state.
    """
    made: list[Work] = []
    moved: list[int | tuple[int, ...]] = []  # for each old position the new one, or those of its results

    def place(old: Place) -> Place:
        new, path = moved[old.position], old.path
        return Place(new, path) if isinstance(new, int) else Place(new[path[0].args[0]], path[1:])

    def change(form: Form) -> Form:
        return Same(place(form.place)) if isinstance(form, Same) else form

    for position, work in enumerate(body.works):
        call = Call(work.call.target, *changed((work.call.args, work.call.kwargs), change))
        work = Work(call, work.meta, work.source)
        if call.target in LAYERS and position not in keep:
            states = _Apart(made, work).run(call.target)
            moved.append(states[0] if len(states) == 1 else states)
        else:
            moved.append(len(made))
            made.append(work)
    carries = [Carry(place(carry.place), carry.initial) for carry in body.carries]
    return Body(made, carries), list(map(place, wanted))


@dataclass
class _Apart:
    """Writes a cell as products and gates. Formulas: the documentation of LSTMCell, GRUCell and RNNCell."""

    works: list[Work]
    cell: Work

    def run(self, cell: Target) -> tuple[int, ...]:
        x, hx, w, r, *biases = self.cell.call.args
        b_ih, b_hh = [*biases, None, None][:2]
        lstm, gru = cell is aten.lstm_cell.default, cell is aten.gru_cell.default
        h, gates = hx[0] if lstm else hx, 4 if lstm else 3 if gru else 1
        if not gru and b_ih is not None:
            # Both biases go with the input. A GRU's reset gate scales a part of the hidden one.
            b_ih, b_hh = self.add(aten.add.Tensor, b_ih, b_hh), None
        outer = self.add(aten.linear.default, x, w, b_ih, gates=gates)
        inner = self.add(aten.linear.default, h, r, b_hh, gates=gates)
        if lstm:
            i, f, g, o = self.parts(self.add(aten.add.Tensor, outer, inner, gates=4), 4)
            i, f, o = (self.add(aten.sigmoid.default, gate) for gate in (i, f, o))
            kept = self.add(aten.mul.Tensor, f, hx[1])
            c = self.add(aten.add.Tensor, kept, self.add(aten.mul.Tensor, i, self.add(aten.tanh.default, g)))
            h = self.add(aten.mul.Tensor, o, self.add(aten.tanh.default, c))
            return h.place.position, c.place.position
        if gru:
            x_r, x_z, x_n = self.parts(outer, 3)
            h_r, h_z, h_n = self.parts(inner, 3)
            r_t = self.add(aten.sigmoid.default, self.add(aten.add.Tensor, x_r, h_r))
            z = self.add(aten.sigmoid.default, self.add(aten.add.Tensor, x_z, h_z))
            n = self.add(aten.tanh.default, self.add(aten.add.Tensor, x_n, self.add(aten.mul.Tensor, r_t, h_n)))
            h = self.add(aten.add.Tensor, n, self.add(aten.mul.Tensor, z, self.add(aten.sub.Tensor, h, n)))
            return (h.place.position,)
        total = self.add(aten.add.Tensor, outer, inner)
        h = self.add(aten.tanh.default if cell is aten.rnn_tanh_cell.default else aten.relu.default, total)
        return (h.place.position,)

    def add(self, target: Target, *args: PyTree, gates: int = 1) -> Same:
        """A work as wide as the state, or as several gates side by side."""
        meta = self.cell.meta[0] if isinstance(self.cell.meta, tuple | list) else self.cell.meta
        if gates > 1:
            with meta.fake_mode:
                meta = meta.new_empty([*meta.shape[:-1], gates * meta.shape[-1]])
        self.works.append(Work(Call(target, list(args), {}), meta, self.cell.source))
        return Same(Place(len(self.works) - 1, ()))

    def parts(self, gates: Same, count: int) -> list[Same]:
        """The gates that lie side by side."""
        meta = self.cell.meta[0] if isinstance(self.cell.meta, tuple | list) else self.cell.meta
        call = Call(aten.split.Tensor, [gates, meta.shape[-1], -1], {})
        self.works.append(Work(call, (meta,) * count, self.cell.source))
        return [Same(Place(len(self.works) - 1, (result(k),))) for k in range(count)]


def with_tensor(target: Target) -> Target:
    """The form of an operator that takes a tensor where this one takes a plain number."""
    packet, overload = getattr(target, "overloadpacket", None), getattr(target, "_overloadname", "")
    names = {
        "Scalar": "Tensor",
        "Tensor": "Tensor",
        "Tensor_Scalar": "Tensor_Tensor",
        "Scalar_Tensor": "Tensor",
        "Scalar_self": "Tensor",
    }
    if packet is None or overload not in names or names[overload] not in packet.overloads():
        raise Unalike(f"a step uses its number in {packet or target}")
    found: Target = getattr(packet, names[overload])
    return found


def counts(tree: PyTree) -> bool:
    """Whether a step's own number is among the arguments, or another that has to be a tensor."""
    leaves = pytree.tree_leaves(tree, is_leaf=is_form)
    return any(isinstance(leaf, Count) or numbers.is_part(leaf) for leaf in leaves)
