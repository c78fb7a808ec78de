"""The unrolled program: the model traced at one fixed length of an axis, in a plain functional form.

Writes into a preallocated tensor and results that grow by concatenation become one list of parts; `unbind`, `split` and
`chunk` become reads of one step, so that what follows sees one way of reading and one of collecting.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from .cells import by_cells

aten: Any = torch.ops.aten

END = 2**63 - 1


def normal_form(program: ExportedProgram) -> ExportedProgram:
    """`program` without writes in place, in the form that the search for loops reads."""
    program = program.run_decompositions({})
    graph = program.graph
    for node in list(graph.nodes):
        if "assert" in str(node.target) or "constrain" in str(node.target):
            graph.erase_node(node)
    _write_out_numbers(program)
    for rule in (
        _drop_idle,
        _zeros_of_inputs,
        by_cells,
        _read_by_index,
        _join_writes,
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


def _write_out_numbers(program: ExportedProgram) -> None:
    """Constants of one number, as `torch.tensor(t)` makes in each step, as that number."""
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    for node in list(program.graph.nodes):
        if node.op != "placeholder" or node.name not in constants:
            continue
        value = program.constants[constants[node.name]]
        if not isinstance(value, Tensor) or value.numel() != 1 or value.dtype not in _WHOLE:
            continue
        for user in list(node.users):
            with program.graph.inserting_before(user):
                number = program.graph.call_function(
                    aten.full.default, (list(value.shape), int(value)), {"dtype": value.dtype}
                )
            number.meta = {k: v for k, v in user.meta.items() if k in ("stack_trace", "nn_module_stack")}
            number.meta["val"] = node.meta["val"]
            user.replace_input_with(node, number)


_WHOLE = {torch.int64, torch.int32}


class Rewrite:
    """A node and its graph, with what a rule needs to put something in its place."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph = graph
        self.node = node
        self.args: tuple[Any, ...] = tuple(node.args)

    def by(self, rule: Callable[[Rewrite], Any]) -> None:
        with self.graph.inserting_before(self.node):
            other = rule(self)
        if other is not None and other is not self.node:
            self.node.replace_all_uses_with(other)

    def add(self, target: Any, *args: Any, val: Any = None) -> fx.Node:
        made: fx.Node = self.graph.call_function(target, args)
        made.meta = {k: v for k, v in self.node.meta.items() if k in ("stack_trace", "nn_module_stack")}
        if val is None:
            example = next(a.meta["val"] for a in made.all_input_nodes if isinstance(a.meta["val"], Tensor))
            mode: Any = example.fake_mode  # type: ignore[attr-defined]
            # The trace is over: what is computed here must not fix a size, as the check of a cell's batch would.
            with mode, mode.shape_env.suppress_guards() if mode.shape_env is not None else nullcontext():
                val = target(*fx.node.map_arg(args, lambda a: a.meta["val"]))
        made.meta["val"] = val
        return made


def _argument(node: fx.Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def like(a: fx.Node, b: fx.Node) -> bool:
    """Whether two tensors have one shape and dtype."""
    x, y = a.meta["val"], b.meta["val"]
    return x.dtype == y.dtype and list(map(str, x.shape)) == list(map(str, y.shape))


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
        dim = _argument(node, 1, 0) % args[0].meta["val"].dim()
        size, step = args[0].meta["val"].shape[dim], _argument(node, 4, 1)
        start, end = _argument(node, 2, 0) or 0, _argument(node, 3, END)
        end = END if end is None else end
        if isinstance(size, int) and all(isinstance(v, int) for v in (start, end, step)):
            start, end, _ = slice(start, end).indices(size)
            return edit.add(aten.slice.Tensor, args[0], dim, start, end, step, val=node.meta["val"])
    if node.target is operator.getitem:
        source = args[0]
        if source.target is aten.unbind.int:
            x, dim = source.args[0], _argument(source, 1, 0)
            dim %= x.meta["val"].dim()
            return edit.add(aten.select.int, x, dim, args[1], val=node.meta["val"])
        if source.target in (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default):
            x, dim = source.args[0], _argument(source, 2, 0)
            dim %= x.meta["val"].dim()
            if all(part.shape[dim] == 1 for part in source.meta["val"] if isinstance(part.shape[dim], int)) and (
                isinstance(x.meta["val"].shape[dim], int)
            ):
                return edit.add(aten.slice.Tensor, x, dim, args[1], args[1] + 1, 1, val=node.meta["val"])
    return None


def _write(node: fx.Node) -> tuple[fx.Node, fx.Node, int, int] | None:
    """(tensor before, value, dimension, index) where `node` writes one step of a tensor."""
    args: tuple[Any, ...] = tuple(node.args)
    if node.target not in (aten.select_scatter.default, aten.slice_scatter.default):
        return None
    before, value, dim, start = args[0], args[1], _argument(node, 2, 0), _argument(node, 3, 0) or 0
    size = before.meta["val"].shape[dim]
    if not isinstance(size, int) or not isinstance(start, int):
        return None
    dim %= before.meta["val"].dim()
    if node.target is aten.slice_scatter.default:
        end, step = _argument(node, 4, END), _argument(node, 5, 1)
        if not isinstance(end, int) or step != 1:
            return None
        start, end, _ = slice(start, end).indices(size)
        if end - start != 1:
            return None
    return before, value, dim, start % size


def _join_writes(edit: Rewrite) -> Any:
    """The last of the writes into a tensor as a stack of all that was written, and what was there before elsewhere."""
    node = edit.node
    last = _write(node)
    if last is None or any((w := _write(user)) is not None and w[0] is node and w[2] == last[2] for user in node.users):
        return None
    dim, writes = last[2], []
    at: fx.Node = node
    while (write := _write(at)) is not None and write[2] == dim:
        writes.append((at, write))
        at = write[0]
    first = at
    written: dict[int, fx.Node] = {}
    for made, (before, value, _, index) in reversed(writes):
        for user in list(before.users):
            # What a later step reads of the tensor is what was written there, or what was there from the start.
            if user.target is aten.select.int and user.args[1] == dim and before is not first:
                known = written.get(user.args[2])  # type: ignore[arg-type]
                with edit.graph.inserting_before(user):
                    rewrite = Rewrite(edit.graph, user)
                    rewrite.node.replace_all_uses_with(
                        known or rewrite.add(aten.select.int, first, dim, user.args[2], val=user.meta["val"])
                    )
        if made.target is aten.slice_scatter.default:
            with edit.graph.inserting_before(made):
                value = Rewrite(edit.graph, made).add(aten.select.int, value, dim, 0)
        written[index] = value
    if any(
        user not in {made for made, _ in writes}
        for made, (before, *_) in writes
        for user in before.users
        if before is not first and user.users
    ):
        return None  # read as a whole in between
    size = first.meta["val"].shape[dim]
    parts = [written.get(k) or edit.add(aten.select.int, first, dim, k) for k in range(size)]
    for k, part in enumerate(parts):
        if part.meta["val"].dtype != first.meta["val"].dtype:
            return None
        if list(map(str, part.meta["val"].shape)) != list(map(str, first.meta["val"].select(dim, 0).shape)):
            parts[k] = edit.add(aten.expand_as.default, part, edit.add(aten.select.int, first, dim, 0))
    return edit.add(aten.stack.default, parts, dim, val=node.meta["val"])


def _flatten_joins(edit: Rewrite) -> Any:
    """`cat([cat([a, b]), c])`, as a result grows that each step is appended to, as `cat([a, b, c])`."""
    node, args = edit.node, edit.args
    if node.target is not aten.cat.default:
        return None
    dim, rank = _argument(node, 1, 0), node.meta["val"].dim()
    parts: list[fx.Node] = []
    for part in args[0]:
        inner = part.target is aten.cat.default and len(part.users) == 1
        if inner and _argument(part, 1, 0) % rank == dim % rank:
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
    if source.target is aten.stack.default and _argument(source, 1, 0) % rank == dim and isinstance(index, int):
        return source.args[0][index]
    return None


def _is_empty(node: fx.Node) -> bool:
    return any(isinstance(size, int) and size == 0 for size in node.meta["val"].shape)
