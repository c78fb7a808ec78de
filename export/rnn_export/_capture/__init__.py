"""Capture: an unchanged nn.Module becomes an ExportedProgram whose recurrent calls are leaves, and its signature."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from rnn_runtime import InputError, Signature

from .._errors import ExportError
from .._quiet import quiet
from . import bare, graph
from .describe import describe
from .graph import Layer
from .module import REFUSED, copied
from .prepare import Prepared, State, prepare
from .sample import Sampler
from .scan_leaf import replace_scans
from .tidy import tidy
from .trace import trace

__all__ = ["Captured", "Layer", "Prepared", "State", "capture", "fix", "prepare", "sequences"]


@dataclass(frozen=True)
class Captured(Prepared):
    """What the other rooms need to know of a model.

    Attributes:
        program: the model as an ExportedProgram in which every recurrent call is a leaf; axes symbolic.
        signature: its inputs, outputs, states and lengths.
        layers: the recurrent layers found.
        sampler: draws further inputs.
    """

    program: ExportedProgram
    signature: Signature
    layers: tuple[Layer, ...]
    sampler: Sampler

    @property
    def sequences(self) -> set[str]:
        """The axes that recurrent layers run over."""
        return sequences(self.signature, [layer.axis for layer in self.layers])


def sequences(signature: Signature, over: Iterable[str]) -> set[str]:
    """The axes of the inputs among what the recurrent layers run over, which may be expressions in their names."""
    words = {word for axis in over for word in re.findall(r"[A-Za-z_]\w*", axis)}
    return words & set(signature.axis_names)


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
    prepared = prepare(model, example_inputs, axes=axes, input_names=input_names, state=state)
    program = _program(prepared)
    if not graph.recurrent(program) and not isinstance(state, Mapping):
        raise ExportError(
            "the model calls no recurrent layer (nn.RNN, nn.LSTM, nn.GRU) and no rnn_export.scan. Where it makes one "
            "step of a cell, name its state, as in state={'h': 'h_n'}; for other models use torch.onnx.export"
        )
    if output_names is None and bare.layer(model) is not None:
        output_names = bare.OUTPUTS[: len(prepared.output_paths)]
    return _described(program, prepared, output_names, lengths, state)


def fix(captured: Captured, sizes: Mapping[str, int]) -> Captured:
    """The same model with some of its dynamic axes fixed, captured again.

    Args:
        captured: the model, which takes any size.
        sizes: the axes and the size of each.

    Raises:
        InputError: there is no such axis, or a size is no number of 1 or more.
    """
    known = captured.signature.axis_names
    for axis, size in sizes.items():
        if axis not in known:
            raise InputError(f"sizes names {axis!r}, but the dynamic axes are {', '.join(known)}: use those names")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"the size of {axis!r} is {size!r}; expected a whole number of 1 or more")
    # Sorted lengths are taken by every model, and the states of an example are zeros.
    sampler = replace(captured.sampler, sorted_lengths=True)
    states = {state.input for state in captured.signature.states}
    drawn = zip(captured.names, sampler.draw({**captured.example_sizes, **sizes}, seed=0), strict=True)
    flat = copied(captured.flat)
    flat.inputs = replace(
        flat.inputs, example=[torch.zeros_like(tensor) if name in states else tensor for name, tensor in drawn]
    )
    prepared = Prepared(
        flat=flat,
        names=captured.names,
        axes={
            name: {dim: axis for dim, axis in dimensions.items() if axis not in sizes}
            for name, dimensions in captured.axes.items()
        },
        example_sizes={axis: size for axis, size in captured.example_sizes.items() if axis not in sizes},
        sizes={axis: size for axis, size in captured.sizes.items() if axis not in sizes},
        traced=sampler.draw({**captured.sizes, **sizes}, seed=0),
        output_paths=captured.output_paths,
        fixed=sizes,
    )
    program = _program(prepared)
    names = [spec.name for spec in captured.signature.outputs]
    pairs = {state.input: state.output for state in captured.signature.states}
    return _described(program, prepared, names, None, pairs)


def _program(prepared: Prepared) -> ExportedProgram:
    program = trace(prepared)
    replace_scans(program)
    tidy(program)
    return program


def _described(
    program: ExportedProgram,
    prepared: Prepared,
    output_names: Sequence[str] | None,
    lengths: str | None,
    state: State,
) -> Captured:
    """All that the other rooms need to know, from a traced program."""
    signature, layers = describe(program, prepared, output_names, lengths, state)
    sampler = Sampler.of(signature, prepared.flat.inputs.example)
    if signature.lengths is not None and _needs_full_lengths(prepared, sampler):
        signature = replace(signature, lengths=replace(signature.lengths, full=True))
        sampler = replace(sampler, full_lengths=True)
    return Captured(**vars(prepared), program=program, signature=signature, layers=layers, sampler=sampler)


def _needs_full_lengths(prepared: Prepared, sampler: Sampler) -> bool:
    """Whether eager PyTorch refuses lengths that all end before the padding does, as where packed meets padded data."""

    def takes(sampler: Sampler) -> bool:
        with contextlib.suppress(*REFUSED), quiet(), torch.no_grad():
            prepared.flat(*sampler.draw(prepared.sizes, seed=0))
            return True
        return False

    short = replace(sampler, sorted_lengths=True, short_lengths=True)
    return not takes(short) and takes(replace(sampler, sorted_lengths=True, full_lengths=True))
