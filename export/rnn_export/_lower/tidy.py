"""What a leaf's own lowering cannot see.

Two transpositions, one of its output and one of batch_first, that are one; a weight that two layers share; and two
layers that compute the same.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .._capture.graph import OPERATORS

DIRECTIONS_LAST, BATCH_FIRST = (0, 2, 1, 3), (1, 0, 2)
"""(sequence, directions, batch, hidden) -> (sequence, batch, directions, hidden), which a Reshape joins, and
(sequence, batch, features) -> (batch, sequence, features)."""

RECURRENT = frozenset(OPERATORS.values())

LARGE = 1 << 16
"""Bytes. A smaller weight is not worth a node."""


def tie_embeddings(graph: ir.Graph) -> None:
    """Have a linear layer take the weight of an embedding that it is tied to, and not a copy with its axes swapped.

    A runtime swaps them as it loads the graph.
    """
    tables = {
        node.inputs[0]: None
        for node in graph.all_nodes()
        if node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[0].is_initializer()
    }
    for table in tables:
        weight = table.const_value
        if weight is None or weight.nbytes < LARGE or len(weight.shape) != 2 or table.graph is not graph:
            continue
        swapped = weight.numpy().T
        for value in list(graph.initializers.values()):
            other = value.const_value
            if value is table or other is None or other.dtype != weight.dtype or tuple(other.shape) != swapped.shape:
                continue
            # OpenVINO takes no values from around the body of a Scan, but for constants.
            inner = any(use.node.graph is not graph for use in value.uses())
            if not inner and not value.is_graph_output() and np.array_equal(other.numpy(), swapped):
                node = ir.node("Transpose", [table], {"perm": [1, 0]})
                graph.insert_before(graph[0], node)
                ir.convenience.replace_all_uses_with(value, node.outputs[0])
                graph.initializers.pop(str(value.name))
                node.outputs[0].name = value.name


def complete_twins(graph: ir.Graph) -> None:
    """Have nodes of the same operator, inputs and attributes give the same outputs, whether they are taken or not.

    ONNX Runtime makes one of such nodes, and fails where one gives an output that the other leaves out.
    """
    twins: dict[object, list[ir.Node]] = {}
    for node in graph:
        if node.op_type in RECURRENT:
            attributes = [(one.name, str(one.value)) for one in node.attributes.values()]
            twins.setdefault((node.op_type, tuple(node.inputs), tuple(attributes)), []).append(node)
    several = [nodes for nodes in twins.values() if len(nodes) > 1]
    for node, most in [(node, max(len(one.outputs) for one in nodes)) for nodes in several for node in nodes]:
        given = next(output.name for output in node.outputs if output.name)
        node.resize_outputs(most)
        for k, output in enumerate(node.outputs):
            output.name = output.name or f"{given}_beside_{k}"


def join_transpositions(graph: ir.Graph) -> None:
    """Have the output of both directions transposed once, straight to batch first."""
    for last in [node for node in graph if _turns(node, BATCH_FIRST)]:
        joined = _alone(last)
        first = _alone(joined) if joined is not None and _joins(joined) else None
        # A model may well turn and reshape in this way itself, for other ends: only an operator's output counts.
        if joined is None or first is None or not _turns(first, DIRECTIONS_LAST) or not _is_output(first.inputs[0]):
            continue
        first.attributes["perm"] = ir.AttrInt64s("perm", [2, 0, 1, 3])
        (old,), (new,) = last.outputs, joined.outputs
        new.shape, new.type = old.shape, old.type
        name, old.name = old.name, new.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = name
        graph.remove(last, safe=True)


def _turns(node: ir.Node, perm: tuple[int, ...]) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == perm


def _joins(node: ir.Node) -> bool:
    """Whether a node joins the last two of four dimensions, as the lowering of both directions does."""
    if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].const_value is None:
        return False
    return list(node.inputs[1].const_value.numpy()) == [0, 0, -1]


def _is_output(value: ir.Value | None) -> bool:
    """Whether a value is the output Y of a recurrent operator."""
    node = None if value is None else value.producer()
    return node is not None and node.op_type in RECURRENT and value is node.outputs[0]


def _alone(node: ir.Node) -> ir.Node | None:
    """What gives the first input of a node, where nothing else takes it."""
    value = node.inputs[0]
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return value.producer()
