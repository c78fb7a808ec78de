"""A precision: a rewrite of the proven float32 graph, held against the yardstick by noise and by what is decided."""

from __future__ import annotations

import ast
import itertools
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.numpy_helper import from_array, to_array

import rnn_runtime
from rnn_runtime import InputError, Report
from rnn_runtime._report import measures

from . import _float16, _int8
from ._backends.onnxruntime import OnnxRuntime
from ._compare import compare, together
from ._errors import ExportError
from ._first import FirstRun
from ._inspect import graphs
from ._reference import Case, runs

Write = Callable[[onnx.ModelProto, Path, Collection[str]], None]
"""Writes a graph in another precision, all but the nodes named."""


@dataclass(frozen=True)
class Rewrite:
    """How the layers of a float32 graph are given a precision.

    Attributes:
        operators: what is rewritten, where its weight is a constant.
        without: recurrent operators that have no such form: a Scan stands for them.
        lowering: what "auto" means for the float32 graph.
        stepped: a graph for single steps goes beside it.
        write: what the bundle is to hold.
        proof: the same to be measured on the CPU, where `write` is computed more exactly there than it will be.
        itemsize: bytes of a weight.
        largest: the largest weight that it holds.
        note: what its time on the CPU says.
    """

    operators: tuple[str, ...]
    lowering: str
    write: Write
    itemsize: int
    without: tuple[str, ...] = ()
    stepped: bool = False
    proof: Write | None = None
    largest: float = np.inf
    note: str = ""


REWRITES = {
    "int8": Rewrite(
        _int8.OPERATORS, lowering="int8", write=_int8.write, itemsize=1, without=_int8.WITHOUT, stepped=True
    ),
    "float16": Rewrite(
        _float16.OPERATORS,
        lowering="portable",  # where "auto" writes a Scan it is faster on the CPU
        write=_float16.write,
        itemsize=2,
        proof=_float16.write_rounded,
        largest=_float16.LARGEST,
        note=" on the CPU, which computes it in float32: float16 is for CUDA",
    ),
}
PRECISIONS = ("fp32", *REWRITES)
LARGEST = 2_000_000_000  # bytes; protobuf ends at 2 GiB


@dataclass(frozen=True)
class Quantized:
    """What became of the weights.

    Attributes:
        precision: "int8" or "float16".
        layers: the modules whose weights are in it.
        kept: those left in float32, since they hurt.
        others: those with a product of weights that it has no form for, such as a convolution in int8.
        snr: the smallest signal-to-noise ratio of an output over all that was compared, in decibels.
        agreement: how often the largest element along the last axis is the same, for the output where it is so least;
            None where no output has two elements to choose from.
        size: bytes of the graph before and after.
        seconds: a run on the example, one thread, before and after.
    """

    precision: str
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    others: tuple[str, ...]
    snr: float
    agreement: float | None
    size: tuple[int, int]
    seconds: tuple[float, float]

    def __str__(self) -> str:
        decided = "" if self.agreement is None else f", the largest element is the same in {self.agreement:.1%}"
        (big, small), (slow, fast) = self.size, self.seconds
        return "\n".join(
            [
                f"{self.precision}: {', '.join(self.layers)}",
                *([f"left in float32, since it hurts: {', '.join(self.kept)}"] if self.kept else []),
                *(
                    [f"left in float32, of which there is no such form: {', '.join(self.others)}"]
                    if self.others
                    else []
                ),
                f"signal to noise {self.snr:.1f} dB{decided}",
                f"size {big / 1e6:.3g} -> {small / 1e6:.3g} MB; the example on one thread {slow * 1e6:.0f} -> "
                f"{fast * 1e6:.0f} µs{REWRITES[self.precision].note}",
            ]
        )


def check_precision(precision: str, formats: Sequence[str] | None, target: str | None) -> Sequence[str]:
    """The formats to write. Raises InputError where the precision is unknown, or a format or target cannot hold it."""
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; give one of {list(PRECISIONS)}")
    if precision == "float16" and target is not None:
        raise InputError(
            f"precision='float16' is for CUDA on today's ONNX Runtime, and target is {target!r}: leave one out. "
            "OpenVINO and TensorRT compute a float32 graph in float16 by a setting of theirs"
        )
    if formats is None:
        return ("onnx",) if precision in REWRITES else ("onnx", "torchscript")
    if precision in REWRITES and (isinstance(formats, str) or list(formats) != ["onnx"]):
        raise InputError(
            f"precision={precision!r} is for ONNX, and formats is {formats!r}: give ['onnx'], or leave it out"
        )
    return formats


def measured_tolerance(report: Report, cases: Sequence[Case], least: Mapping[str, float]) -> dict[str, float]:
    """For each output what a bundle's own check allows: twice the error that was seen, and `least` at least.

    Args:
        report: of the cases on one backend or more, in their order.
        cases: with the values that an error is a part of where they are above 1.
        least: for each output.
    """
    found = dict(least)
    wants = itertools.cycle([(name, want) for case in cases for name, want in case.want.items()])
    rows = [row for row in report.rows if row.backend != "eager"]
    for row, (name, want) in zip(rows, wants, strict=False):
        assert row.output == name
        measure = 1.0 if row.where is None else float(measures(want)[row.where])
        found[name] = max(found[name], 2 * row.error / measure)
    return found


def quantize(
    path: Path, cases: Sequence[Case], precision: str, tolerance: float | None, first: FirstRun
) -> tuple[Quantized, Report]:
    """Give the layers of the graph in `path` another precision, all but those that hurt.

    Args:
        path: the float32 graph, which the other replaces.
        cases: inputs, and what eager PyTorch makes of them: the example first, on which time is taken.
        precision: one of `REWRITES`.
        tolerance: the largest error, in place of the bounds on noise and decisions.
        first: tries each graph that is written.

    Raises:
        ExportError: there is no weight to rewrite, a recurrent operator has no such form, the graph is too large, or
            no choice of layers reaches the bound.
    """
    rewrite = REWRITES[precision]
    model = onnx.load(path)
    _untie(model.graph)
    layers, others = _layers(model.graph, rewrite)
    whole = [name for name, layer in layers.items() if layer.whole]
    if whole:
        raise ExportError(
            f"precision={precision!r}, and the graph has {' and '.join(whole)} as one operator of ONNX, which has no "
            "such form: leave `lowering` out"
        )
    if not layers:
        raise ExportError(
            f"precision={precision!r}, but the graph has no layer with float32 weights: leave it out, or export "
            "model.float() if it is float64"
        )
    kept = [name for name, layer in layers.items() if not layer.largest <= rewrite.largest]
    if len(kept) == len(layers):
        raise ExportError(
            f"precision={precision!r} holds {rewrite.largest:g} at most, and every layer has a larger "
            "weight: leave it out"
        )
    size = _size(model.graph, rewrite, [layer for name, layer in layers.items() if name not in kept])
    if size > LARGEST:
        raise ExportError(
            f"precision={precision!r}, and the weights are still {size / 1e9:.1f} GB: a graph of more than "
            f"{LARGEST / 1e9:g} is kept in float32 alone, so leave it out"
        )
    target, proof = path.with_name(f"{precision}.onnx"), path.with_name(f"{precision}-proof.onnx")
    written = {target: rewrite.write} | ({proof: rewrite.proof} if rewrite.proof is not None else {})

    last = [*written][-1]  # what noise is measured on

    def rewritten(file: Path, kept: Collection[str]) -> OnnxRuntime:
        written[file](model, file, [node for name in kept for node in layers[name].nodes])
        first.require(file, runs(cases[:1]))
        backend = OnnxRuntime(file, "cpu")
        if file == proof:
            backend.name += f"-{precision}"
        return backend

    def held(kept: Collection[str]) -> Report:
        return compare(cases, [rewritten(file, kept) for file in written], tolerance, precision)

    def alone(name: str) -> float:
        return _quality(rewritten(last, layers.keys() - {name}), cases)[0]

    try:
        report = held(kept)
        searched = _size(model.graph, rewrite, []) <= LARGEST  # with almost all in float32
        if not report.passed and searched:
            # Each alone, the noisiest first: what hurts goes back to float32 until the rest is good.
            for name in sorted((name for name in layers if name not in kept), key=alone)[:-1]:
                kept.append(name)
                report = held(kept)
                if report.passed:
                    break
        if not report.passed:
            worst = report.failures[0]
            raise ExportError(
                f"precision={precision!r} keeps too little of the results{', whichever layers are in it' * searched} "
                f"({worst.output}: {worst.note or f'error {worst.error:.2g}'}): leave `precision` out"
            )
        snr, agreement = _quality(OnnxRuntime(last, "cpu"), cases)
        data = path.with_name(f"{path.name}.data")  # of a graph above 2 GB
        before = path.stat().st_size + (data.stat().st_size if data.exists() else 0)
        sizes, seconds = (before, target.stat().st_size), _time([path, target], cases[0].inputs)
        target.replace(path)
        data.unlink(missing_ok=True)
    finally:
        for file in written:
            file.unlink(missing_ok=True)
    done = tuple(name for name in layers if name not in kept)
    return Quantized(precision, done, tuple(kept), others, snr, agreement, sizes, seconds), report


def rewritten(path: Path, precision: str, kept: Collection[str]) -> None:
    """Put the float32 graph in `path` into another precision as `quantize` did, given what it kept.

    Args:
        path: the graph, which the other replaces.
        precision: one of `REWRITES`.
        kept: the layers that stay in float32, as `Quantized.kept` names them.

    Raises:
        ExportError: the graph has no such layer.
    """
    rewrite = REWRITES[precision]
    model = onnx.load(path)
    _untie(model.graph)
    layers, _ = _layers(model.graph, rewrite)
    if unknown := sorted(set(kept) - layers.keys()):
        raise ExportError(f"the graph has no layer {', '.join(unknown)}, which the bundle keeps in float32")
    rewrite.write(model, path, [node for name in kept for node in layers[name].nodes])


def _size(graph: onnx.GraphProto, rewrite: Rewrite, layers: Sequence[_Layer]) -> int:
    """Bytes of a graph's weights once these layers are rewritten."""
    weights = {name: math.prod(tensor.dims) for layer in layers for name, tensor in layer.weights.items()}
    before = sum(to_array(tensor).nbytes for part in graphs(graph) for tensor in part.initializer)
    return int(before - (4 - rewrite.itemsize) * sum(weights.values()))


def _untie(graph: onnx.GraphProto) -> None:
    """Give a layer that is tied to an embedding a constant of its own again: what tie_embeddings did, undone."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in constants]:
        (perm,) = (attribute.ints for attribute in node.attribute)
        graph.initializer.append(from_array(to_array(constants[node.input[0]]).transpose(perm), node.output[0]))
        graph.node.remove(node)


def _quality(backend: OnnxRuntime, cases: Sequence[Case]) -> tuple[float, float | None]:
    """The worst signal-to-noise ratio, and the worst agreement, of an output over all cases."""
    pairs = [(backend.run(case.inputs), case.want) for case in cases]
    if any((np.isfinite(want[name]) & ~np.isfinite(got[name])).any() for got, want in pairs for name in want):
        return -np.inf, None  # a ratio of finite elements alone would tell nothing of what overflowed
    outputs = (together([(got[name], want[name]) for got, want in pairs]) for name in pairs[0][1])
    found = [output for output in outputs if output is not None]
    agreements = [output.agreement for output in found if not np.isnan(output.agreement)]
    return min((output.snr for output in found), default=np.inf), min(agreements, default=None)


@dataclass
class _Layer:
    """The nodes of a layer, by name, and its weights; whether it is an operator without such a form."""

    nodes: list[str] = field(default_factory=list)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    whole: bool = False

    @property
    def largest(self) -> float:
        """NaN, where one is."""
        arrays = (to_array(tensor) for tensor in self.weights.values())
        return float(np.max([np.abs(array).max(initial=0.0) for array in arrays]))


_PRODUCTS = ("MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "RNN", "GRU", "LSTM")


def _layers(graph: onnx.GraphProto, rewrite: Rewrite) -> tuple[dict[str, _Layer], tuple[str, ...]]:
    """The layers with constant weights, whose nodes' names become unique; modules with products of other weights."""
    found: dict[str, _Layer] = {}
    others: dict[str, None] = {}

    def look(part: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto], label: str | None) -> None:
        weights = {**outer, **{one.name: one for one in part.initializer if one.data_type == onnx.TensorProto.FLOAT}}
        for node in part.node:
            name = label or _module(node)
            own = {value: weights[value] for value in node.input if value in weights}
            weight = node.input[:1] if node.op_type == "Gather" else node.input[1:2]
            if node.op_type in (*rewrite.operators, *rewrite.without) and weights.keys() >= set(weight):
                layer = found.setdefault(name, _Layer())
                node.name = f"{name}/{node.op_type}/{len(layer.nodes)}"
                layer.nodes.append(node.name)
                layer.weights |= own
                layer.whole |= node.op_type in rewrite.without
            elif node.op_type in _PRODUCTS and any(len(tensor.dims) > 1 for tensor in own.values()):
                others[name] = None
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    look(attribute.g, weights, name)

    look(graph, {}, None)
    return found, tuple(others)


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
