"""The traced TorchScript file on PyTorch's interpreter."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rnn_runtime import DeviceError, Signature
from rnn_runtime._signature import METADATA_KEY

from .._quiet import quiet
from . import Arrays, Backend


class TorchScript(Backend):
    """A file written by `rnn_export`, its signature in the extra files."""

    def __init__(self, data: bytes, device: str) -> None:
        self.name = "torchscript" if device == "cpu" else f"torchscript-{device}"
        self._device = device
        require_gpu(device)
        extra = {METADATA_KEY: ""}
        with quiet():
            self._module = torch.jit.load(io.BytesIO(data), map_location=device, _extra_files=extra)
        self._signature = Signature.from_json(extra[METADATA_KEY])

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
        return [
            torch.from_numpy(np.array(inputs[spec.name], order="C")).to(self._device) for spec in self._signature.inputs
        ]

    def calls(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The first result of each recurrent call, made an output in a copy of the inlined graph."""
        with quiet():
            graph = self._module.graph.copy()
            torch._C._jit_pass_inline(graph)
            own = len(list(graph.outputs()))
            for node in _recurrent(graph):
                graph.registerOutput(next(iter(node.outputs())))
            with torch.no_grad():
                interpret: Any = torch._C._jit_interpret_graph  # type: ignore[attr-defined]  # private, and not in the stubs
                results = interpret(graph, (self._module._c, *self._tensors(inputs)))
        return [result.cpu().numpy() for result in (results[own:] if isinstance(results, tuple) else ())]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        with torch.no_grad():
            results = self._module(*self._tensors(inputs))
        return {spec.name: result.cpu().numpy() for spec, result in zip(self._signature.outputs, results, strict=True)}


def _recurrent(graph: Any) -> list[Any]:
    """The nodes of recurrent calls, in the order in which they run."""
    return [node for node in graph.nodes() if node.kind() in RECURRENT]


RECURRENT = ("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu")


def require_gpu(device: str) -> None:
    """Raises DeviceError where PyTorch cannot run on `device`."""
    if device != "cpu" and not torch.cuda.is_available():
        raise DeviceError(f'device "{device}" cannot be had: PyTorch sees no GPU here: use device="cpu"')
