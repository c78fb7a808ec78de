"""Inspect: the ONNX graph alone, before any number is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

from rnn_runtime import TensorSpec

from ._capture import Captured
from ._errors import ExportError
from ._lower.onnx import chosen


def inspect(captured: Captured, path: Path, lowering: str, *, split_directions: bool = False) -> dict[str, int]:
    """Check the graph in `path` against what was captured; returns how often each operator occurs.

    Raises:
        ExportError: the file is not valid ONNX; an axis that should be dynamic is not, or the other way round;
            recurrent operators are missing. All that is wrong is named.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise ExportError(f"the exported graph is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    problems: list[str] = []
    signature = captured.signature
    for values, specs, what in (
        (graph.input, signature.inputs, "input"),
        (graph.output, signature.outputs, "output"),
        (_inferred_outputs(model), signature.outputs, "output"),
    ):
        if len(values) != len(specs):
            problems.append(f"it has {len(values)} {what}s where the model has {len(specs)}")
            continue
        found = (_spec(value) for value in values)
        problems += [f"the {what} {spec} became {got}" for spec, got in zip(specs, found, strict=True) if got != spec]
    counts = operators(graph)
    expected: dict[str, int] = {}
    for layer in captured.layers:
        kind = chosen(layer, lowering, split_directions=split_directions)
        if kind == "decomposed":
            continue
        # A fused operator runs both directions, unless they are split; a Scan one.
        apart = layer.bidirectional and (kind == "scan" or split_directions)
        operator = "Scan" if kind == "scan" else layer.operator
        expected[operator] = expected.get(operator, 0) + layer.num_layers * (2 if apart else 1)
    kinds = [node.op_type for node in graph.node]  # a step may hold scans of its own
    for operator in ("RNN", "LSTM", "GRU", "Scan"):
        if kinds.count(operator) != expected.get(operator, 0):
            problems.append(f"it has {kinds.count(operator)} {operator} nodes; expected {expected.get(operator, 0)}")
    if problems:
        raise ExportError("the exported graph is not the model: " + "; ".join(dict.fromkeys(problems)))
    return counts


def inspect_step(captured: Captured, path: Path, axis: str) -> None:
    """Check the graph for single steps in `path`: the model's own inputs and outputs, `axis` being 1.

    Raises:
        ExportError: the file is not valid ONNX, or its inputs and outputs are others. All that is wrong is named.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise ExportError(f"the graph for single steps is not valid ONNX: {str(error).splitlines()[0]}") from error
    graph = onnx.load(str(path), load_external_data=False).graph
    found = [_spec(value) for value in [*graph.input, *graph.output]]
    expected = [
        TensorSpec(spec.name, spec.dtype, tuple(1 if size == axis else size for size in spec.axes))
        for spec in (*captured.signature.inputs, *captured.signature.outputs)
    ]
    if found != expected:
        raise ExportError(
            f"the graph for single steps takes and gives {', '.join(map(str, found))}; expected "
            f"{', '.join(map(str, expected))}"
        )


def _inferred_outputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The outputs as shape inference sees them, where it finds a size that the graph itself declares as dynamic.

    A size baked in somewhere inside shows here: the declaration alone would hide it.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph.output
    outputs = []
    for declared, found in zip(model.graph.output, inferred, strict=True):
        value = onnx.ValueInfoProto()
        value.CopyFrom(declared)
        sizes = zip(value.type.tensor_type.shape.dim, found.type.tensor_type.shape.dim, strict=False)
        for dim, size in sizes:
            if size.HasField("dim_value"):
                dim.dim_value = size.dim_value
        outputs.append(value)
    return outputs


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    axes = tuple(dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, axes)


def count_operators(path: Path) -> dict[str, int]:
    """How often each operator occurs in the graph in `path`, most frequent first."""
    return operators(onnx.load(str(path), load_external_data=False).graph)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for part in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from graphs(part)


def operators(graph: onnx.GraphProto) -> dict[str, int]:
    """How often each operator occurs, subgraphs included, most frequent first."""
    counts = Counter(node.op_type for part in graphs(graph) for node in part.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
