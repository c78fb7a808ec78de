"""The backends that a bundle is compared on, each in its own module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from rnn_runtime._bundle import ONNX, PT2, TORCHSCRIPT, Bundle

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
    names = [file.name for file in folder.iterdir()]
    return _backends(names, lambda name: (folder / name).read_bytes(), folder / ONNX, "cpu")


def sealed(bundle: Bundle, device: str) -> list[Backend]:
    """The backends that the files of a bundle can run on: those that its manifest lists, checked against their hashes.

    Raises:
        BundleError: a file is not the one that was sealed.
        DeviceError: the device cannot be had.
    """
    return _backends(bundle.files, bundle.read, bundle.path, device)


def _backends(names: Collection[str], read: Callable[[str], bytes], graph: Path, device: str) -> list[Backend]:
    from . import onnxruntime, program, torchscript

    backends: list[Backend] = []
    if TORCHSCRIPT in names:
        backends.append(torchscript.TorchScript(read(TORCHSCRIPT), device))
    if PT2 in names:
        backends.append(program.Program(read(PT2), device))
    if ONNX in names:
        backends.append(onnxruntime.OnnxRuntime(graph, device))
    return backends
