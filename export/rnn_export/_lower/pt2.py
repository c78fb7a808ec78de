"""The captured program as a .pt2 file that loads without this project: every leaf as PyTorch's own operators.

`torch.export` by itself refuses recurrent layers, since it decomposes them while it traces. Here the graph is edited
after tracing: a node's operator and arguments change, and what shape its value has is known from the leaf.
"""

from __future__ import annotations

import copy
import io
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from rnn_runtime._signature import METADATA_KEY

from .._capture import Captured, leaves, scan_leaf
from .._capture.graph import arguments, finish, initial_states, user_inputs
from .._errors import ExportError
from .._quiet import quiet
from .limits import Check, checks

aten: Any = torch.ops.aten

_PADDED = {
    leaves.rnn_tanh: aten.rnn_tanh.input,
    leaves.rnn_relu: aten.rnn_relu.input,
    leaves.gru: aten.gru.input,
    leaves.lstm: aten.lstm.input,
}
_PACKED = {
    leaves.rnn_tanh: aten.rnn_tanh.data,
    leaves.rnn_relu: aten.rnn_relu.data,
    leaves.gru: aten.gru.data,
    leaves.lstm: aten.lstm.data,
}


def write(captured: Captured, path: Path) -> None:
    """Write the program to `path`, its signature in the extra files.

    Raises:
        ExportError: the model calls rnn_export.scan, or PyTorch cannot write the program.
    """
    if any(node.target is scan_leaf.scan for node in captured.program.graph.nodes):
        raise ExportError("the model calls rnn_export.scan, for which .pt2 has no operator: leave the format 'pt2' out")
    try:
        with quiet():
            program = copy.deepcopy(captured.program)
            put_back(program)
            _require_sizes(program, list(checks(captured.signature)))
            buffer = io.BytesIO()  # PyTorch's own writer ends the process where the disk is full
            torch.export.save(program, buffer, extra_files={METADATA_KEY: captured.signature.to_json()})
    except Exception as error:
        raise ExportError(f"the model cannot be written as .pt2: {type(error).__name__}: {error}") from error
    path.write_bytes(buffer.getbuffer())


def _require_sizes(program: ExportedProgram, sizes: Sequence[Check]) -> None:
    """Have a program look at some sizes before all else."""
    graph, inputs = program.graph, user_inputs(program)
    if not sizes:
        return
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        for check in sizes:
            value = inputs[check.input].meta["val"].shape[check.dim]
            size = graph.call_function(aten.sym_size.int, (inputs[check.input], check.dim))
            size.meta["val"] = value
            ends = [(operator.ge, check.limit.min)]
            ends += [] if check.limit.max is None else [(operator.le, check.limit.max)]
            for compare, end in ends:
                held = graph.call_function(compare, (size, end))
                held.meta["val"] = compare(value, end)
                graph.call_function(aten._assert_scalar.default, (held, check.text)).meta["val"] = None
    finish(program)


def put_back(program: ExportedProgram) -> None:
    """Replace every leaf of `program` by operators of PyTorch, in place."""
    graph = program.graph
    editors: dict[Any, Callable[[_Edit], None]] = {leaves.pack: _pack, leaves.pad: _pad}
    for node in list(graph.nodes):
        if node.target in _PADDED or node.target in editors:
            with graph.inserting_before(node):
                editors.get(node.target, _recurrent)(_Edit(program, node))
    finish(program)


class _Edit:
    """A leaf that is being replaced: adds nodes before it, with what shapes their values have."""

    def __init__(self, program: ExportedProgram, node: fx.Node) -> None:
        self._graph = program.graph
        self._ranges = program.range_constraints
        values = node.meta["val"]
        self.fake: Any = (values[0] if isinstance(values, tuple | list) else values).fake_mode
        self.node = node
        self.args = arguments(node)

    def add(self, target: Any, *args: Any, like: Any = None) -> fx.Node:
        """A node whose value is `like`, or what the operator itself says of it."""
        node: fx.Node = self._graph.call_function(target, args)
        node.meta = {key: value for key, value in self.node.meta.items() if key in ("stack_trace", "nn_module_stack")}
        if like is None:
            with self.fake:
                like = target(*fx.node.map_arg(args, lambda a: a.meta["val"]))
        node.meta["val"] = like
        return node

    def unknown_size(self) -> torch.SymInt:
        """A size that depends on values, and is 1 or more."""
        environment = self.fake.shape_env
        size: torch.SymInt = environment.create_unbacked_symint()
        torch._check(size >= 1)
        self._ranges[size.node.expr] = environment.var_to_range[size.node.expr]
        return size

    def size(self, tensor: fx.Node, dim: int) -> Any:
        """A size of a tensor: a number, or the node that asks for it."""
        size = tensor.meta["val"].shape[dim]
        return size if isinstance(size, int) else self.add(aten.sym_size.int, tensor, dim, like=size)


def _states(edit: _Edit, x: fx.Node) -> list[fx.Node]:
    """The initial states, zeros where the leaf has none."""
    found = []
    for slot, given in initial_states(edit.node):
        final = edit.node.meta["val"][slot]
        shape = [final.shape[0], edit.size(x, 1), final.shape[2]]
        found.append(given if given is not None else edit.add(aten.new_zeros.default, x, shape, like=final))
    return found


def _recurrent(edit: _Edit) -> None:
    node = edit.node
    x, *_, lengths, weights, biases, layers, both = edit.args
    states = _states(edit, x)
    hx: Any = states if node.target is leaves.lstm else states[0]
    settings = (list(weights), biases, layers, 0.0, False, both)
    if lengths is None:
        node.args = (x, hx, *settings, False)
        node.target = _PADDED[node.target]
        return
    y, *finals = node.meta["val"]
    n = edit.add(aten.to.dtype, lengths, torch.int64)
    ordered = edit.add(aten.sort.default, n, 0, True)
    n, order = (edit.add(operator.getitem, ordered, k, like=ordered.meta["val"][k]) for k in (0, 1))
    back = edit.add(aten.argsort.default, order)
    with edit.fake:
        rows, steps = edit.unknown_size(), edit.unknown_size()
        data = y.new_empty(rows, x.meta["val"].shape[2])
        sizes = n.meta["val"].new_empty(steps)
        result = y.new_empty(rows, y.shape[2])
    packed = edit.add(
        aten._pack_padded_sequence.default,
        edit.add(aten.index_select.default, x, 1, order),
        n,
        False,
        like=(data, sizes),
    )
    values, batch_sizes = (edit.add(operator.getitem, packed, k, like=v) for k, v in enumerate((data, sizes)))
    states = [edit.add(aten.index_select.default, state, 1, order, like=state.meta["val"]) for state in states]
    hx = states if node.target is leaves.lstm else states[0]
    run = edit.add(_PACKED[node.target], values, batch_sizes, hx, *settings, like=(result, *finals))
    out = edit.add(operator.getitem, run, 0, like=result)
    padded = edit.add(
        aten._pad_packed_sequence.default, out, batch_sizes, False, 0.0, edit.size(x, 0), like=(y, n.meta["val"])
    )
    results = [edit.add(aten.index_select.default, edit.add(operator.getitem, padded, 0, like=y), 1, back, like=y)]
    for k, final in enumerate(finals, 1):
        results.append(
            edit.add(aten.index_select.default, edit.add(operator.getitem, run, k, like=final), 1, back, like=final)
        )
    _take_results(node, results)


def _take_results(node: fx.Node, results: Sequence[fx.Node]) -> None:
    """Let what took the leaf's results take these."""
    for user in list(node.users):
        user.replace_all_uses_with(results[arguments(user)[1]])


def _pack(edit: _Edit) -> None:
    x, lengths = edit.args
    value = edit.node.meta["val"]
    longest = edit.add(aten.max.default, lengths)
    steps = edit.add(aten.item.default, longest, like=value.shape[0])
    edit.node.replace_all_uses_with(edit.add(aten.slice.Tensor, x, 0, 0, steps, like=value))


def _pad(edit: _Edit) -> None:
    y, lengths, fill, total = edit.args
    value = edit.node.meta["val"]
    more = edit.add(operator.sub, total, edit.size(y, 0), like=value.shape[0] - y.meta["val"].shape[0])
    pads = [0] * (2 * value.dim() - 1)
    padded = edit.add(aten.constant_pad_nd.default, y, [*pads, more], fill, like=value)
    past = edit.add(
        aten.ge.Tensor,
        edit.add(aten.unsqueeze.default, edit.add(aten.arange.default, total), 1),
        edit.add(aten.unsqueeze.default, lengths, 0),
    )
    for _ in range(value.dim() - 2):
        past = edit.add(aten.unsqueeze.default, past, -1)
    edit.node.replace_all_uses_with(edit.add(aten.masked_fill.Scalar, padded, past, fill, like=value))
