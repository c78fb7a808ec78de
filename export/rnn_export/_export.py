"""export(): the way through the house."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rnn_runtime import Report, Signature
from rnn_runtime._bundle import ONNX, STEP

from . import _backends, _lower, _targets
from ._alone import alone, told
from ._axis import Axis
from ._capture import Captured, Layer, capture, fix, limits
from ._capture.states import returned
from ._compare import bundle_tolerance, check_tolerance, compare, require
from ._first import FirstRun
from ._hold import hold
from ._inspect import count_operators, inspect, inspect_step
from ._quantize import REWRITES, Quantized, check_precision, measured_tolerance, quantize
from ._reference import Case, Reference, grid, more_shapes, runs
from ._seal import check_target, seal, unsealed
from ._stream import require_split, require_streamable
from ._suite import lacking, live, warnings
from ._versions import require_good_versions

MORE = 0.4
"""Further sizes and values are tried in eager PyTorch for this share of the time that the export has taken so far; the
backends take about as long, so that all together takes less than twice as long. What there was no time for is noted."""
LEAST = 5.0
"""Seconds that they may always take, so that small models are compared at the same sizes on every machine."""


@dataclass(frozen=True)
class Bundle(os.PathLike[str]):
    """A bundle that was written; stands for its path wherever a path is taken.

    Attributes:
        path: the folder.
        signature: inputs, outputs, states and lengths.
        layers: the recurrent layers that were found.
        report: the comparison with eager PyTorch, row by row.
        refused: sizes that eager PyTorch itself does not take, so that nothing was compared there.
    """

    path: Path
    signature: Signature
    layers: tuple[Layer, ...]
    report: Report = field(repr=False)
    refused: list[dict[str, int]]
    quantized: Quantized | None = None

    def __fspath__(self) -> str:
        return str(self.path)


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    axes: Mapping[str, Mapping[int, str | Axis]] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    lengths: str | None = None,
    state: str | Mapping[str, str] = "auto",
    formats: Sequence[str] | None = None,
    precision: str = "fp32",
    lowering: str = "auto",
    split_directions: bool = False,
    sizes: Mapping[str, int] | None = None,
    opset: int | None = None,
    target: str | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a verified bundle of `model` to the folder `path`.

    The model is left as it was: mode, hooks, parameters and the global random state included. The export works on a
    copy in evaluation mode on the CPU, so dropout is off; hooks run on the copy. Nothing is written unless every
    backend agrees with eager PyTorch.

    Args:
        model: any module. Layers (nn.RNN, nn.LSTM, nn.GRU and their functional forms), rnn_export.scan and Python
            loops over an axis become operators and scans; a model without any is exported too, and has no state.
        example_inputs: a tensor, a tuple of forward's arguments, or a dict of them by name; arguments may nest tensors
            in tuples and dicts.
        path: the folder to write; it appears when everything passed.
        axes: for each input, dimension -> axis name, as in {"x": {0: "batch", 1: "sequence"}}. Dimensions that are not
            named keep the example's size, but those of an input with no axes at all (a state, lengths) follow the
            others where the model needs it. Inferred for a bare nn.RNN, nn.LSTM or nn.GRU, whose inputs are called
            input, h_0 and c_0. In the place of a name, `rnn_export.Axis("sequence", min=10, max=512)` states limits:
            the bundle is verified within them, and refuses other sizes.
        input_names: names for the inputs, in order; forward's argument names if None.
        output_names: names for the outputs, in order.
        lengths: the input that holds the lengths of packed sequences; found by itself if None.
        state: which inputs and outputs carry state. "auto": a bare layer's own state, and every input that reaches a
            recurrent layer's initial state whose final state is returned; "explicit": the same, and an error where
            there is none; "lift": the hidden state of every inner layer that starts from zeros becomes an input and an
            output, so that the model can run on a stream, which is proven; "none": no state, also not for a bare layer;
            or a dict of input name -> output name.
        formats: what to write: "onnx", "torchscript" (legacy, by tracing), "pt2" (its successor, a program of
            torch.export). If None, "onnx" and "torchscript"; with int8 and float16 "onnx" alone, which holds them.
        precision: "fp32" leaves the model's own dtypes. "int8" puts the weights of recurrent layers, linear layers
            and embeddings of a float32 model into 8 bits where its results keep 30 dB and nine decisions of ten;
            what hurts stays as it is. "float16" is for CUDA: the same layers and convolutions in 16 bits where the
            results keep 50 dB, inputs, outputs and states in float32. `Bundle.quantized` tells what became of each
            layer, size and speed.
        lowering: how recurrent layers are written in ONNX. "fused": the RNN, LSTM and GRU operators; "scan": a Scan
            over matrix products; "auto": fused where ONNX Runtime has such an operator, which it has not for float64
            and for an LSTM with proj_size, and a Scan for an RNN of hidden_size 64 and more, where it is faster;
            "decomposed": a fixed number of steps (give it by `sizes`) of MatMul,
            Sigmoid, Tanh and the like, without RNN, LSTM, GRU, Scan or Loop.
        split_directions: for targets without bidirectional operators: a fused layer's directions become two operators
            that run forward, one of them over the reversed sequence.
        sizes: axis name -> the size that it has in the files, such as {"batch": 1, "sequence": 16}; for targets without
            dynamic shapes. The axes have to be dynamic in the model all the same.
        opset: of the ONNX graph; 18 if None, which is the oldest there is.
        target: the runtime that is to take the ONNX graph, where it is another than today's ONNX Runtime:
            "onnxruntime-1.15" (and newer), "onnxruntime-web", "openvino" or "tensorrt". It chooses what "auto" leaves
            open, and what the target does not take is refused (docs/targets.md).
        tolerance: largest absolute error allowed, times the largest value where that is above 1. If None, by dtype
            (1e-5 for float32), or four times eager PyTorch's own error where that is more, a hundred times that at
            most.
        overwrite: replace a bundle that is already at `path`.

    Raises:
        InputError: an argument does not fit the model; names the argument and what would.
        ExportError: the model cannot be captured or lowered; names the module or axis and the way out.
        MismatchError: a backend leaves eager PyTorch; carries the report.
    """
    start = time.monotonic()
    path = Path(path)
    formats = check_precision(precision, formats, target)
    options = {
        "formats": list(formats),
        "precision": precision,
        "lowering": lowering,
        "split_directions": split_directions,
        "sizes": dict(sizes) if sizes else None,
        "target": target,
        "opset": opset,
        "tolerance": tolerance,
    }
    if declared := limits.split(axes)[1]:
        options["limits"] = {axis: [limit.min, limit.max] for axis, limit in declared.items()}
    _lower.check(formats, lowering)
    profile = _targets.find(target, opset, formats)
    rewrite = REWRITES.get(precision)
    if lowering == "auto":
        lowering = rewrite.lowering if rewrite else profile.lowering if profile else "auto"
    check_tolerance(tolerance)
    check_target(path, overwrite=overwrite)
    require_good_versions()
    with alone(), told(), torch.random.fork_rng(devices=[]):
        captured = capture(
            model,
            example_inputs,
            axes=axes,
            input_names=input_names,
            output_names=output_names,
            lengths=lengths,
            state=state,
        )
        reference = Reference(captured.flat, captured.signature, captured.sampler)
        if captured.flat.lifted:
            require_streamable(captured, reference)
        if sizes:
            options["opened"] = {name: dict(dims) for name, dims in captured.axes.items()}
            captured = fix(captured, sizes, unroll=lowering == "decomposed")
            reference = Reference(captured.flat, captured.signature, captured.sampler)
        with unsealed(path, overwrite=overwrite) as folder, FirstRun() as first:
            lower = functools.partial(
                _lower.lower,
                folder=folder,
                formats=formats,
                lowering=lowering,
                opset=opset,
                split_directions=split_directions,
                ir_version=profile.ir_version if profile is not None else None,
            )
            graph = folder / ONNX

            def write(captured: Captured) -> dict[str, int]:
                lower(captured)
                if target is not None:
                    _targets.require(target, graph)
                if not graph.exists():
                    return {}
                return inspect(captured, graph, lowering, split_directions=split_directions)

            operators = write(captured)
            held = hold(captured, reference, folder, first)
            if held is not captured:  # files state the limits themselves
                captured = held
                operators = write(captured)
            shapes = grid(captured.sizes, captured.sequences, captured.signature.limits)
            cases, refused = reference.cases(captured.with_tried(shapes))
            limits.require_ends(captured.signature.limits, [case.sizes for case in cases], refused)
            golden = [reference.on(captured.flat.inputs.example, captured.example_sizes), cases.pop(0)]
            cases += [reference.on(sample.inputs, sample.sizes) for sample in captured.witnesses]
            every = [*golden, *cases]
            further = more_shapes(captured.sizes, captured.sequences, [case.sizes for case in every])
            further = [sizes for sizes in further if captured.within(sizes)]
            more, left_out = reference.more(further, max(LEAST, MORE * (time.monotonic() - start)))
            if graph.exists():
                first.require(graph, [*runs([*every, *more]), *reference.runs(refused)])

            # What is for other runtimes, or for CUDA, has one graph.
            stepped = graph.exists() and target is None and (rewrite is None or rewrite.stepped)
            quantized = report = None
            if rewrite is not None:
                require(compare([*every, *more], _backends.found(folder), tolerance), "the export")
                quantized, report = quantize(graph, every, precision, tolerance, first)
                operators = count_operators(graph)
                if target is not None:
                    _targets.require(target, graph)
            step = _lower_step(captured, folder, lowering, every, first, split=split_directions) if stepped else None
            if report is None or step is not None:
                tried = every if rewrite else [*every, *more]  # of other precisions, the graph in float32 was
                compared = compare(tried, _backends.found(folder, step), tolerance, precision if rewrite else "")
                report = require(compared, "the export")
            allowed = bundle_tolerance(golden, tolerance)
            if rewrite is not None:
                allowed = measured_tolerance(report, every, allowed)
            eager = live(reference, captured.sequences, allowed, {})
            lacks = lacking(eager)
            require_split(captured, lacks)
            report = replace(report, warnings=(*_stateless(captured, state), *warnings(eager, lacks)))
            captured = replace(captured, assumptions=(*captured.assumptions, *reference.orders()))
            seal(
                folder, captured, report, refused, golden, allowed, operators, lacks, options, quantized, step, left_out
            )
    return Bundle(path, captured.signature, captured.layers, report, refused, quantized)


def _stateless(captured: Captured, state: str | Mapping[str, str]) -> Iterator[str]:
    """What the user of a model whose bundle has no state should know, unless none was asked for."""
    if captured.signature.states or state == "none":
        return
    if not captured.layers:
        yield (
            "the model calls no recurrent layer and has no state. Where an input is one, as the h of a cell, name it "
            "and its next value, as in state={'h': 'h_n'}"
        )
    elif named := [captured.signature.outputs[j].name for j in returned(captured.program)]:
        yield (
            f"no state: {', '.join(map(repr, named))} is returned and starts from zeros at each run. For a stream give "
            "the model an example of it, or pass state='lift'; state='none' leaves this line out"
        )


def _lower_step(
    captured: Captured, folder: Path, lowering: str, cases: Sequence[Case], first: FirstRun, *, split: bool
) -> str | None:
    """Write the graph for single steps; its axis, or None where there is none or eager PyTorch takes no single step."""
    step = _lower.lower_step(captured, folder, lowering, split_directions=split)
    if step is None:
        return None
    inspect_step(captured, folder / STEP, step)
    if all(case.sizes[step] != 1 for case in cases):
        (folder / STEP).unlink()
        return None
    first.require(folder / STEP, runs([case for case in cases if case.sizes[step] == 1]))
    return step
