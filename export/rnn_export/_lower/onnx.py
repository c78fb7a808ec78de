"""The captured program as an ONNX model whose inputs, outputs and axes carry the signature's names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass
from onnxscript import optimizer

from rnn_runtime import InputError, Signature
from rnn_runtime._signature import METADATA_KEY

from .._capture import Captured, Layer, leaves, scan_leaf
from .._capture.graph import aten
from .._errors import ExportError
from .._quiet import quiet
from . import fused, numbers, operators, packed, precise, scan, step, tidy
from .optimize import optimize

MINIMUM_OPSET = 18
ORIGIN = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")
"""What a node keeps of where it comes from: its modules. The exporter also notes lines of code with their paths."""
LARGEST = 1_900_000_000  # bytes; protobuf ends at 2 GiB

SCAN = "scan_{}"
"""The name of each Scan of the graph, by its place in `scans`: a tool that rewrites the graph may put the nodes into
another order."""

LOWERINGS = ("auto", "fused", "scan", "decomposed")
# From this hidden_size on "auto" writes an RNN as a Scan: benchmarks/lowerings.py has 0.2 to 0.6 of an operator's
# time in batches. A lone step takes 1.0 to 1.4 of it, for which there is a second graph (single.py). The LSTM and GRU
# operators are as fast as a Scan or faster.
RNN_SCAN = 64


def chosen(layer: Layer, lowering: str, *, split_directions: bool = False) -> str:
    """How a layer is written, "fused", "scan" or "decomposed", where `lowering` is asked for.

    Beside LOWERINGS there are "int8", and two of targets: "portable", which is "auto" without the Scan that is faster
    alone, and "masked", which is that with packed sequences as a Scan.

    Raises:
        ExportError: "fused" is asked for and no fused operator can run the layer, or "decomposed" and its number of
            steps is not fixed.
    """
    if lowering == "decomposed":
        _require_fixed(layer)
        return lowering
    if layer.operator == "Scan":
        return "scan"
    reason = "has a projection (proj_size)" if layer.proj_size else "is float64" if layer.dtype == "float64" else None
    if lowering == "fused" and reason:
        raise ExportError(
            f"lowering='fused', but {_said(layer)} {reason}, and ONNX Runtime has no operator for "
            "that: leave `lowering` out"
        )
    # Over packed sequences the Scan's mask costs more than its products save, except in batches.
    faster = layer.operator == "RNN" and layer.hidden_size >= RNN_SCAN and not layer.packed and layer.axis != "1"
    faster = faster and not split_directions  # a Scan over the sequence in reverse is no operator that runs forward
    # ONNX Runtime has an 8-bit operator for the LSTM alone.
    eight_bits = lowering == "int8" and layer.operator != "LSTM"
    asked = lowering == "scan" or (lowering == "auto" and faster) or (lowering == "masked" and layer.packed)
    return "scan" if reason or asked or eight_bits else "fused"


def scans(captured: Captured, lowering: str, *, split_directions: bool = False) -> list[str]:
    """What each Scan of the graph runs over, in the order of their names: a Scan runs one direction of one layer."""
    kinds = [(layer, chosen(layer, lowering, split_directions=split_directions)) for layer in captured.layers]
    return [
        layer.axis
        for layer, kind in kinds
        if kind == "scan"
        for _ in range(layer.num_layers * (2 if layer.bidirectional else 1))
    ]


def _said(layer: Layer) -> str:
    """A layer in a sentence; one that is the model itself has no name."""
    return f"the {layer.operator} {layer.name!r}" if layer.name else f"the {layer.operator}"


def _require_fixed(layer: Layer) -> None:
    """Raises ExportError where a layer cannot be written as a fixed number of steps."""
    what = f"lowering='decomposed', but {_said(layer)}"
    if layer.operator == "Scan":
        raise ExportError(
            f"{what} runs over {layer.axis!r} as a Scan. A call of rnn_export.scan stays one: leave `lowering` out. A "
            f"Python loop is written out where that axis is fixed, as in sizes={{{layer.axis!r}: 16}}"
        )
    if layer.packed:
        raise ExportError(
            f"{what} runs over a packed sequence, whose steps are as many as its lengths say: leave `lowering` out, or "
            "the packing"
        )
    if not layer.axis.isdigit():
        raise ExportError(
            f"{what} runs over {layer.axis!r}, and steps that are written out are a fixed number: give it, as in "
            f"sizes={{{layer.axis!r}: 16}} (--size {layer.axis}=16)"
        )


def _translations(
    captured: Captured, lowering: str, split_directions: bool
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """For each leaf the function that writes it. The calls come in the order of the layers found."""
    kinds = [chosen(layer, lowering, split_directions=split_directions) for layer in captured.layers]
    layers = iter([kind for layer, kind in zip(captured.layers, kinds, strict=True) if layer.operator != "Scan"])

    def write(name: str, *args: Any) -> Any:
        kind = next(layers)
        if kind == "fused":
            return getattr(fused, name)(*args, **({"split": True} if split_directions else {}))
        return getattr(scan, name)(*args, **({"unroll": True} if kind == "decomposed" else {}))

    def recurrent(name: str) -> Callable[..., Any]:
        return lambda *args: write(name, *args)

    written = {leaf: recurrent(name) for leaf, name in leaves.RECURRENT.items()}
    others: dict[Callable[..., Any], Callable[..., Any]] = {
        **{leaves.pack: packed.pack, leaves.pad: packed.pad},
        **{aten.layer_norm.default: precise.layer_norm, aten.scalar_tensor.default: precise.scalar_tensor},
    }
    return {**operators.TRANSLATIONS, **numbers.TRANSLATIONS, **written, **others}


def write(
    captured: Captured,
    path: Path,
    lowering: str,
    opset: int | None,
    *,
    split_directions: bool = False,
    ir_version: int | None = None,
) -> None:
    """Write the ONNX model to `path`, with this IR version if one is given; large weights go beside it.

    Raises:
        ExportError: as `to_onnx`.
    """
    model = to_onnx(captured, lowering, opset, split_directions=split_directions)
    if ir_version is not None:
        model.ir_version = ir_version  # nothing in these graphs is newer than their opset
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if size > LARGEST else None)


def to_onnx(
    captured: Captured, lowering: str = "auto", opset: int | None = None, *, split_directions: bool = False
) -> ir.Model:
    """The ONNX model of a captured program, at `opset` (18 by default).

    Raises:
        ExportError: an operator of the model has no ONNX form.
        InputError: the opset is too old, or newer than the tools know.
    """
    opset = MINIMUM_OPSET if opset is None else opset
    if opset < MINIMUM_OPSET:
        raise InputError(f"opset {opset} was asked for; the graphs need {MINIMUM_OPSET} or newer: leave `opset` out")
    translations = _translations(captured, lowering, split_directions)

    def convert(program: torch.export.ExportedProgram) -> ir.Model:
        with quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                optimize=False,
                custom_translation_table=translations,
            )
            assert converted is not None
            numbers.widen(converted.model.graph)
            optimize(converted.model)
        _separate_outputs(converted.model.graph)
        return converted.model

    try:
        steps = step.bodies(captured.program, scan_leaf.scan, convert)
        translations[scan_leaf.scan] = step.lower(steps)
        model = convert(captured.program)
    except Exception as error:
        raise ExportError(f"the captured model has no ONNX form: {_said_of(_root(error))}") from error
    written = model.opset_imports.get("")
    if written != opset:
        raise InputError(f"opset {opset} was asked for; torch and onnxscript write {written} instead")
    # The default limits of constant folding would leave the gate reordering of large weights in the graph.
    optimizer.fold_constants(
        model, onnx_shape_inference=False, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize
    )
    optimizer.remove_unused_nodes(model)
    with quiet():  # it says which it leaves alone
        DeduplicateInitializersPass(size_limit=sys.maxsize)(model)  # the one by hashes fails on transposed arrays
    tidy.complete_twins(model.graph)
    tidy.tie_embeddings(model.graph)
    tidy.join_transpositions(model.graph)
    if lowering == "decomposed":
        _require_no_loops(model)
    for k, node in enumerate(node for node in model.graph if node.op_type == "Scan"):
        node.name = SCAN.format(k)
    _name(model, captured.signature)
    return model


def _require_no_loops(model: ir.Model) -> None:
    """Raises ExportError where a loop is left in a graph that is to have none."""
    nodes = [node for graph in model.graphs() for node in graph]
    if any(node.op_type in ("Loop", "Scan") for node in (*nodes, *(n for f in model.functions.values() for n in f))):
        raise ExportError(
            "lowering='decomposed', but torch.logcumsumexp is written as a Loop, in rounds: leave `lowering` out, or "
            "compute it with torch.logaddexp step by step"
        )


def _said_of(text: str) -> str:
    """What the tools say, or the operator that they do not know and the way out."""
    unknown = re.search(r"No ONNX function found for <OpOverload\(op='(?:aten|prims)\.(\w+)'", text)
    if unknown is None:
        return text
    return (
        f"PyTorch's operator {unknown[1]!r} has no translation: compute it with other operators, or leave that format "
        "out, as in formats=['torchscript']"
    )


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _name(model: ir.Model, signature: Signature) -> None:
    """Put the signature's names on inputs, outputs and axes, and the signature itself into the metadata.

    A dimension that the graph has fixed stays fixed, whatever the signature says: to find that is the next room's work.
    """
    graph = model.graph
    taken = {spec.name for spec in (*signature.inputs, *signature.outputs)}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}_inner"
            if not value.is_graph_output():
                value.shape = None  # names its axes s0, s7; ONNX Runtime infers it again
    for values, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name
            assert value.shape is not None
            # What the tools infer of an operator over flattened axes may be a scalar: the signature knows the rank.
            known = value.shape if len(value.shape) == len(spec.axes) else spec.axes
            value.shape = ir.Shape(
                size if isinstance(size, int) else axis for size, axis in zip(known, spec.axes, strict=True)
            )
    _forget(model)
    model.metadata_props[METADATA_KEY] = signature.to_json()
    model.producer_name = "rnn-export"


def _forget(model: ir.Model) -> None:
    """Leave out what the tools note for debugging: three quarters of a small file, with folders of this machine."""
    for graph in model.graphs():
        graph.metadata_props.clear()
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.metadata_props.clear()
        for node in graph:
            origin = {key: node.metadata_props[key] for key in ORIGIN if key in node.metadata_props}
            node.metadata_props.clear()
            node.metadata_props.update(origin)
            for value in node.outputs:
                value.metadata_props.clear()


def _separate_outputs(graph: ir.Graph) -> None:
    """Give each output a value of its own: a model may return one tensor twice, or an input."""
    seen: set[ir.Value] = set()
    for k, value in enumerate(graph.outputs):
        if value in seen or value.is_graph_input():
            node = ir.node("Identity", [value])
            graph.append(node)
            graph.outputs[k] = node.outputs[0]
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        seen.add(value)
