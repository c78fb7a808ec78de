"""The model traced to TorchScript, the signature in its extra files. A legacy format: PyTorch has deprecated it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rnn_runtime._signature import METADATA_KEY

from .._capture import Captured
from .._errors import ExportError
from .._quiet import quiet


def write(captured: Captured, path: Path) -> None:
    """Trace the model and save it to `path`.

    Raises:
        ExportError: the tracer cannot follow the model.
    """
    try:
        with quiet(), torch.no_grad():
            # Trace checking replays the traced shape only; the comparison that follows does far more.
            module = torch.jit.trace(captured.flat, tuple(captured.traced), check_trace=False)
            for part in module.modules():
                for name in part._c._method_names():  # one for each call of the part
                    _follow_the_input(part._c._get_method(name).graph)
            torch.jit.save(module, str(path), _extra_files={METADATA_KEY: captured.signature.to_json()})
    except ExportError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"the model cannot be traced to TorchScript: {type(error).__name__}: {''.join(lines[:1])} Leave that "
            "format out, as in formats=['onnx']"
        ) from error


MADE = {
    f"aten::{name}" for name in ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
}
"""Operators that make a tensor such as an initial state."""


def _follow_the_input(graph: Any) -> None:
    """Have tensors that are made in a traced method lie where its input lies.

    A trace keeps the device that it ran on as a constant, so that a layer's zero state would stay on the CPU when the
    file is loaded on a GPU.
    """
    given = [value for value in graph.inputs() if value.type().kind() == "TensorType"]
    given.sort(
        key=lambda value: value.type().scalarType() not in ("Half", "Float", "Double")
    )  # lengths stay on the CPU
    for node in graph.nodes() if given else ():
        if node.kind() not in MADE:
            continue
        for k, value in enumerate(list(node.inputs())):
            if value.type().kind() == "DeviceObjType" and value.node().kind() == "prim::Constant":
                device = graph.create("prim::device", [given[0]])
                device.insertBefore(node)
                device.output().setType(value.type())
                node.replaceInput(k, device.output())
