"""Reading a captured program: its inputs, results and recurrent leaves, and where a value comes from."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from . import leaves, scan_leaf

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """A recurrent call that was found.

    Attributes:
        name: the module's path in the model ("" for the model itself).
        operator: RNN, LSTM, GRU, or Scan for a call of rnn_export.scan.
        hidden_size, num_layers, bidirectional, proj_size: as in PyTorch.
        dtype: of the input, weights and states.
        axis: what it runs over: the name of an axis, or an expression in such names.
        packed: runs over a packed sequence.
    """

    name: str
    operator: str
    hidden_size: int
    num_layers: int
    bidirectional: bool
    packed: bool
    proj_size: int
    dtype: str
    axis: str


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """A node's arguments, whose types only its operator knows."""
    return tuple(node.args)


def recurrent(program: ExportedProgram) -> list[fx.Node]:
    """The leaves that hold recurrent layers, and the calls of rnn_export.scan, in their order."""
    return [node for node in program.graph.nodes if node.target in leaves.RECURRENT or node.target is scan_leaf.scan]


def initial_states(node: fx.Node) -> list[tuple[int, fx.Node | None]]:
    """Of a recurrent node, for each state its position among the results and the node that gives its initial value."""
    args = arguments(node)
    if node.target is scan_leaf.scan:
        return list(enumerate(args[1]))
    return [(slot, args[slot]) for slot in state_slots(node)]


def state_slots(node: fx.Node) -> tuple[int, ...]:
    """Positions of the initial states among a leaf's arguments; final states have the same among its results."""
    return (1, 2) if node.target is leaves.lstm else (1,)


def layers(program: ExportedProgram, axis_of: Callable[[fx.Node], str]) -> tuple[Layer, ...]:
    """The recurrent layers of a captured program, whose first axis `axis_of` names."""
    return tuple(
        _scan(node, axis_of) if node.target is scan_leaf.scan else _layer(node, axis_of) for node in recurrent(program)
    )


def _layer(node: fx.Node, axis_of: Callable[[fx.Node], str]) -> Layer:
    *_, lengths, weights, _biases, num_layers, both = arguments(node)
    operator, gates = OPERATORS[node.target], _GATES[OPERATORS[node.target]]
    return Layer(
        name=module_path(node),
        operator=operator,
        hidden_size=weights[0].meta["val"].shape[0] // gates,
        num_layers=num_layers,
        bidirectional=both,
        packed=lengths is not None,
        proj_size=weights[1].meta["val"].shape[1] if leaves.has_projection(weights, num_layers, both) else 0,
        dtype=_dtype(weights[0]),
        axis=axis_of(arguments(node)[0]),
    )


def _scan(node: fx.Node, axis_of: Callable[[fx.Node], str]) -> Layer:
    _, states, xs, *_ = arguments(node)
    size = states[0].meta["val"].shape[-1] if states and states[0].meta["val"].dim() else 0
    return Layer(
        name=module_path(node),
        operator="Scan",
        hidden_size=size if isinstance(size, int) else 0,
        num_layers=1,
        bidirectional=False,
        packed=False,
        proj_size=0,
        dtype=_dtype(xs[0]),
        axis=axis_of(xs[0]),
    )


def module_path(node: fx.Node) -> str:
    """The path of the module that a node's call stands in."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path: str = stack[-1][0] if stack else ""
    return path.removeprefix("model").removeprefix(".")


def _dtype(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


OPERATORS = {leaves.rnn_tanh: "RNN", leaves.rnn_relu: "RNN", leaves.gru: "GRU", leaves.lstm: "LSTM"}
"""The ONNX operator of each leaf."""

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def user_inputs(program: ExportedProgram) -> list[fx.Node]:
    """The placeholders of the model's own inputs, in order."""
    wanted = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [nodes[name] for name in wanted]


def user_outputs(program: ExportedProgram) -> list[fx.Node]:
    """The nodes of the model's own results, in order."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    results = zip(arguments(output)[0], program.graph_signature.output_specs, strict=True)
    return [node for node, spec in results if spec.kind is OutputKind.USER_OUTPUT]


def finish(program: ExportedProgram) -> None:
    """After an edit of the graph: drop what nothing uses, and let the signature name the results that there are now."""
    graph = program.graph
    graph.eliminate_dead_code()
    graph.lint()
    (output,) = (node for node in graph.nodes if node.op == "output")
    for node, spec in zip(arguments(output)[0], program.graph_signature.output_specs, strict=True):
        if isinstance(node, fx.Node):
            spec.arg.name = node.name
    program.graph_module.recompile()


MOVES = {
    *(aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default, aten._to_copy.default),
    *(aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.expand.default, aten.repeat.default),
    *(aten.view.default, aten.reshape.default, aten.unflatten.int, aten.flatten.using_ints),
    *(aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default),
    *(aten.permute.default, aten.transpose.int, aten.movedim.int, aten.flip.default),
    *(aten.sort.default, aten.sort.stable, aten.index_select.default, aten.index.Tensor),
    *(aten.select.int, aten.slice.Tensor, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default),
    *(aten.unbind.int, python_operator.getitem),
}
"""Operators that move the values of their first argument about, or take some of them, and change none."""

JOINS = {aten.cat.default, aten.stack.default}
MASKS = {aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.dropout.default, aten.where.self}
"""Operators that keep some of the values of an argument and replace the others."""


def origins(node: fx.Node, *, scaled: bool = False) -> list[fx.Node]:
    """`node` and every node whose values reach it, moved about, joined or masked; where `scaled`, multiplied too.

    Nodes whose values are joined come in the order in which they are.
    """
    seen: dict[fx.Node, None] = {}
    todo = [node]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen[node] = None
            if node.target in MOVES:
                todo += node.all_input_nodes[:1]
            elif node.target is aten.where.self:
                todo += [item for item in reversed(arguments(node)[1:]) if isinstance(item, fx.Node)]
            elif node.target in MASKS:
                todo += node.all_input_nodes[:1]
            elif node.target in JOINS or (scaled and node.target is aten.mul.Tensor):
                todo += reversed(node.all_input_nodes)
    return list(seen)


def ancestors(node: fx.Node) -> set[fx.Node]:
    """`node` and every node that its value is computed from."""
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += node.all_input_nodes
    return seen
