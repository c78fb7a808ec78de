"""The ONNX graph on OpenVINO's CPU plugin, in full float32: its own default is bfloat16 where the processor has it.

Known faults, seen on 2026.4: lengths are ignored at dynamic shapes, and a Scan whose body reads values from outside is
not taken.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rnn_runtime._bundle import ONNX, Bundle

from . import Arrays, Backend, LeftOut
from .onnx_reference import takes_lengths

NAME = "openvino"


class OpenVino(Backend):
    """A compiled model, with one request for all runs."""

    name = NAME
    aside = True

    def __init__(self, package: Any, path: Path) -> None:
        self._core = package.Core()
        self._run = self._compiled(str(path))

    def _compiled(self, model: str | bytes) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
        # One thread: two pools of spinning threads in one process spoil each other.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        graph = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
        names = [value.name for value in graph.graph.output]
        read = self._core.read_model(model if isinstance(model, str) else io.BytesIO(model))
        compiled = self._core.compile_model(read, "CPU", settings)

        def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
            results = compiled(dict(inputs))
            return {name: np.array(results[compiled.output(k)]) for k, name in enumerate(names)}

        return run

    def over(self, model: bytes, folder: Path) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
        """Another graph, compiled alike; external data is not found from here."""
        return self._compiled(model)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return self._run(inputs)


def backends(bundle: Bundle) -> list[Backend]:
    """The CPU plugin. Raises LeftOut where OpenVINO is missing, or does not take the graph, or takes it wrongly."""
    try:
        package = importlib.import_module("openvino")
    except ImportError:
        raise LeftOut("it is not installed: pip install openvino") from None
    path = bundle.path / ONNX
    if takes_lengths(path):
        raise LeftOut("it ignores sequence_lens at dynamic shapes, which this graph gives")
    try:
        return [OpenVino(package, path)]
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise LeftOut(f"it does not take this graph: {next(iter(lines[2:]), lines[0])}") from None
