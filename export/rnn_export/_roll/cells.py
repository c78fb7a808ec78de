"""Recurrent layers that are called for one step, as PyTorch's cells."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.node import Target

from .._capture import leaves
from .._capture.graph import state_slots

if TYPE_CHECKING:
    from .rewrite import Rewrite

aten: Any = torch.ops.aten

CELLS = {
    leaves.lstm: aten.lstm_cell.default,
    leaves.gru: aten.gru_cell.default,
    leaves.rnn_tanh: aten.rnn_tanh_cell.default,
    leaves.rnn_relu: aten.rnn_relu_cell.default,
}
"""The cell of each layer."""

LAYERS: dict[Target, Target] = {cell: leaf for leaf, cell in CELLS.items()}
"""The layer of each cell."""


def by_cells(edit: Rewrite) -> Any:
    """A layer over one step as one cell for each of its layers and directions, and stacks of their results."""
    node = edit.node
    if node.target is not operator.getitem or (leaf := edit.args[0]).target not in CELLS:
        return None
    args: Any = tuple(leaf.args)
    x, *_, lengths, weights, biases, layers, both = args
    states = [args[slot] for slot in state_slots(leaf)]
    if (
        lengths is not None
        or None in states
        or x.meta["val"].shape[0] != 1
        or leaves.has_projection(weights, layers, both)
    ):
        return None
    results = leaf.meta.get("cells")
    if results is None:
        first = edit.__class__(edit.graph, leaf)
        with edit.graph.inserting_before(leaf):
            results = leaf.meta["cells"] = _cells(first, x, states, weights, biases, layers, both)
    return results[edit.args[1]]


def _cells(edit: Rewrite, x: Any, states: Any, weights: Any, biases: Any, layers: int, both: bool) -> list[fx.Node]:
    directions, size = (2 if both else 1), (4 if biases else 2)
    y = edit.add(aten.select.int, x, 0, 0)
    finals: list[list[fx.Node]] = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            own = [edit.add(aten.select.int, given, 0, k) for given in states]
            hx: Any = own if len(own) > 1 else own[0]
            cell = CELLS[edit.node.target]
            result = edit.add(cell, y, hx, *weights[k * size : (k + 1) * size])
            news = [result] if len(own) == 1 else [_result(edit, result, j) for j in range(len(own))]
            outputs.append(news[0])
            for collected, new in zip(finals, news, strict=True):
                collected.append(new)
        y = outputs[0] if len(outputs) == 1 else edit.add(aten.cat.default, outputs, -1)
    return [edit.add(aten.unsqueeze.default, y, 0), *(edit.add(aten.stack.default, f, 0) for f in finals)]


def _result(edit: Rewrite, cell: fx.Node, k: int) -> fx.Node:
    return edit.add(operator.getitem, cell, k, val=cell.meta["val"][k])
