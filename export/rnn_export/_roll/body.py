"""The body of a loop: what each position of a step computes, with a layer's cells taken apart where that helps."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from .loops import Unalike, aten
from .outline import Quotient

Path = tuple[Any, ...]


@dataclass
class Work:
    """One operator of a step.

    Attributes:
        target, args, kwargs: the call, with forms such as ("same", position, path) in place of values.
        meta: what it gives, as a fake value.
        source: a node of the unrolled program that it stands for.
    """

    target: Any
    args: Any
    kwargs: Any
    meta: Any
    source: fx.Node


@dataclass
class Body:
    """The works of a step in order, and the carries: (position, path, initial values)."""

    works: list[Work]
    carries: list[Any]

    def takes(self, work: Work) -> Iterator[tuple[str, int]]:
        """("same", position) and ("carried", number of a carry) among a work's arguments."""
        yield from _taken((work.args, work.kwargs))

    def needs(self, position: int) -> set[int]:
        """The positions whose values a work takes, of this step or an earlier one."""
        return {n if kind == "same" else self.carries[n][0] for kind, n in self.takes(self.works[position])}

    def cycles(self) -> list[list[int]]:
        """The strongly connected groups of positions, in an order in which each comes after what it needs."""
        needs = [sorted(self.needs(p)) for p in range(len(self.works))]
        return _components(needs)

    def is_cycle(self, group: list[int]) -> bool:
        """Whether a group carries something from step to step by itself."""
        return len(group) > 1 or group[0] in self.needs(group[0])


def _taken(value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, tuple) and value and value[0] in ("same", "carried") and isinstance(value[0], str):
        yield value[0], value[1]
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _taken(item)
    elif isinstance(value, dict):
        yield from _taken(list(value.values()))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with each form in it changed."""
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return change(value)
    if isinstance(value, tuple | list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def _components(needs: list[list[int]]) -> list[list[int]]:
    """Tarjan's algorithm, without recursion; a component comes after those that it needs."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    found: list[list[int]] = []
    for root in range(len(needs)):
        if root in index:
            continue
        work = [(root, iter(needs[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        while work:
            node, others = work[-1]
            for other in others:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    work.append((other, iter(needs[other])))
                    break
                if other in stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    found.append(sorted(stack[at:]))
                    del stack[at:]
    return found


CELLS = {
    aten.lstm_cell.default: "LSTM",
    aten.gru_cell.default: "GRU",
    aten.rnn_tanh_cell.default: "tanh",
    aten.rnn_relu_cell.default: "relu",
}


def taken_apart(body: Body, keep: set[int], wanted: list[tuple[int, Path]]) -> tuple[Body, list[tuple[int, Path]]]:
    """The body with the cells at other positions than `keep` as products and gates, and where the wanted values are.

    The product with the input then stands apart from the one with the state.
    """
    made: list[Work] = []
    moved: dict[int, Any] = {}  # old position -> its new one, or those of its results

    def place(position: int, path: Path) -> tuple[int, Path]:
        new = moved[position]
        return (new, path) if isinstance(new, int) else (new[path[0][1]], path[1:])

    def change(form: Any) -> Any:
        return ("same", *place(form[1], form[2])) if form[0] == "same" else form

    for position, work in enumerate(body.works):
        work = Work(work.target, mapped(work.args, change), mapped(work.kwargs, change), work.meta, work.source)
        if work.target in CELLS and position not in keep:
            moved[position] = _Apart(made, work).run()
        else:
            moved[position] = len(made)
            made.append(work)
    carries = [(*place(position, path), initial) for position, path, initial in body.carries]
    return Body(made, carries), [place(position, path) for position, path in wanted]


class _Apart:
    """Writes a cell as products and gates. Formulas: the documentation of LSTMCell, GRUCell and RNNCell."""

    def __init__(self, works: list[Work], cell: Work) -> None:
        self.works = works
        self.cell = cell
        self.gates = {"LSTM": 4, "GRU": 3}.get(CELLS[cell.target], 1)

    def run(self) -> Any:
        kind = CELLS[self.cell.target]
        x, hx, w, r, *biases = self.cell.args
        b_ih, b_hh = [*biases, None, None][:2]
        h = hx[0] if kind == "LSTM" else hx
        if kind != "GRU" and b_ih is not None:
            # Both biases go with the input. A GRU's reset gate scales a part of the hidden one.
            b_ih, b_hh = self.add(aten.add.Tensor, b_ih, b_hh), None
        outer = self.add(aten.linear.default, x, w, b_ih)
        inner = self.add(aten.linear.default, h, r, b_hh)
        if kind == "LSTM":
            i, f, g, o = self.parts(self.add(aten.add.Tensor, outer, inner), 4)
            i, f, o = (self.add(aten.sigmoid.default, gate) for gate in (i, f, o))
            kept = self.add(aten.mul.Tensor, f, hx[1])
            c = self.add(aten.add.Tensor, kept, self.add(aten.mul.Tensor, i, self.add(aten.tanh.default, g)))
            return [self.add(aten.mul.Tensor, o, self.add(aten.tanh.default, c))[1], c[1]]
        if kind == "GRU":
            x_r, x_z, x_n = self.parts(outer, 3)
            h_r, h_z, h_n = self.parts(inner, 3)
            r_t = self.add(aten.sigmoid.default, self.add(aten.add.Tensor, x_r, h_r))
            z = self.add(aten.sigmoid.default, self.add(aten.add.Tensor, x_z, h_z))
            n = self.add(aten.tanh.default, self.add(aten.add.Tensor, x_n, self.add(aten.mul.Tensor, r_t, h_n)))
            return self.add(aten.add.Tensor, n, self.add(aten.mul.Tensor, z, self.add(aten.sub.Tensor, h, n)))[1]
        total = self.add(aten.add.Tensor, outer, inner)
        return self.add(aten.tanh.default if kind == "tanh" else aten.relu.default, total)[1]

    def add(self, target: Any, *args: Any) -> Any:
        first = self.cell.meta[0] if isinstance(self.cell.meta, tuple | list) else self.cell.meta
        # The gates side by side are as wide as their number says, and everything else is as wide as the state.
        wide = target is aten.linear.default or (target is aten.add.Tensor and self._is_wide(args[0]))
        meta = first
        if wide:
            with first.fake_mode:
                meta = first.new_empty([*first.shape[:-1], self.gates * first.shape[-1]])
        self.works.append(Work(target, list(args), {}, meta, self.cell.source))
        return ("same", len(self.works) - 1, ())

    def _is_wide(self, form: Any) -> bool:
        return form[0] == "same" and form[2] == () and self.works[form[1]].target is aten.linear.default

    def parts(self, gates: Any, count: int) -> list[Any]:
        first = self.cell.meta[0] if isinstance(self.cell.meta, tuple | list) else self.cell.meta
        size = first.shape[-1]
        self.works.append(Work(aten.split.Tensor, [gates, size, -1], {}, (first,) * count, self.cell.source))
        position = len(self.works) - 1
        return [("same", position, ((operator.getitem, k),)) for k in range(count)]


def at_path(value: Any, path: Path) -> Any:
    """A fake value after some reads."""
    for part in path:
        if part[0] is operator.getitem:
            value = value[part[1]]
        else:
            with value.fake_mode:
                value = part[0](value, *part[1:])
    return value


def with_tensor(target: Any) -> Any:
    """The form of an operator that takes a tensor where this one takes a plain number."""
    packet = target.overloadpacket
    name = {
        "Scalar": "Tensor",
        "Tensor": "Tensor",
        "Tensor_Scalar": "Tensor_Tensor",
        "Scalar_Tensor": "Tensor",
        "Scalar_self": "Tensor",
    }.get(target._overloadname)
    if name is None or name not in packet.overloads():
        raise Unalike(f"a step uses its number in {packet}")
    return getattr(packet, name)


def counts(value: Any) -> bool:
    """Whether a step's own number is among the arguments, or another that has to be a tensor."""
    if isinstance(value, tuple | list):
        return (len(value) == 4 and value[0] == "count") or any(map(counts, value))
    return isinstance(value, Quotient) or (isinstance(value, dict) and counts(list(value.values())))
