"""The unrolled program: the model traced at one fixed length of an axis, in a plain functional form.

Writes into a preallocated tensor and results that grow by concatenation become one list of parts; `unbind`, `split` and
`chunk` become reads of one step, so that what follows sees one way of reading and one of collecting.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram

from .cells import by_cells
from .constants import settle_constants
from .rewrite import END, Rewrite, argument, aten, like
from .writes import join_writes


def normal_form(program: ExportedProgram) -> ExportedProgram:
    """`program` without writes in place, in the form that the search for loops reads."""
    program = program.run_decompositions({})
    graph = program.graph
    for node in list(graph.nodes):
        if "assert" in str(node.target) or "constrain" in str(node.target):
            graph.erase_node(node)
    settle_constants(program)
    for rule in (
        _drop_idle,
        _zeros_of_inputs,
        by_cells,
        _read_by_index,
        join_writes,
        _flatten_joins,
        _drop_idle,
        _read_parts,
    ):
        for node in list(graph.nodes):
            if node.op == "call_function":
                Rewrite(graph, node).by(rule)
        graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target is aten.view.default:  # what is viewed may lie otherwise in memory once steps are stacked
            node.target = aten.reshape.default
    return program


_IDLE = {aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default}


def _drop_idle(edit: Rewrite) -> Any:
    """Leave out what changes nothing: copies, dropout in evaluation mode, slices of everything."""
    node, args = edit.node, edit.args
    if node.target in _IDLE:
        return args[0]
    if node.target is aten.dropout.default and (args[2] is False or args[1] == 0):
        return args[0]
    if node.target is aten.copy.default:
        if like(args[0], args[1]):
            return args[1]
        if args[0].meta["val"].dtype == args[1].meta["val"].dtype:
            return edit.add(aten.expand_as.default, args[1], args[0], val=node.meta["val"])
    if node.target is aten.slice.Tensor and like(node, args[0]):
        return args[0]
    if node.target is aten.slice_scatter.default and like(node, args[1]):
        return args[1]
    if node.target in (aten.view.default, aten.reshape.default, aten.expand.default, aten.expand_as.default):
        return args[0] if like(node, args[0]) else None
    if node.target is aten._to_copy.default and like(node, args[0]):
        return args[0]
    return None


def _zeros_of_inputs(edit: Rewrite) -> Any:
    """`zeros_like(h)` of a computed h as zeros that need an input's sizes alone: no step then takes from another."""
    node, args = edit.node, edit.args
    if node.target not in _LIKE or len(node.kwargs.keys() - {"pin_memory", "device"}) or args[0].op == "placeholder":
        return None
    value = node.meta["val"]
    inputs = [n for n in edit.graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)]
    typed = next((n for n in inputs if n.meta["val"].dtype == value.dtype), None)
    sizes: list[Any] = []
    for size in value.shape:
        places = [(n, d) for n in inputs for d, other in enumerate(n.meta["val"].shape) if str(other) == str(size)]
        if not isinstance(size, int) and not places:
            return None
        sizes.append(size if isinstance(size, int) else _size_of_input(edit.graph, *places[0]))
    return typed and edit.add(_LIKE[node.target], typed, sizes, val=value)


def _size_of_input(graph: fx.Graph, source: fx.Node, dim: int) -> fx.Node:
    """The one node of a size, before all steps: one for each step would be more the longer the loop is."""
    for user in source.users:
        if user.target is aten.sym_size.int and user.args == (source, dim) and _BEFORE in user.meta:
            return user
    with graph.inserting_after(next(node for node in reversed(graph.nodes) if node.op == "placeholder")):
        size: fx.Node = graph.call_function(aten.sym_size.int, (source, dim))
    size.meta = {"val": source.meta["val"].shape[dim], _BEFORE: True}
    return size


_BEFORE = "before all steps"
_LIKE = {aten.zeros_like.default: aten.new_zeros.default, aten.ones_like.default: aten.new_ones.default}


def _read_by_index(edit: Rewrite) -> Any:
    """`x.unbind()[t]` and `x.split(1)[t]` as reads of x at t; indices from the start."""
    node, args = edit.node, edit.args
    if node.target is aten.select.int:
        size = args[0].meta["val"].shape[args[1]]
        dim = args[1] % args[0].meta["val"].dim()
        if isinstance(size, int) and (args[2] < 0 or dim != args[1]):
            return edit.add(aten.select.int, args[0], dim, args[2] % size, val=node.meta["val"])
    if node.target is aten.slice.Tensor:
        dim = argument(node, 1, 0) % args[0].meta["val"].dim()
        size, step = args[0].meta["val"].shape[dim], argument(node, 4, 1)
        start, end = argument(node, 2, 0) or 0, argument(node, 3, END)
        end = END if end is None else end
        if isinstance(size, int) and all(isinstance(v, int) for v in (start, end, step)):
            start, end, _ = slice(start, end).indices(size)
            return edit.add(aten.slice.Tensor, args[0], dim, start, end, step, val=node.meta["val"])
    if node.target is operator.getitem:
        source = args[0]
        if source.target is aten.unbind.int:
            x, dim = source.args[0], argument(source, 1, 0)
            dim %= x.meta["val"].dim()
            return edit.add(aten.select.int, x, dim, args[1], val=node.meta["val"])
        if source.target in (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default):
            x, dim = source.args[0], argument(source, 2, 0)
            dim %= x.meta["val"].dim()
            if all(part.shape[dim] == 1 for part in source.meta["val"] if isinstance(part.shape[dim], int)) and (
                isinstance(x.meta["val"].shape[dim], int)
            ):
                return edit.add(aten.slice.Tensor, x, dim, args[1], args[1] + 1, 1, val=node.meta["val"])
    return None


def _flatten_joins(edit: Rewrite) -> Any:
    """`cat([cat([a, b]), c])`, as a result grows that each step is appended to, as `cat([a, b, c])`."""
    node, args = edit.node, edit.args
    if node.target is not aten.cat.default:
        return None
    dim, rank = argument(node, 1, 0), node.meta["val"].dim()
    parts: list[fx.Node] = []
    for part in args[0]:
        inner = part.target is aten.cat.default and len(part.users) == 1
        if inner and argument(part, 1, 0) % rank == dim % rank:
            parts += part.args[0]
        elif not _is_empty(part):
            parts.append(part)
    if parts == list(args[0]):
        return None
    return edit.add(aten.cat.default, parts, dim, val=node.meta["val"]) if parts else None


def _read_parts(edit: Rewrite) -> Any:
    """`stack([a, b])[1]` as b, and `a.unsqueeze(0)[0]` as a."""
    node, args = edit.node, edit.args
    if node.target is aten.squeeze.dim:
        dim, index = args[1] % args[0].meta["val"].dim(), 0
        if args[0].meta["val"].shape[dim] != 1:
            return None
    elif node.target is aten.select.int:
        dim, index = args[1], args[2]
    else:
        return None
    source: Any = args[0]
    rank = source.meta["val"].dim()
    if source.target is aten.unsqueeze.default and source.args[1] % rank == dim:
        return source.args[0]
    if source.target is aten.stack.default and argument(source, 1, 0) % rank == dim and isinstance(index, int):
        return source.args[0][index]
    return None


def _is_empty(node: fx.Node) -> bool:
    return any(isinstance(size, int) and size == 0 for size in node.meta["val"].shape)
