"""Capture: an unchanged nn.Module becomes an ExportedProgram whose recurrent calls are leaves, and its signature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rnn_runtime import InputError, Signature

from .._errors import ExportError
from .._quiet import quiet
from . import axes as axis_map
from . import bare, graph, tree
from .describe import State, describe
from .graph import Layer
from .mode import Capture
from .module import Flat, flat_model
from .sample import Sampler
from .tidy import tidy

__all__ = ["Captured", "Layer", "State", "capture"]


@dataclass(frozen=True)
class Captured:
    """What the other rooms need to know of a model.

    Attributes:
        flat: a private, evaluating copy of the model, from flat tensors to flat tensors.
        program: the same as an ExportedProgram in which every recurrent call is a leaf; axes symbolic.
        signature: its inputs, outputs, states and lengths.
        layers: the recurrent layers found.
        traced: the inputs that were traced: the example, or larger ones where it has an axis of size 1.
        sizes: the size that `traced` gives each dynamic axis; `example_sizes` is the same of the example.
        sampler: draws further inputs.
    """

    flat: Flat
    program: ExportedProgram
    signature: Signature
    layers: tuple[Layer, ...]
    traced: list[Tensor]
    sizes: dict[str, int]
    example_sizes: dict[str, int]
    sampler: Sampler


def capture(
    model: nn.Module,
    example_inputs: Any,
    *,
    axes: Mapping[str, Mapping[int, str]] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    lengths: str | None = None,
    state: State = "auto",
) -> Captured:
    """Capture `model`; the arguments are those of `rnn_export.export`.

    Raises:
        InputError: axes, names, lengths or state do not fit the model.
        ExportError: the model fails on its example, or cannot be captured.
    """
    layer = bare.layer(model)
    if layer is not None:
        example_inputs = bare.inputs(layer, example_inputs, with_state=state != "none")
    flat = flat_model(model, example_inputs)
    example = flat.inputs.example
    if layer is not None and input_names is None:
        flat.inputs.names = list(bare.INPUTS[: len(example)])
        axes = {**bare.axes(layer, flat.inputs), **(axes or {})}
    names, dynamic = axis_map.named(flat, axes, input_names)
    if not any(dynamic.values()):
        raise InputError(
            f"no axis is dynamic: name them, as in axes={{{names[0]!r}: {{0: 'batch', 1: 'sequence'}}}} "
            "(only a bare nn.RNN, nn.LSTM or nn.GRU has axes that are known)"
        )
    sizes = example_sizes = axis_map.sizes(names, dynamic, example)
    traced = example
    if min(sizes.values()) < 2:  # a size of 1 would be taken for a constant
        sizes = {axis: max(size, 2) for axis, size in sizes.items()}
        traced = Sampler(names, dynamic, example).draw(sizes, seed=0)
    output_paths = _run_once(flat, traced)
    program = _trace(flat, traced, names, dynamic)
    tidy(program)
    if not graph.recurrent(program):
        raise ExportError(
            "the model calls no recurrent layer (nn.RNN, nn.LSTM, nn.GRU): rnn-export is for models that have one; "
            "for others use torch.onnx.export"
        )
    if output_names is None and layer is not None:
        output_names = bare.OUTPUTS[: len(output_paths)]
    signature = describe(program, names, dynamic, output_paths, output_names, lengths, state)
    sampler = Sampler.of(signature, example)
    return Captured(flat, program, signature, graph.layers(program), traced, sizes, example_sizes, sampler)


def _run_once(flat: Flat, example: Sequence[Tensor]) -> list[tree.Path]:
    """The way to each result in what the model returns."""
    try:
        with quiet(), torch.no_grad():
            return [path for path, _ in flat.named(*example)]
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the model itself fails on its example inputs, before any export: {type(error).__name__}: {error}. "
            f"Their shapes were {', '.join(str(tuple(tensor.shape)) for tensor in example)}"
        ) from error


def _trace(flat: Flat, example: list[Tensor], names: list[str], axes: axis_map.Axes) -> ExportedProgram:
    dynamic = tuple(dict.fromkeys(axes[name], Dim.DYNAMIC) for name in names)
    hook = flat.register_forward_pre_hook(lambda _, inputs: _unify(inputs, names, axes))
    try:
        with quiet(), torch.no_grad(), Capture():
            return torch.export.export(flat, tuple(example), dynamic_shapes={"flat": dynamic}, strict=False)
    except ExportError:
        raise
    except Exception as error:
        raise _refusal(str(error), type(error).__name__, names, axes) from error
    finally:
        hook.remove()


def _unify(inputs: tuple[Tensor, ...], names: list[str], axes: axis_map.Axes) -> None:
    """Tell the tracer that axes of one name have one size."""
    seen: dict[str, Any] = {}
    for name, tensor in zip(names, inputs, strict=True):
        for dim, axis in axes[name].items():
            torch._check(tensor.shape[dim] == seen.setdefault(axis, tensor.shape[dim]))


def _refusal(text: str, kind: str, names: list[str], axes: axis_map.Axes) -> ExportError:
    """torch.export's error in the user's terms: inputs and axes by name, and the line of code that it points to."""
    code = re.search(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', text)
    where = f" ({code[1]}:{code[2]}: `{code[3].strip()}`)" if code else ""
    fixed = re.findall(r"\['flat'\]\[(\d+)\]\.size\(\)\[(\d+)\].*?constant \((\d+)\)", text)
    if fixed:
        places = [(names[int(i)], axes[names[int(i)]][int(dim)], size) for i, dim, size in fixed]
        said = "; ".join(f"{axis!r} of {name!r} became {size}" for name, axis, size in places)
        return ExportError(
            f"the model fixes an axis to the traced size: {said}{where}. A Python loop over that axis does so, or a "
            "size used as a plain number: let a recurrent layer run over it, or leave the axis out of `axes`"
        )
    return ExportError(f"the model cannot be captured{where}: {kind}: {text.strip().partition(chr(10))[0]}")
