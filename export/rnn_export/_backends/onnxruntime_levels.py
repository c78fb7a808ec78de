"""The ONNX graph on ONNX Runtime with less of its graph optimisation than an app gets, which is all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnn_runtime._bundle import ONNX, Bundle
from rnn_runtime._device import CPU, onnxruntime
from rnn_runtime._session import _EXTERNAL_FOLDER

from . import Arrays, Backend, LeftOut
from .onnxruntime import named

NAME = "onnxruntime-cpu at lower levels"

LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}


class AtLevel(Backend):
    """A session of its own: rnn_runtime has one level."""

    aside = True

    def __init__(self, path: Path, level: str) -> None:
        self.name = f"onnxruntime-cpu-{level}"
        self._level = level
        self._session = self._open(str(path), path.parent)

    def _open(self, model: str | bytes, folder: Path) -> Any:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what fails comes as an exception, and need not be printed too
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[self._level])
        options.add_session_config_entry(_EXTERNAL_FOLDER, str(folder.resolve()))
        return ort.InferenceSession(model, options, providers=[CPU])

    def over(self, model: bytes, folder: Path) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
        """A session of the same level."""
        session = self._open(model, folder)
        return lambda inputs: named(session, inputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return named(self._session, inputs)


def backends(bundle: Bundle) -> list[Backend]:
    """One for each level below the highest. Raises LeftOut where ONNX Runtime does not load the graph."""
    try:
        return [AtLevel(bundle.path / ONNX, level) for level in LEVELS]
    except Exception as error:  # its errors have no base class but Exception
        raise LeftOut(f"ONNX Runtime cannot load the graph: {str(error).splitlines()[0]}") from None
