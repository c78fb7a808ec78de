"""The model as TorchScript, the signature in its extra files. A legacy format: PyTorch has deprecated it.

A model is traced, unless it holds a loop: the captured program is then written as code, in which loops stay loops.
"""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rnn_runtime._signature import METADATA_KEY

from .._capture import Captured
from .._capture.builtins import scripting
from .._capture.calls import RECURRENT, RecurrentCall
from .._capture.module import copied
from .._errors import ExportError
from .._lines import line_of
from .._quiet import quiet
from .limits import Check, checks, scripted
from .pt2 import put_back
from .script import script
from .sizes import WideSizes


def write(captured: Captured, path: Path) -> None:
    """Trace or script the model and save it to `path`.

    Raises:
        ExportError: the tracer cannot follow the model, or TorchScript has no form for it.
    """
    try:
        with quiet(), torch.no_grad(), _CheckedStates(), WideSizes(), scripting():
            if captured.has_loops:
                program = copy.deepcopy(captured.program)
                put_back(program)
                module = script(program, list(checks(captured.signature)))
            else:
                # What is traced may stay in the model's attributes, so a copy is. Trace checking replays the traced
                # shape only; the comparison that follows does far more.
                plain = _plain(copied(captured.flat), list(checks(captured.signature)))
                inputs = tuple(tensor.clone() for tensor in captured.traced)  # a model may write into its inputs
                module = torch.jit.trace(plain, inputs, check_trace=False)
                for part in module.modules():
                    for name in part._c._method_names():  # one for each call of the part
                        _follow_the_input(part._c._get_method(name).graph)
            buffer = io.BytesIO()  # PyTorch's own writer ends the process where the disk is full
            torch.jit.save(module, buffer, _extra_files={METADATA_KEY: captured.signature.to_json()})
    except ExportError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"the model cannot be traced to TorchScript: {type(error).__name__}: {''.join(lines[:1])} Leave that "
            "format out, as in formats=['onnx']"
        ) from error
    path.write_bytes(buffer.getbuffer())


class _CheckedStates(TorchFunctionMode):
    """Sees to it that a state which the trace has as a constant is refused where the batch is another.

    PyTorch's kernels trust the size of a state, and read and write past its end.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in RECURRENT:
            _require_tracer()
            call = RecurrentCall.of(args, kwargs)
            if any(map(_is_constant, call.states)):
                packed = call.batch_sizes is not None
                batch = call.batch_sizes[0] if packed else call.data.shape[0 if call.batch_first else 1]
                return call.run(func, [state.expand(-1, batch, -1) for state in call.states])
        return func(*args, **(kwargs or {}))


def _require_tracer() -> None:
    """Raises ExportError where the tracer is gone: an operator that fails takes it along, also where that is caught.

    What it is asked for after that ends the process.
    """
    if torch._C._get_tracing_state() is None:
        raise ExportError(
            "the model catches an error of one of its operators (try, except), after which PyTorch's tracer records no "
            f"more{line_of(sys._getframe(1))}: ask for the sizes beforehand, or leave TorchScript out, as in "
            "formats=['onnx']"
        )


def _is_constant(tensor: Tensor) -> bool:
    """Whether a traced value depends on no input and no parameter."""
    todo: list[Any] = [torch._C._get_value_trace(tensor)]  # type: ignore[attr-defined]
    while todo:
        node = todo.pop().node()
        if node.kind() in ("prim::Param", "prim::GetAttr"):
            return False
        todo += list(node.inputs())
    return True


def _plain(model: nn.Module, sizes: Sequence[Check]) -> nn.Module:
    """`model` in a tree of plain modules with the same names, parameters and buffers, and checks of some sizes first.

    Tracing makes TorchScript classes of all modules that it finds, and fails on some that it need not know: on
    properties that raise, and on classes with a metaclass of their own.
    """
    require = scripted() if sizes else None

    class Plain(nn.Module):
        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            given = list(inputs)
            for check in sizes:
                assert require is not None
                given[check.input] = require(given[check.input], check.dim, check.limit.min, check.most, check.text)
            results: tuple[Tensor, ...] = model(*given)
            _require_tracer()
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
