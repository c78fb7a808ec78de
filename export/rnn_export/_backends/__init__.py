"""The backends that a bundle is compared on, each in its own module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from rnn_runtime._bundle import ONNX, TORCHSCRIPT, Bundle

Arrays = dict[str, np.ndarray]


class Backend(Protocol):
    """One way of running an exported model.

    Attributes:
        name: as the report shows it, such as "onnxruntime-cpu".
    """

    name: str

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All outputs by name, from all inputs by name, states and lengths included."""
        ...


def found(folder: Path) -> list[Backend]:
    """The backends that the files of a folder can run on, while it is being made."""
    from . import onnxruntime, torchscript

    backends: list[Backend] = []
    if (folder / TORCHSCRIPT).exists():
        backends.append(torchscript.TorchScript((folder / TORCHSCRIPT).read_bytes(), "cpu"))
    if (folder / ONNX).exists():
        backends.append(onnxruntime.OnnxRuntime(folder / ONNX, "cpu"))
    return backends


def sealed(bundle: Bundle, device: str) -> list[Backend]:
    """The backends that the files of a bundle can run on: those that its manifest lists, checked against their hashes.

    Raises:
        BundleError: a file is not the one that was sealed.
        DeviceError: the device cannot be had.
    """
    from . import onnxruntime, torchscript

    backends: list[Backend] = []
    if TORCHSCRIPT in bundle.files:
        backends.append(torchscript.TorchScript(bundle.read(TORCHSCRIPT), device))
    if ONNX in bundle.files:
        backends.append(onnxruntime.OnnxRuntime(bundle.path, device))
    return backends
