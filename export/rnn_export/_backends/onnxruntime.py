"""The ONNX graph on ONNX Runtime, through rnn_runtime as an app would run it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import rnn_runtime
from rnn_runtime import _session, _steps
from rnn_runtime._bundle import STEP
from rnn_runtime._device import Device

from . import Arrays, Backend


class OnnxRuntime(Backend):
    """A graph loaded by rnn_runtime."""

    shared = True
    omits = True

    def __init__(self, path: Path, device: str, step: str | None = None) -> None:
        """`step` is the axis of the graph for single steps beside a bare graph; a bundle tells its own."""
        self.name = f"onnxruntime-{device}"
        self.folder = path
        self.device = device
        self._model = rnn_runtime.load(path, device=device)
        if step is not None:
            steps = _steps.of(step, self._model.signature, functools.partial(self._open, path.with_name(STEP)))
            self._model = replace(self._model, _steps=steps)

    def _open(self, path: Path) -> Any:
        return _session.create(path.read_bytes(), Device.parse(self.device), None, path.parent, 0)

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
