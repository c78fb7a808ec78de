"""The graph for single steps: the graph for sequences with the body of each Scan in its place.

A Scan costs ONNX Runtime some microseconds, however short it is, and a stream pays them for each step. What is fused
already is as fast for one step as its parts are, or faster: benchmarks/steps.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from .._capture import Captured
from .onnx import SCAN

LARGE = 4 << 20
"""Bytes. A step of a larger graph takes 45 µs and more, of which a Scan is a fiftieth: not worth its weights in memory
twice."""

SMALL = 256
"""Bytes. A larger weight is read from where the graph for sequences has it, so that a bundle holds it once."""


def axis(captured: Captured, scans: Sequence[str], source: Path) -> str | None:
    """The axis of which a graph for single steps has one step: the one that the Scans in `source` share.

    None where the model has no state, so that it is no model for streams, where there is no such axis, or where the
    graph is large.

    Args:
        captured: the model.
        scans: what each Scan of the graph runs over.
        source: the graph for sequences.
    """
    if source.stat().st_size >= LARGE or source.with_name(f"{source.name}.data").exists():
        return None
    signature = captured.signature
    names = {name for spec in signature.data_inputs for name in spec.axes if isinstance(name, str)}
    shared = {_named(captured, over) for over in scans} & names
    return shared.pop() if signature.states and len(shared) == 1 else None


def _named(captured: Captured, over: str) -> str:
    """The axis that has one step where a Scan over this one has: packed data is as long as the longest row."""
    lengths = captured.signature.lengths
    return lengths.axis if lengths is not None and over == f"max({lengths.input})" else over


def write(captured: Captured, scans: Sequence[str], axis: str, source: Path, path: Path) -> None:
    """Write to `path` the graph in `source` for one step of `axis`; the weights stay in `source`.

    Args:
        captured: the model.
        scans: what each Scan of the graph runs over, in the order of their names.
        axis: one that some of them run over.
        source: the graph for sequences, which lies beside `path`.
        path: the file to write.
    """
    model = ir.load(source)
    nodes = {node.name: node for node in model.graph}
    for k, over in enumerate(scans):
        if _named(captured, over) == axis:
            _inline(model.graph, nodes[SCAN.format(k)], f"once{k}.")
    for value in [*model.graph.inputs, *model.graph.outputs]:
        assert value.shape is not None
        value.shape = ir.Shape(1 if str(size) == axis else size for size in value.shape)
    written = ir.to_proto(model)
    _refer(written, source)
    path.write_bytes(written.SerializeToString(deterministic=True))


def _inline(graph: ir.Graph, scan: ir.Node, prefix: str) -> None:
    """Put the body of a Scan that runs once in its place. Squeeze fails where it would run more often."""
    body = scan.attributes["body"].as_graph()
    states = len(scan.inputs) - scan.attributes["num_scan_inputs"].as_int()
    for value in _values(body):  # names of a body may be those of another
        value.name = f"{prefix}{value.name}"
    for node in body.all_nodes():
        node.name = f"{prefix}{node.name}"
    first = ir.node("Constant", [], {"value": ir.tensor(np.array([0]))})
    first.outputs[0].name = f"{prefix}first"
    before, after = [first], []
    for k, (inner, outer) in enumerate(zip(list(body.inputs), scan.inputs, strict=True)):
        assert outer is not None
        if k >= states:
            before.append(ir.node("Squeeze", [outer, first.outputs[0]]))
            outer = before[-1].outputs[0]
            outer.name = f"{prefix}in_{k}"
        ir.convenience.replace_all_uses_with(inner, outer)
    results = list(body.outputs)  # each is what a node of the body gives, and nothing else's result
    moved = list(body)
    body.outputs.clear()
    body.remove(moved)
    for value in list(body.initializers.values()):
        body.initializers.pop(str(value.name))
        graph.register_initializer(value)
    for k, (result, outer) in enumerate(zip(results, scan.outputs, strict=True)):
        if k >= states:
            after.append(ir.node("Unsqueeze", [result, first.outputs[0]]))
            result = after[-1].outputs[0]
        result.shape, result.type = outer.shape, outer.type
        name, outer.name = outer.name, f"{prefix}out_{k}"
        ir.convenience.replace_all_uses_with(outer, result, replace_graph_outputs=True)
        result.name = name
    graph.insert_before(scan, [*before, *moved, *after])
    graph.remove(scan, safe=True)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values that a graph itself makes, those of graphs inside it among them."""
    yield from graph.inputs
    yield from list(graph.initializers.values())  # a new name is a new key
    for node in graph.all_nodes():
        yield from node.outputs
        for attribute in node.attributes.values():
            for inner in [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else []:
                yield from inner.inputs
                yield from list(inner.initializers.values())


def _refer(model: onnx.ModelProto, source: Path) -> None:
    """Have each large weight read from the bytes of `source`, which hold it."""
    data = source.read_bytes()
    for tensor in model.graph.initializer:
        size = len(tensor.raw_data)
        offset = data.find(tensor.raw_data) if size >= SMALL else -1
        if offset < 0:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", source.name), ("offset", str(offset)), ("length", str(size))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
