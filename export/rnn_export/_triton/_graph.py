"""The graph for Triton's ONNX Runtime backend: the bundle's, with its tensors turned around."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rnn_runtime import TensorSpec

from ._plan import READY, START, Plan

_INNER = "model/"  # before every name of the bundle's own graph


def turned(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The model with the batch first in every input and output, and for a stateful one two flags for each row.

    Where START is set, a row's state is taken as zeros, whatever memory Triton gives for it. Where READY is not, the
    row is a slot without a request, and its state stays.
    """
    inner = onnx.ModelProto()
    inner.CopyFrom(model)
    _prefix(inner.graph)
    nodes: list[onnx.NodeProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    constants: dict[str, onnx.TensorProto] = {}

    def constant(name: str, value: Any) -> str:
        constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(operator: str, given: list[str], made: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, given, [made], name=f"triton/{made}", **attributes))
        return made

    def flag(name: str, rank: int) -> str:
        """The flag of each row, in a shape that goes with a state of this rank."""
        shape = constant(f"rank_{rank}", np.array([-1] + [1] * (rank - 1), np.int64))
        made = f"{name}/{rank}"
        return made if any(made in n.output for n in nodes) else node("Reshape", [name, shape], made)

    for spec in plan.inputs:
        inputs.append(_value(spec.name, spec, plan))
        _move(node, spec.name, f"{_INNER}{spec.name}", _to(plan.place(spec), len(spec.axes)))
    for state, _, name, _ in plan.states:
        inputs.append(_value(name, state, plan))
        zero = constant(f"zero_{state.dtype}", np.zeros((), state.dtype))
        started = node("Where", [flag(START, len(state.axes)), zero, name], f"{name}/started")
        _move(node, started, f"{_INNER}{state.name}", _to(plan.place(state), len(state.axes)))
    nodes += inner.graph.node
    for spec in plan.outputs:
        outputs.append(_value(spec.name, spec, plan))
        _move(node, f"{_INNER}{spec.name}", spec.name, _from(plan.place(spec), len(spec.axes)))
    for _, following, name, next_name in plan.states:
        outputs.append(_value(next_name, following, plan))
        rank = len(following.axes)
        moved = f"{next_name}/moved"
        _move(node, f"{_INNER}{following.name}", moved, _from(plan.place(following), rank))
        node("Where", [flag(READY, rank), moved, f"{name}/started"], next_name)
    if plan.states:
        for name in (START, READY):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.BOOL, [plan.axis, 1]))
    graph = helper.make_graph(nodes, inner.graph.name, inputs, outputs, [*inner.graph.initializer, *constants.values()])
    graph.sparse_initializer.extend(inner.graph.sparse_initializer)
    made = helper.make_model(graph, opset_imports=inner.opset_import, ir_version=inner.ir_version)
    made.functions.extend(inner.functions)
    return made


def _prefix(graph: onnx.GraphProto) -> None:
    """Put `_INNER` before every name of a graph and of the graphs in it, which may use names of the outer one."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = _INNER + value.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = _INNER + sparse.values.name
    for node in graph.node:
        node.name = _INNER + node.name
        node.input[:] = [name and _INNER + name for name in node.input]  # "" stands for an input left out
        node.output[:] = [name and _INNER + name for name in node.output]
        for attribute in node.attribute:
            for part in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _prefix(part)


def _move(node: Any, name: str, made: str, order: list[int]) -> None:
    if order == sorted(order):
        node("Identity", [name], made)
    else:
        node("Transpose", [name], made, perm=order)


def _to(place: int, rank: int) -> list[int]:
    """The permutation that takes the first dimension to `place`."""
    return [*range(1, place + 1), 0, *range(place + 1, rank)]


def _from(place: int, rank: int) -> list[int]:
    """The permutation that takes the dimension at `place` to the front."""
    return [place, *(k for k in range(rank) if k != place)]


def _value(name: str, spec: TensorSpec, plan: Plan) -> onnx.ValueInfoProto:
    axes = [spec.axes[k] for k in _from(plan.place(spec), len(spec.axes))]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), axes)
