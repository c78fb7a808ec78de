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

from rnn_runtime import Signature

from .._errors import ExportError
from .._quiet import quiet
from .._roll import roll
from . import bare, graph
from .describe import describe
from .graph import Layer
from .module import REFUSED
from .prepare import Prepared, State, prepare
from .sample import Sampler
from .scan_leaf import replace_scans
from .tidy import tidy
from .trace import FixedAxes, at_other_sizes, trace

__all__ = ["Captured", "Layer", "Prepared", "State", "capture", "prepare", "sequences"]


@dataclass(frozen=True)
class Captured(Prepared):
    """What the other rooms need to know of a model.

    Attributes:
        program: the model as an ExportedProgram in which every recurrent call is a leaf; axes symbolic.
        signature: its inputs, outputs, states and lengths.
        layers: the recurrent layers found.
        sampler: draws further inputs.
        rolled: the model's Python loops were found and rolled.
    """

    program: ExportedProgram
    signature: Signature
    layers: tuple[Layer, ...]
    sampler: Sampler
    rolled: bool = False

    @property
    def has_loops(self) -> bool:
        """Whether the model runs over a sequence by a loop: one of Python's own, or rnn_export.scan."""
        return self.rolled or any(layer.operator == "Scan" for layer in self.layers)

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
    prepared, program, rolled = _traced(prepared)
    replace_scans(program)
    tidy(program)
    if not graph.recurrent(program) and not isinstance(state, Mapping):
        raise ExportError(
            "the model calls no recurrent layer (nn.RNN, nn.LSTM, nn.GRU) and no rnn_export.scan. Where it makes one "
            "step of a cell, name its state, as in state={'h': 'h_n'}; for other models use torch.onnx.export"
        )
    if output_names is None and bare.layer(model) is not None:
        output_names = bare.OUTPUTS[: len(prepared.output_paths)]
    signature, layers = describe(program, prepared, output_names, lengths, state)
    sampler = Sampler.of(signature, prepared.flat.inputs.example)
    if signature.lengths is not None and _needs_full_lengths(prepared, sampler):
        signature = replace(signature, lengths=replace(signature.lengths, full=True))
        sampler = replace(sampler, full_lengths=True)
    return Captured(
        **vars(prepared), program=program, signature=signature, layers=layers, sampler=sampler, rolled=rolled
    )


def _traced(prepared: Prepared) -> tuple[Prepared, ExportedProgram, bool]:
    """The program of a model, with its Python loops rolled where it has some; and at which sizes it was traced."""
    try:
        return prepared, trace(prepared), False
    except FixedAxes as error:
        if error.places:
            prepared, module = roll(prepared, error)
            return prepared, trace(prepared, module), True
        other = at_other_sizes(prepared, error.axes)
        try:
            return other, trace(other), False
        except FixedAxes as again:
            if again.places:
                other, module = roll(other, again)
                return other, trace(other, module), True
            raise error from None
        except ExportError:
            raise error from None


def _needs_full_lengths(prepared: Prepared, sampler: Sampler) -> bool:
    """Whether eager PyTorch refuses lengths that all end before the padding does, as where packed meets padded data."""

    def takes(sampler: Sampler) -> bool:
        with contextlib.suppress(*REFUSED), quiet(), torch.no_grad():
            prepared.flat(*sampler.draw(prepared.sizes, seed=0))
            return True
        return False

    short = replace(sampler, sorted_lengths=True, short_lengths=True)
    return not takes(short) and takes(replace(sampler, sorted_lengths=True, full_lengths=True))
