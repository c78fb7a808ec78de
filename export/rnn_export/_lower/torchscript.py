"""The model traced to TorchScript, the signature in its extra files. A legacy format: PyTorch has deprecated it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rnn_runtime._signature import METADATA_KEY

from .._capture import Captured
from .._capture.module import copied
from .._errors import ExportError
from .._quiet import quiet


def write(captured: Captured, path: Path) -> None:
    """Trace the model and save it to `path`.

    Raises:
        ExportError: the tracer cannot follow the model.
    """
    try:
        with quiet(), torch.no_grad():
            # What is traced may stay in the model's attributes, so a copy is. Trace checking replays the traced shape
            # only; the comparison that follows does far more.
            module = torch.jit.trace(_plain(copied(captured.flat)), tuple(captured.traced), check_trace=False)
            torch.jit.save(module, str(path), _extra_files={METADATA_KEY: captured.signature.to_json()})
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the model cannot be traced to TorchScript: {type(error).__name__}: {error}. Leave that format out"
        ) from error


def _plain(model: nn.Module) -> nn.Module:
    """`model` in a tree of plain modules with the same names, parameters and buffers.

    Tracing makes TorchScript classes of all modules that it finds, and fails on some that it need not know: on
    properties that raise, and on classes with a metaclass of their own.
    """

    class Plain(nn.Module):
        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            results: tuple[Tensor, ...] = model(*inputs)
            return results

    root = Plain()
    places: dict[str, nn.Module] = {"": root}
    for path, module in model.named_modules(remove_duplicate=False):
        if path:
            parent, _, name = path.rpartition(".")
            places[path] = nn.Module()
            places[parent].add_module(name, places[path])
        for name, parameter in module.named_parameters(recurse=False):
            places[path].register_parameter(name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            places[path].register_buffer(name, buffer)
    return root
