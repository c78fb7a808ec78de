"""The ONNX graph on ONNX Runtime, through rnn_runtime as an app would run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import rnn_runtime

from . import Arrays


class OnnxRuntime:
    """A graph loaded by rnn_runtime."""

    def __init__(self, path: Path, device: str) -> None:
        self.name = f"onnxruntime-{device}"
        self._model = rnn_runtime.load(path, device=device)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return dict(self._model.run(dict(inputs)))
