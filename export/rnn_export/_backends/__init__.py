"""The backends that a bundle is compared on, each in its own module."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from rnn_runtime._bundle import ONNX, PT2, TORCHSCRIPT, Bundle

Arrays = dict[str, np.ndarray]


class Backend:
    """One way of running an exported model.

    Attributes:
        name: as the report shows it, such as "onnxruntime-cpu".
        aside: a second opinion on values, which other properties are asked of at level "full" alone.
        shared: any number of threads may run it at once.
        omits: it runs without the states too.
        folder, device: what rnn_runtime loads, where that is what runs.
        threaded: the same on another number of threads.
        time_major: what `calls` gives has the steps first, whatever the model's own layers have.
    """

    name: str
    aside: bool = False
    shared: bool = False
    omits: bool = False
    folder: Path | None = None
    device: str = "cpu"
    time_major: bool = False
    threaded: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All outputs by name, from all inputs by name, states and lengths included."""
        raise NotImplementedError

    def over(self, model: bytes, folder: Path) -> Callable[[Mapping[str, np.ndarray]], Arrays] | None:
        """The same engine over another ONNX graph, whose external data lies in `folder`; None where it runs none."""
        return None

    def calls(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
        """The first result of each recurrent call inside, in order; None where they cannot be seen."""
        return None


class LeftOut(Exception):
    """A backend cannot be had here, or cannot run this graph; the text says why and what to do."""


def found(folder: Path, step: str | None = None) -> list[Backend]:
    """The backends that the files of a folder can run on, while it is being made.

    Args:
        folder: the folder.
        step: the axis of its graph for single steps, if it has one.
    """
    names = [file.name for file in folder.iterdir()]
    return _backends(names, lambda name: (folder / name).read_bytes(), folder / ONNX, "cpu", step)


def sealed(bundle: Bundle, device: str) -> list[Backend]:
    """The backends that the files of a bundle can run on: those that its manifest lists, checked against their hashes.

    Raises:
        BundleError: a file is not the one that was sealed.
        DeviceError: the device cannot be had.
    """
    return _backends(bundle.files, bundle.read, bundle.path, device)


OTHERS = ("onnxruntime_levels", "onnxruntime_cuda", "onnx_reference", "openvino")
"""Modules of further backends for a bundle's graph. Each has NAME, and `backends(bundle)`, which raises LeftOut."""


def others(bundle: Bundle) -> tuple[list[Backend], dict[str, str]]:
    """Further backends on which the graph of a bundle runs, and why others are left out, by name."""
    if ONNX not in bundle.files:
        return [], {}
    have: list[Backend] = []
    reasons: dict[str, str] = {}
    for name in OTHERS:
        module = importlib.import_module(f".{name}", __name__)
        try:
            have += module.backends(bundle)
        except LeftOut as error:
            reasons[module.NAME] = str(error)
    return have, reasons


def _backends(
    names: Collection[str], read: Callable[[str], bytes], graph: Path, device: str, step: str | None = None
) -> list[Backend]:
    from . import onnxruntime, program, torchscript

    backends: list[Backend] = []
    if TORCHSCRIPT in names:
        backends.append(torchscript.TorchScript(read(TORCHSCRIPT), device))
    if PT2 in names:
        backends.append(program.Program(read(PT2), device))
    if ONNX in names:
        backends.append(onnxruntime.OnnxRuntime(graph, device, step))
    return backends
