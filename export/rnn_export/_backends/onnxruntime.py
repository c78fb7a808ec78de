"""The ONNX graph on ONNX Runtime, through rnn_runtime as an app would run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import rnn_runtime
from rnn_runtime import _session
from rnn_runtime._device import Device

from . import Arrays, Backend


class OnnxRuntime(Backend):
    """A graph loaded by rnn_runtime."""

    shared = True
    omits = True

    def __init__(self, path: Path, device: str) -> None:
        self.name = f"onnxruntime-{device}"
        self.folder = path
        self.device = device
        self._model = rnn_runtime.load(path, device=device)

    def over(self, model: bytes, folder: Path) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
        """A plain session."""
        session = _session.create(model, Device.parse(self.device), None, folder, len(model))
        return lambda inputs: named(session, inputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return dict(self._model.run(dict(inputs)))


def named(session: Any, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """All outputs of a session by name."""
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
