"""int8: the weights of an ONNX graph in 8 bits, held against the yardstick by noise and by what is decided.

ONNX Runtime's dynamic quantiser does the rewriting: activations are scaled at run time, weights by output channel. An
LSTM becomes its own 8-bit operator; GRU and RNN have none, so they are lowered to a Scan, whose product becomes one.
Weights keep 7 of their 8 bits: a product of full ones saturates on processors without VNNI (16 dB instead of 37), and a
bundle goes from one machine to another; it costs 1 to 2 dB.
"""

from __future__ import annotations

import ast
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import rnn_runtime
from rnn_runtime import InputError, Report

from ._backends.onnxruntime import OnnxRuntime
from ._compare import compare, together
from ._errors import ExportError
from ._quiet import quiet
from ._reference import Case

PRECISIONS = ("fp32", "int8")
OPERATORS = ("LSTM", "MatMul", "Gemm", "Gather")
"""What is quantised, where its weight is a constant. Gather is an embedding."""


@dataclass(frozen=True)
class Quantized:
    """What became of the weights.

    Attributes:
        layers: the modules whose weights are in 8 bits.
        kept: those left in float32, since they hurt.
        snr: the smallest signal-to-noise ratio of an output over all that was compared, in decibels.
        agreement: how often the largest element along the last axis is the same, for the output where it is so least;
            None where no output has two elements to choose from.
        size: bytes of the graph before and after.
        seconds: a run on the example, one thread, before and after.
    """

    layers: tuple[str, ...]
    kept: tuple[str, ...]
    snr: float
    agreement: float | None
    size: tuple[int, int]
    seconds: tuple[float, float]

    def __str__(self) -> str:
        decided = "" if self.agreement is None else f", the largest element is the same in {self.agreement:.1%}"
        (big, small), (slow, fast) = self.size, self.seconds
        return "\n".join(
            [
                f"int8: {', '.join(self.layers)}",
                *([f"left in float32, since it hurts: {', '.join(self.kept)}"] if self.kept else []),
                f"signal to noise {self.snr:.1f} dB{decided}",
                f"size {big / 1e6:.3g} -> {small / 1e6:.3g} MB; the example on one thread {slow * 1e6:.0f} -> "
                f"{fast * 1e6:.0f} µs",
            ]
        )


def check_precision(precision: str, formats: Sequence[str] | None) -> Sequence[str]:
    """The formats to write. Raises InputError where the precision is unknown, or a format cannot hold it."""
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; give one of {list(PRECISIONS)}")
    if formats is None:
        return ("onnx",) if precision == "int8" else ("onnx", "torchscript")
    if precision == "int8" and list(formats) != ["onnx"]:
        raise InputError(
            f"precision='int8' is for ONNX, and formats is {list(formats)}: give ['onnx'], or leave it out"
        )
    return formats


def measured_tolerance(report: Report, least: Mapping[str, float]) -> dict[str, float]:
    """For each output what a bundle's own check allows: twice the error that was seen, and `least` at least."""
    rows = [row for row in report.rows if row.backend != "eager"]
    return {
        name: max(allowed, *(2 * row.error for row in rows if row.output == name)) for name, allowed in least.items()
    }


def quantize(path: Path, cases: Sequence[Case], tolerance: float | None) -> tuple[Quantized, Report]:
    """Put the weights of the graph in `path` into 8 bits, all but those that hurt.

    Args:
        path: the float32 graph, which the 8-bit one replaces.
        cases: inputs, and what eager PyTorch makes of them: the example first, on which time is taken.
        tolerance: the largest error, in place of the bounds on noise and decisions.

    Raises:
        ExportError: there is no weight to quantise, or no choice of layers reaches the bound.
    """
    model = onnx.load(path)
    layers = _layers(model.graph)
    if not layers:
        raise ExportError("precision='int8', but the graph has no layer with float32 weights: leave `precision` out")
    target = path.with_name("int8.onnx")

    def held(kept: Collection[str]) -> Report:
        _write(model, target, [node for layer in kept for node in layers[layer]])
        return compare(cases, [OnnxRuntime(target, "cpu")], tolerance, "int8")

    def alone(layer: str) -> float:
        _write(model, target, [node for other in layers if other != layer for node in layers[other]])
        return _quality(target, cases)[0]

    try:
        kept: list[str] = []
        report = held(kept)
        if not report.passed:
            # Each alone, the noisiest first: what hurts goes back to float32 until the rest is good.
            for layer in sorted(layers, key=alone)[:-1]:
                kept.append(layer)
                report = held(kept)
                if report.passed:
                    break
        if not report.passed:
            worst = report.failures[0]
            raise ExportError(
                f"precision='int8' keeps too little of the results, whichever layers are quantised ({worst.output}: "
                f"{worst.note or f'error {worst.error:.2g}'}): leave `precision` out"
            )
        snr, agreement = _quality(target, cases)
        size, seconds = (path.stat().st_size, target.stat().st_size), _time([path, target], cases[0].inputs)
        target.replace(path)
    finally:
        target.unlink(missing_ok=True)
    done = tuple(layer for layer in layers if layer not in kept)
    return Quantized(done, tuple(kept), snr, agreement, size, seconds), report


def _write(model: onnx.ModelProto, target: Path, kept: Sequence[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the quantiser writes into what it is given
    with quiet():
        quantize_dynamic(
            copy,
            target,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # It makes a MatMul of each Gemm first, under this name.
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )


def _quality(path: Path, cases: Sequence[Case]) -> tuple[float, float | None]:
    """The worst signal-to-noise ratio, and the worst agreement, of an output over all cases."""
    backend = OnnxRuntime(path, "cpu")
    pairs = [(backend.run(case.inputs), case.want) for case in cases]
    outputs = (together([(got[name], want[name]) for got, want in pairs]) for name in pairs[0][1])
    found = [output for output in outputs if output is not None]
    agreements = [output.agreement for output in found if not np.isnan(output.agreement)]
    return min((output.snr for output in found), default=np.inf), min(agreements, default=None)


def _layers(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """The layers with constant weights, each with the names of its nodes, which become unique."""
    found: dict[str, list[str]] = {}

    def look(part: onnx.GraphProto, outer: frozenset[str], label: str | None) -> None:
        weights = (tensor for tensor in part.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
        constants = outer | {tensor.name for tensor in weights}
        for node in part.node:
            name = label or _module(node)
            weight = node.input[:1] if node.op_type == "Gather" else node.input[1:2]
            if node.op_type in OPERATORS and constants.issuperset(weight):
                nodes = found.setdefault(name, [])
                node.name = f"{name}/{node.op_type}/{len(nodes)}"
                nodes.append(node.name)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    look(attribute.g, constants, name)

    look(graph, frozenset(), None)
    return found


def _module(node: onnx.NodeProto) -> str:
    """The user's module that a node comes from, as "LSTM encoder.lstm"."""
    properties = {prop.key: prop.value for prop in node.metadata_props}
    scopes = ast.literal_eval(properties.get("pkg.torch.onnx.name_scopes", "[]"))
    classes = ast.literal_eval(properties.get("pkg.torch.onnx.class_hierarchy", "[]"))
    modules = [
        (scope, kind) for scope, kind in zip(scopes, classes, strict=False) if scope.partition(".")[0] == "model"
    ]
    if not modules:
        return node.name
    scope, kind = modules[-1]
    return " ".join(filter(None, [kind.rpartition(".")[2], scope.partition(".")[2]]))


def _time(paths: Sequence[Path], inputs: Mapping[str, Any]) -> tuple[float, float]:
    """Median seconds of a run of each, in turns."""
    models = [rnn_runtime.load(path, threads=1) for path in paths]
    found: list[list[float]] = [[] for _ in models]
    for _ in range(21):
        for model, seconds in zip(models, found, strict=True):
            start = time.perf_counter()
            model.run(dict(inputs))
            seconds.append(time.perf_counter() - start)
    before, after = (statistics.median(seconds) for seconds in found)
    return before, after
