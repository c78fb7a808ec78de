"""The leaf of rnn_export.scan as an ONNX Scan whose body is the step's own graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import evaluator
from torch import Tensor, fx
from torch.export import Dim

from .._capture.graph import arguments
from .._capture.scan_leaf import STEPS

UNKNOWN_SIZE = 3
"""What to trace a step with, where the size of a tensor depends on values."""


def bodies(
    program: torch.export.ExportedProgram, target: Any, convert: Callable[[Any], ir.Model]
) -> dict[int, ir.Graph]:
    """The ONNX graph of each step that `program` runs, made by `convert` from an exported program."""
    scans = [node for node in program.graph.nodes if node.target is target]
    graphs = {node.args[0]: convert(_program(STEPS[node.args[0]], _inputs(node))).graph for node in scans}
    for graph in graphs.values():
        _join_sums(graph)
    return graphs


def _join_sums(graph: ir.Graph) -> None:
    """Make `Add(Gemm(h, w), x)` one Gemm: in a small step each node counts."""
    for product in [node for node in graph if node.op_type == "Gemm" and len(node.inputs) == 2]:
        (value,) = product.outputs
        users = [use.node for use in value.uses()]
        if len(users) != 1 or users[0].op_type != "Add" or value.is_graph_output():
            continue
        (total,) = users
        other = next((x for x in total.inputs if x is not value), None)
        shapes = [None if x is None or x.shape is None else list(x.shape) for x in (value, other)]
        if shapes[0] is None or shapes[0] != shapes[1]:
            continue
        # At the sum's place all that it takes is known.
        settings = {name: setting.value for name, setting in product.attributes.items()}
        joined = ir.node("Gemm", [*product.inputs, other], settings)
        joined.outputs[0].shape, joined.outputs[0].type = value.shape, value.type
        joined.outputs[0].name = total.outputs[0].name
        graph.insert_before(total, joined)
        ir.convenience.replace_all_uses_with(total.outputs[0], joined.outputs[0], replace_graph_outputs=True)
        graph.remove([total, product], safe=True)


def _inputs(scan: fx.Node) -> list[Tensor]:
    """What a step is called with: states, one entry of each sequence, closure."""
    _, states, xs, closure, _ = arguments(scan)
    return [
        *(node.meta["val"] for node in states),
        *(node.meta["val"][0] for node in xs),
        *(node.meta["val"] for node in closure),
    ]


def _program(step: fx.GraphModule, values: Sequence[Tensor]) -> torch.export.ExportedProgram:
    examples = tuple(torch.zeros([_size(size) for size in value.shape], dtype=value.dtype) for value in values)
    dynamic = tuple(
        {dim: Dim.DYNAMIC for dim, size in enumerate(value.shape) if isinstance(size, torch.SymInt)} for value in values
    )
    with torch.no_grad():
        return torch.export.export(step, examples, dynamic_shapes=dynamic, strict=False)


def _size(size: Any) -> int:
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else UNKNOWN_SIZE


def lower(graphs: dict[int, ir.Graph]) -> Callable[..., Any]:
    """The function that writes a scan leaf, whose steps have these graphs."""

    def scan(number: int, states: Sequence[Any], xs: Sequence[Any], closure: Sequence[Any], reverse: bool) -> Any:
        graph = graphs[number]
        # A name inside a body hides the outer graph's.
        for value in [*graph.inputs, *graph.initializers.values(), *(o for n in graph.all_nodes() for o in n.outputs)]:
            value.name = f"step{number}.{value.name}"
        inner = list(graph.inputs)[len(states) + len(xs) :]
        for value, outer in zip(inner, closure, strict=True):
            ir.convenience.replace_all_uses_with(value, outer)
            graph.inputs.remove(value)
        recorder: Any = evaluator.default()
        node = ir.node(
            "Scan",
            [*states, *xs],
            {
                "body": graph,
                "num_scan_inputs": len(xs),
                "scan_input_directions": [int(reverse)] * len(xs),
                "scan_output_directions": [int(reverse)] * (len(graph.outputs) - len(states)),
            },
            num_outputs=len(graph.outputs),
        )
        recorder.nodes.append(node)
        return list(node.outputs)

    return scan
