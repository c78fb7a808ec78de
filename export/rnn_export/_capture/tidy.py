"""What the captured program says in more words than it needs: zero states, idle padding, rows ordered as they are."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram

from .._errors import ExportError
from . import leaves, scan_leaf
from .graph import MOVES, arguments, aten, finish, recurrent, state_slots
from .trace import user_line
from .zeros import changes, is_zeros


def tidy(program: ExportedProgram) -> None:
    """Simplify `program` in place; its results stay the same.

    Raises:
        ExportError: part of the model was traced under a transformation of torch.func, whose dimensions are lost.
    """
    _require_plain(program)
    _drop_zero_states(program)
    _drop_idle_views(program)
    _drop_idle_pads(program)
    _drop_idle_orders(program)
    _merge_like_leaves(program)
    _lift_numbers(program)
    _widen_bounds(program)
    _split_by_slices(program)
    finish(program)


def _require_plain(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
            line = user_line(node.meta.get("stack_trace") or "")
            where = f" ({line})" if line else ""
            raise ExportError(
                f"the model runs under a transformation of torch.func (vmap, grad){where}, whose dimensions a "
                "trace loses: write it with batched operators (torch.einsum, torch.baddbmm) or a loop"
            )


def _drop_zero_states(program: ExportedProgram) -> None:
    """Leave out initial states that are zeros by construction: without one, a leaf starts from zeros by itself."""
    for node in recurrent(program):
        if node.target is scan_leaf.scan:
            continue
        args = list(node.args)
        for slot in state_slots(node):
            state = args[slot]
            if isinstance(state, fx.Node) and is_zeros(state):
                args[slot] = None
        node.args = tuple(args)


_VIEWS = {aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int}
_SQUEEZES = {aten.squeeze.dim, aten.squeeze.dims}


def _drop_idle_views(program: ExportedProgram) -> None:
    """Leave out reshapes that together give the shape there was, as between two layers over packed data."""
    for node in list(program.graph.nodes):
        # PyTorch leaves a dimension that is not 1 where it is; ONNX's Squeeze does not take it.
        if node.target in _SQUEEZES and _shape(node) == _shape(node.all_input_nodes[0]):
            node.replace_all_uses_with(node.all_input_nodes[0])
        source = node
        while source.target in _VIEWS:
            source = source.all_input_nodes[0]
            if source is not node and _shape(source) == _shape(node):
                node.replace_all_uses_with(source)


def _shape(node: fx.Node) -> list[str]:
    return [str(size) for size in node.meta["val"].shape]


def _drop_idle_pads(program: ExportedProgram) -> None:
    """Leave out padding with zeros of a recurrent output to its own length: past a row's end it is zero already."""
    for node in list(program.graph.nodes):
        if node.target is not leaves.pad:
            continue
        y, lengths, value, _total = arguments(node)
        if y.target is not operator.getitem or value != 0:
            continue
        leaf, position = arguments(y)
        packed = leaf.target in leaves.RECURRENT and position == 0 and leaf.args[-5] is lengths
        if packed and str(node.meta["val"].shape[0]) == str(y.meta["val"].shape[0]):
            node.replace_all_uses_with(y)


def _drop_idle_orders(program: ExportedProgram) -> None:
    """Leave out the selection of all rows in their own order: what is left of a sort that the mode made idle."""
    for node in list(program.graph.nodes):
        if node.target is aten.index_select.default:
            x, dim, index = arguments(node)
        elif node.target is aten.index.Tensor and len(node.args[1]) == 1:
            x, dim, index = node.args[0], 0, node.args[1][0]
        else:
            continue
        if _counts(index) and str(x.meta["val"].shape[dim]) == str(index.meta["val"].shape[0]):
            node.replace_all_uses_with(x)


def _counts(node: fx.Node) -> bool:
    """Whether a node's value is 0, 1, 2, ...: an arange, or the inverse of that permutation, which is the same."""
    if node.target is aten.arange.default:
        return True
    if node.target is aten.arange.start:
        return bool(node.args[0] == 0)
    if node.target in (aten.scatter_.src, aten.scatter.src):
        _, dim, index, source = arguments(node)
        return dim == 0 and _counts(index) and _counts(source)
    return node.target in (aten.to.dtype_layout, aten.to.dtype, aten.clone.default) and _counts(node.all_input_nodes[0])


def _merge_like_leaves(program: ExportedProgram) -> None:
    """Compute once what is computed twice from the same, as the tools underneath would do, and fail at on layers."""
    if any(changes(node) for node in program.graph.nodes if node.users):
        return  # what looks the same may have been written to in between
    seen: dict[tuple[object, str], fx.Node] = {}
    for node in list(program.graph.nodes):
        if node.target in MOVES or node.target in leaves.RECURRENT or _is_pure(node):
            first = seen.setdefault((node.target, str((node.args, node.kwargs))), node)
            if first is not node:
                node.replace_all_uses_with(first)
                program.graph.erase_node(node)


def _is_pure(node: fx.Node) -> bool:
    """Whether a node is a reduction or the number that is read from one, as lengths are."""
    return node.target in (aten.max.default, aten.min.default, aten.sum.default, aten.item.default)


def _lift_numbers(program: ExportedProgram) -> None:
    """Make tensors of the numbers with a point that depend on sizes: torch.onnx takes plain ones alone."""
    known: dict[fx.Node, fx.Node] = {}

    def add(before: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with program.graph.inserting_before(before):
            node: fx.Node = program.graph.call_function(target, args, kwargs)
        values = fx.node.map_arg((args, kwargs), lambda item: item.meta["val"])
        with fake:
            node.meta["val"] = target(*values[0], **values[1])
        return node

    def tensor(number: Any) -> Any:
        """A float64 tensor of the value of `number`."""
        if not isinstance(number, fx.Node):
            return number
        if number not in known:
            target = number.target
            if target in _NUMBERS and isinstance(number.meta["val"], torch.SymFloat):
                first, *others = [tensor(item) for item in number.args]
                if not isinstance(first, fx.Node):
                    first = add(number, aten.scalar_tensor.default, first, dtype=torch.float64)
                known[number] = add(number, _NUMBERS[target], first, *others)
            else:  # a size, or a number that was read from a tensor
                known[number] = add(number.next, aten.scalar_tensor.default, number, dtype=torch.float64)
        return known[number]

    for node in list(program.graph.nodes):
        value = node.meta.get("val")
        if node.target not in _ARITHMETIC or not isinstance(value, torch.Tensor):
            continue
        fake = value.fake_mode  # type: ignore[attr-defined]
        for number in [item for item in node.args if isinstance(item, fx.Node)]:
            if isinstance(number.meta["val"], torch.SymFloat):
                dtype = value.dtype if value.dtype.is_floating_point else torch.get_default_dtype()
                node.replace_input_with(number, add(node, aten.to.dtype, tensor(number), dtype))


_ARITHMETIC = {
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
    *(aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar),
}
"""Operators that take a number with a point beside a tensor."""

_NUMBERS: dict[Any, Any] = {
    operator.add: aten.add.Tensor,
    operator.sub: aten.sub.Tensor,
    operator.mul: aten.mul.Tensor,
    operator.truediv: aten.div.Tensor,
    operator.pow: aten.pow.Tensor_Scalar,
    torch._sym_sqrt: aten.sqrt.default,  # type: ignore[attr-defined]
}
"""Arithmetic of such numbers, and the operator that does the same to tensors."""


_BOUNDED = {aten.clamp.default, aten.clamp_.default, aten.hardtanh.default, aten.hardtanh_.default}


def _widen_bounds(program: ExportedProgram) -> None:
    """Make bounds of one type: torch.onnx makes a tensor of a whole one beside one with a point, and then fails."""
    for node in program.graph.nodes:
        if node.target in _BOUNDED and node.meta["val"].dtype.is_floating_point:
            node.args = tuple(float(bound) if type(bound) is int else bound for bound in node.args)


def _split_by_slices(program: ExportedProgram) -> None:
    """Take parts of a size that is no plain number by slices: ONNX's own split asks for plain numbers."""
    for node in list(program.graph.nodes):
        if node.target is not operator.getitem or node.args[0].target is not aten.split.Tensor:
            continue
        x, size, *dim = arguments(node.args[0])
        if isinstance(size, int):
            continue
        value, k = node.meta["val"], node.args[1]
        with program.graph.inserting_before(node):
            start, end = (_times(program.graph, size, times) for times in (k, k + 1))
            part = program.graph.call_function(aten.slice.Tensor, (x, *(dim or [0]), start, end))
        part.meta = {**node.meta, "val": value}
        node.replace_all_uses_with(part)


def _times(graph: fx.Graph, size: fx.Node, times: int) -> fx.Node | int:
    if times < 2:
        return size if times else 0
    product = graph.call_function(operator.mul, (size, times))
    product.meta["val"] = size.meta["val"] * times
    return product
