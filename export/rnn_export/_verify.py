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
from ._capture import axes as axis_map
from ._capture import bare
from ._capture.module import Flat, flat_model
from ._capture.sample import Sampler
from ._compare import compare
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
    with torch.random.fork_rng(devices=[]):
        if example_inputs is None:
            golden = _golden.unpack(sealed.read(GOLDEN))[0].inputs
            example_inputs = tuple(golden[spec.name] for spec in signature.inputs)
        layer = bare.layer(model)
        if layer is not None:
            example_inputs = bare.inputs(layer, example_inputs, with_state=bool(signature.states))
        flat = flat_model(model, example_inputs)
        _require_alike(flat, signature)
        sampler = Sampler.of(signature, flat.inputs.example)
        reference = Reference(flat, signature, sampler)
        axes = {name: dict(sampler.axes[name]) for name in sampler.names}
        example = axis_map.sizes(sampler.names, axes, flat.inputs.example)
        cases = [case for seed, sizes in enumerate(grid(example)) if (case := reference.case(sizes, seed)) is not None]
        if not cases:
            raise InputError("the model takes no input of the bundle's sizes: this is another model")
        return compare(cases, _backends.found(sealed.path, device), tolerance)


def _require_alike(flat: Flat, signature: Signature) -> None:
    """Raises InputError where the model's inputs are not the bundle's."""
    found = [(str(tensor.dtype).removeprefix("torch."), tensor.dim()) for tensor in flat.inputs.example]
    if found != [(spec.dtype, len(spec.axes)) for spec in signature.inputs]:
        shapes = ", ".join(f"{dtype} of {rank} dimensions" for dtype, rank in found)
        raise InputError(
            f"the model takes {shapes}; the bundle takes {', '.join(map(str, signature.inputs))}: this is another model"
        )
