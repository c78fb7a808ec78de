"""Inputs that hold ids: each of their values is looked up in an embedding, whatever else the model does with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from rnn_runtime import IdsSpec

from .graph import arguments, user_inputs

aten: Any = torch.ops.aten

KEEPS = {
    *(aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default),
    *(aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten._to_copy.default),
    *(aten.view.default, aten.reshape.default, aten.unflatten.int, aten.flatten.using_ints),
    *(aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default),
    *(aten.permute.default, aten.transpose.int, aten.movedim.int, aten.t.default, aten.flip.default),
}
"""Operators whose result has every value of their first argument, and no other."""


def ids(program: ExportedProgram, names: Sequence[str]) -> tuple[IdsSpec, ...]:
    """The inputs of whole numbers that go into an embedding as they are, all of them, and how many rows that has.

    Of several embeddings the smallest counts: eager PyTorch takes no id that one of them lacks.
    """
    inputs = user_inputs(program)
    sizes: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.target is aten.embedding.default:
            table, index, dim = *arguments(node)[:2], 0
        elif node.target is aten.index_select.default:
            table, dim, index = arguments(node)
        else:
            continue
        source, size = _whole(index), table.meta["val"].shape[dim]
        if source in inputs and isinstance(size, int):
            name = names[inputs.index(source)]
            sizes[name] = min(size, sizes.get(name, size))
    return tuple(IdsSpec(name, sizes[name]) for name in names if name in sizes)


def _whole(node: fx.Node) -> fx.Node:
    """Where the values of a node come from, all of them and unchanged."""
    while node.target in KEEPS and _fits(node.all_input_nodes[0], node):
        node = node.all_input_nodes[0]
    return node


def _fits(before: fx.Node, after: fx.Node) -> bool:
    """Whether a change of dtype is from whole numbers to such as hold them all."""
    old, new = before.meta["val"].dtype, after.meta["val"].dtype
    return torch.promote_types(old, new) is new and not new.is_floating_point and old is not torch.bool
