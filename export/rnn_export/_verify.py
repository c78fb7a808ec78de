"""verify(): a bundle that exists against a live model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rnn_runtime import InputError, LengthsSpec, Report, Signature, _golden
from rnn_runtime._bundle import GOLDEN
from rnn_runtime._bundle import Bundle as Sealed
from rnn_runtime._verify import Progress, check_level, check_trial

from ._alone import alone, told
from ._capture import Prepared, prepare, sequences, traced
from ._capture.limits import stated
from ._capture.module import Flat
from ._capture.sample import Sampler
from ._compare import check_tolerance
from ._reference import Reference
from ._suite import Suite
from ._weights import NAME as WEIGHTS
from ._weights import weights


def verify(
    model: nn.Module,
    bundle: str | os.PathLike[str],
    *,
    example_inputs: Any = None,
    device: str = "cpu",
    tolerance: float | None = None,
    level: str = "default",
    seed: int = 0,
    only: str | None = None,
    backend: str | None = None,
    trial: Mapping[str, int] | None = None,
    trace: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Hold every artifact in `bundle` against the live eager `model`, on every backend that is at hand.

    First over a grid of sizes; then each property of docs/verification.md is tried, with what breaks it made as small
    as it can be. Where a backend leaves eager PyTorch, the report names the first recurrent layer that does.

    Args:
        model: what the bundle should be equal to; it stays as it is.
        bundle: the folder that `export` wrote, or what it returned.
        example_inputs: as for `export`; the bundle's own if None, which serves every model whose arguments are plain
            tensors.
        device: where the artifacts run: "cpu", "cuda", "cuda:1". The yardstick, eager PyTorch in float64, runs on the
            CPU.
        tolerance: the largest absolute error, times the largest value where that is above 1; by dtype if None.
        level: "quick" (fixed inputs alone, 1,000 steps of drift), "default" (25 inputs more for each property and
            backend, 10,000 steps; about 40 s at most for a small model) or "full" (250 more, and every property on
            every backend).
        seed: of the search.
        only: the one property to check.
        backend: the one backend to check.
        trial: the one trial of the property to make, as a report names it.
        trace: look for where backends leave eager PyTorch though nothing failed.
        command: what a command that reproduces a failure begins with.
        progress: called with what is done now, how much is done, and how much there is.

    Returns:
        The report; `.passed` is the verdict.

    Raises:
        BundleError: the bundle is damaged.
        ExportError, InputError: the model takes other inputs than the bundle, or gives other outputs.
        InputError: there is no such level, property, backend or trial.
        DeviceError: the device cannot be had.
    """
    sealed = Sealed.open(Path(bundle))
    sealed.verify_files()
    signature = sealed.signature
    check_tolerance(tolerance)
    check_level(level)
    check_trial(trial, only)
    with alone(), told(), torch.random.fork_rng(devices=[]):
        prepared = bound(model, sealed, example_inputs)
        lengths = [LengthsSpec(**spec) for spec in sealed.manifest.get("lengths", ())]
        reference = Reference(prepared.flat, signature, Sampler.of(signature, prepared.flat.inputs.example, lengths))
        over = sequences(signature, [str(layer["axis"]) for layer in sealed.manifest["layers"]])
        suite = Suite(
            sealed,
            reference,
            prepared.sizes,
            over,
            device=device,
            tolerance=tolerance,
            level=level,
            seed=seed,
            only=only,
            backend=backend,
            trial=trial,
            trace=trace,
            command=command or f"rnn-export verify {sealed.path} TARGET",
            progress=progress,
        )
        report = suite.run() if only != WEIGHTS else Report((), about=suite.about())
        if only not in (None, WEIGHTS) or backend is not None:
            return report
        again = f"{suite.command} --property {WEIGHTS}"
        held = [
            replace(check, command=again) if check.verdict == "failed" else check
            for check in weights(model, sealed, example_of(sealed, example_inputs))
        ]
        return replace(report, checks=(*held, *report.checks))


def example_of(sealed: Sealed, example_inputs: Any = None) -> Any:
    """The example inputs that are given, or the bundle's own without those that the export added."""
    if example_inputs is not None:
        return example_inputs
    added = {*sealed.manifest.get("lifted", ()), *sealed.manifest.get("kept", ())}
    golden = _golden.unpack(sealed.read(GOLDEN))[0].inputs
    return tuple(golden[spec.name] for spec in sealed.signature.inputs if spec.name not in added)


def bound(model: nn.Module, sealed: Sealed, example_inputs: Any = None) -> Prepared:
    """A model bound to the inputs of a bundle, with the same states lifted and kept.

    Args:
        model: what the bundle should be equal to.
        sealed: the bundle.
        example_inputs: as for `verify`.

    Raises:
        ExportError, InputError: the model takes other inputs than the bundle.
    """
    lifted = set(sealed.manifest.get("lifted", ()))
    kept = set(sealed.manifest.get("kept", ()))
    own = [spec for spec in sealed.signature.inputs if spec.name not in lifted | kept]
    try:
        prepared = prepare(
            model,
            example_of(sealed, example_inputs),
            axes={spec.name: stated(sealed.signature, spec) for spec in own},
            input_names=[spec.name for spec in own],
            state="lift" if lifted else "auto" if sealed.signature.states else "none",
        )
    except InputError as error:
        raise InputError(f"{error}. Is this the model that {sealed.path} was exported from?") from None
    if len(prepared.flat.lifted) < len(lifted):
        prepared, _, _ = traced(prepared, "lift")  # the rest is the state of loops
    _require_alike(prepared.flat, sealed.signature)
    return prepared


def _require_alike(flat: Flat, signature: Signature) -> None:
    """Raises InputError where the model's inputs are not the bundle's."""
    found = [(str(tensor.dtype).removeprefix("torch."), tensor.dim()) for tensor in flat.inputs.example]
    if found != [(spec.dtype, len(spec.axes)) for spec in signature.inputs]:
        shapes = ", ".join(f"{dtype} of {rank} dimensions" for dtype, rank in found)
        raise InputError(
            f"the model takes {shapes}; the bundle takes {', '.join(map(str, signature.inputs))}: this is another model"
        )
