"""The exported program (.pt2) on eager PyTorch's own operators."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rnn_runtime import Signature
from rnn_runtime._signature import METADATA_KEY

from .._quiet import quiet
from . import Arrays, Backend
from .torchscript import require_gpu


class Program(Backend):
    """A .pt2 file written by `rnn_export`, its signature in the extra files."""

    time_major = True

    def __init__(self, data: bytes, device: str) -> None:
        self.name = "torch.export" if device == "cpu" else f"torch.export-{device}"
        require_gpu(device)
        self._device = device
        extra = {METADATA_KEY: ""}
        with quiet():
            self._module = torch.export.load(io.BytesIO(data), extra_files=extra).module().to(device)
        self._signature = Signature.from_json(extra[METADATA_KEY])

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
        return [torch.from_numpy(np.array(inputs[s.name], order="C")).to(self._device) for s in self._signature.inputs]

    def calls(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The first result of each recurrent call, in the order in which they run."""
        seen: list[np.ndarray] = []

        class Watching(torch.fx.Interpreter):
            def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                result = super().call_function(target, args, kwargs)
                packet = getattr(target, "overloadpacket", None)
                if packet in _RECURRENT:
                    seen.append(result[0].cpu().numpy())
                return result

        with quiet(), torch.no_grad():
            Watching(self._module).run(*self._tensors(inputs))
        return seen

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All outputs by name."""
        with quiet(), torch.no_grad():
            results = self._module(*self._tensors(inputs))
        return {spec.name: result.cpu().numpy() for spec, result in zip(self._signature.outputs, results, strict=True)}


_aten: Any = torch.ops.aten

_RECURRENT = (_aten.lstm, _aten.gru, _aten.rnn_tanh, _aten.rnn_relu)
