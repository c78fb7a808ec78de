"""verify(): a bundle that exists against a live model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rnn_runtime import InputError, Report, Signature, _golden
from rnn_runtime._bundle import GOLDEN
from rnn_runtime._bundle import Bundle as Sealed

from . import _backends
from ._alone import alone
from ._capture import prepare, sequences, traced
from ._capture.axes import dynamic
from ._capture.module import Flat
from ._capture.sample import Sampler
from ._compare import check_tolerance, compare
from ._reference import Reference, grid


def verify(
    model: nn.Module,
    bundle: str | os.PathLike[str],
    *,
    example_inputs: Any = None,
    device: str = "cpu",
    tolerance: float | None = None,
) -> Report:
    """Compare every artifact in `bundle` with the live eager `model`, over a grid of sizes.

    Args:
        model: what the bundle should be equal to; it stays as it is.
        bundle: the folder that `export` wrote, or what it returned.
        example_inputs: as for `export`; the bundle's own if None, which serves every model whose arguments are plain
            tensors.
        device: where the artifacts run: "cpu", "cuda", "cuda:1". The yardstick, eager PyTorch in float64, runs on the
            CPU.
        tolerance: the largest absolute error, times the largest value where that is above 1; by dtype if None.

    Returns:
        The report; `.passed` is the verdict.

    Raises:
        BundleError: the bundle is damaged.
        ExportError, InputError: the model takes other inputs than the bundle, or gives other outputs.
        DeviceError: the device cannot be had.
    """
    sealed = Sealed.open(Path(bundle))
    sealed.verify_files()
    signature = sealed.signature
    lifted = set(sealed.manifest.get("lifted", ()))
    own = [spec for spec in signature.inputs if spec.name not in lifted]
    check_tolerance(tolerance)
    with alone(), torch.random.fork_rng(devices=[]):
        if example_inputs is None:
            golden = _golden.unpack(sealed.read(GOLDEN))[0].inputs
            example_inputs = tuple(golden[spec.name] for spec in own)
        try:
            prepared = prepare(
                model,
                example_inputs,
                axes={spec.name: dynamic(spec) for spec in own},
                input_names=[spec.name for spec in own],
                state="lift" if lifted else "auto" if signature.states else "none",
            )
        except InputError as error:
            raise InputError(f"{error}. Is this the model that {sealed.path} was exported from?") from None
        if len(prepared.flat.lifted) < len(lifted):
            prepared, _, _ = traced(prepared, "lift")  # the rest is the state of loops
        _require_alike(prepared.flat, signature)
        reference = Reference(prepared.flat, signature, Sampler.of(signature, prepared.flat.inputs.example))
        over = sequences(signature, [str(layer["axis"]) for layer in sealed.manifest["layers"]])
        cases, _ = reference.cases(grid(prepared.sizes, over))
        return compare(cases, _backends.sealed(sealed, device), tolerance)


def _require_alike(flat: Flat, signature: Signature) -> None:
    """Raises InputError where the model's inputs are not the bundle's."""
    found = [(str(tensor.dtype).removeprefix("torch."), tensor.dim()) for tensor in flat.inputs.example]
    if found != [(spec.dtype, len(spec.axes)) for spec in signature.inputs]:
        shapes = ", ".join(f"{dtype} of {rank} dimensions" for dtype, rank in found)
        raise InputError(
            f"the model takes {shapes}; the bundle takes {', '.join(map(str, signature.inputs))}: this is another model"
        )
