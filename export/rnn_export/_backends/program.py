"""The exported program (.pt2) on eager PyTorch's own operators."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch

from rnn_runtime import Signature
from rnn_runtime._signature import METADATA_KEY

from .._quiet import quiet
from . import Arrays
from .torchscript import require_gpu


class Program:
    """A .pt2 file written by `rnn_export`, its signature in the extra files."""

    def __init__(self, data: bytes, device: str) -> None:
        self.name = "torch.export" if device == "cpu" else f"torch.export-{device}"
        require_gpu(device)
        self._device = device
        extra = {METADATA_KEY: ""}
        with quiet():
            self._module = torch.export.load(io.BytesIO(data), extra_files=extra).module().to(device)
        self._signature = Signature.from_json(extra[METADATA_KEY])

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All outputs by name."""
        tensors = [
            torch.from_numpy(np.ascontiguousarray(inputs[s.name])).to(self._device) for s in self._signature.inputs
        ]
        with quiet(), torch.no_grad():
            results = self._module(*tensors)
        return {spec.name: result.cpu().numpy() for spec, result in zip(self._signature.outputs, results, strict=True)}
