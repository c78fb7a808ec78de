"""The backends that a bundle is compared on, each in its own module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from rnn_runtime._bundle import ONNX, TORCHSCRIPT

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


def found(folder: Path, device: str = "cpu") -> list[Backend]:
    """The backends that the files of a bundle's folder can run on."""
    from . import onnxruntime, torchscript

    loaders: dict[str, Callable[[Path, str], Backend]] = {
        TORCHSCRIPT: torchscript.TorchScript,
        ONNX: onnxruntime.OnnxRuntime,
    }
    return [load(folder / file, device) for file, load in loaders.items() if (folder / file).exists()]
