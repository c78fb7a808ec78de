"""float16: the weights and products of an ONNX graph's layers in 16 bits, for CUDA.

Each layer stands between casts, so inputs, outputs, states and what lies between layers stay in float32: a Scan's state
too, from step to step. CUDA's own recurrent operators keep theirs in float16 within a run.

ONNX Runtime's `convert_float_to_float16` takes the whole graph, what is no layer too, and puts the casts around what
stays in float32 into the outermost graph alone, where they do not serve the body of a Scan.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ._inspect import graphs
from ._lower import tidy

OPERATORS = ("LSTM", "GRU", "RNN", "MatMul", "Gemm", "Conv", "ConvTranspose", "Gather")
"""What becomes float16, where its weight is a constant. Gather is an embedding."""
LARGEST = float(np.finfo(np.float16).max)

_WHOLE = {"Gather": 1, "LSTM": 4, "GRU": 4, "RNN": 4}
"""The input that holds whole numbers: indices, lengths."""

_Constants = dict[str, tuple[onnx.GraphProto, TensorProto]]


def write(model: onnx.ModelProto, target: Path, kept: Collection[str]) -> None:
    """Write `model` to `target` with its layers in float16, all but the nodes named in `kept`."""
    _write(model, target, kept, rounded=False)


def write_rounded(model: onnx.ModelProto, target: Path, kept: Collection[str]) -> None:
    """The same for a CPU, where it rounds and overflows as float16 does.

    ONNX Runtime has no float16 kernels of these operators there: it casts back to float32, and drops both casts. They
    stay where something is between that it does have, a Max of one tensor.
    """
    _write(model, target, kept, rounded=True)


def _write(model: onnx.ModelProto, target: Path, kept: Collection[str], *, rounded: bool) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _rewrite(copy.graph, {}, frozenset(kept), rounded)
    parts = list(graphs(copy.graph))
    used = {name for graph in parts for node in graph.node for name in node.input}
    used |= {value.name for graph in parts for value in graph.output}
    for graph in parts:
        unused = [k for k, tensor in enumerate(graph.initializer) if tensor.name not in used]
        for k in reversed(unused):
            del graph.initializer[k]
    shared = ir.from_proto(copy)
    tidy.tie_embeddings(shared.graph)
    ir.save(shared, target)


def _rewrite(graph: onnx.GraphProto, outer: _Constants, kept: frozenset[str], rounded: bool) -> None:
    constants = {**outer, **{one.name: (graph, one) for one in graph.initializer if one.data_type == TensorProto.FLOAT}}
    nodes: list[NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rewrite(attribute.g, constants, kept, rounded)
        one = NodeProto()
        one.CopyFrom(node)
        weight = one.input[: 1 if one.op_type == "Gather" else 2][-1:]
        if one.op_type in OPERATORS and one.name not in kept and constants.keys() >= set(weight):
            nodes += _between_casts(one, constants, rounded)
        else:
            nodes.append(one)
    del graph.node[:]
    graph.node.extend(nodes)


def _between_casts(node: NodeProto, constants: _Constants, rounded: bool) -> list[NodeProto]:
    """The node in float16, casts before and after it. Constants are cast here and now."""
    before: list[NodeProto] = []
    after: list[NodeProto] = []
    for k, name in enumerate(node.input):
        if not name or k == _WHOLE.get(node.op_type):
            continue
        if name in constants:
            graph, tensor = constants[name]
            half = f"{name}/float16"
            if all(other.name != half for other in graph.initializer):
                graph.initializer.append(
                    numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half)
                )
        else:
            half = f"{node.name}/input{k}"
            before += _cast(name, half, TensorProto.FLOAT16)
            half = _round(half, before) if rounded else half
        node.input[k] = half
    for k, name in enumerate(node.output):
        if name:
            half = node.output[k] = f"{node.name}/output{k}"
            half = _round(half, after) if rounded else half
            after += _cast(half, name, TensorProto.FLOAT)
    return [*before, node, *after]


def _cast(name: str, to: str, dtype: int) -> list[NodeProto]:
    return [helper.make_node("Cast", [name], [to], to=dtype)]


def _round(name: str, nodes: list[NodeProto]) -> str:
    nodes.append(helper.make_node("Max", [name], [f"{name}/rounded"]))
    return f"{name}/rounded"
