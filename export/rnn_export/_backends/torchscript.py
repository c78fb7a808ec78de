"""The traced TorchScript file on PyTorch's interpreter."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch

from rnn_runtime import DeviceError, Signature
from rnn_runtime._signature import METADATA_KEY

from .._quiet import quiet
from . import Arrays


class TorchScript:
    """A file written by `rnn_export`, its signature in the extra files."""

    def __init__(self, data: bytes, device: str) -> None:
        self.name = "torchscript" if device == "cpu" else f"torchscript-{device}"
        self._device = device
        require_gpu(device)
        extra = {METADATA_KEY: ""}
        with quiet():
            self._module = torch.jit.load(io.BytesIO(data), map_location=device, _extra_files=extra)
        self._signature = Signature.from_json(extra[METADATA_KEY])

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        tensors = [
            torch.from_numpy(np.ascontiguousarray(inputs[spec.name])).to(self._device)
            for spec in self._signature.inputs
        ]
        with torch.no_grad():
            results = self._module(*tensors)
        return {spec.name: result.cpu().numpy() for spec, result in zip(self._signature.outputs, results, strict=True)}


def require_gpu(device: str) -> None:
    """Raises DeviceError where PyTorch cannot run on `device`."""
    if device != "cpu" and not torch.cuda.is_available():
        raise DeviceError(f'device "{device}" cannot be had: PyTorch sees no GPU here: use device="cpu"')
