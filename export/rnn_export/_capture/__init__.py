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
from .._roll.lift import lift as lift_loops
from . import bare, graph
from .describe import describe
from .graph import Layer
from .module import REFUSED
from .prepare import Prepared, State, prepare
from .sample import Sampler
from .scan_leaf import replace_scans
from .tidy import tidy
from .trace import FixedAxes, at_other_sizes, trace

__all__ = ["Captured", "Layer", "Prepared", "State", "capture", "prepare", "sequences", "traced"]


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
    prepared, program, rolled = traced(prepared, state)
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


def traced(prepared: Prepared, state: State) -> tuple[Prepared, ExportedProgram, bool]:
    """The program of a model, and whether its Python loops were rolled; `prepared` at the sizes that it was traced at.

    Where loops have been rolled, and state="lift", their states are lifted too.

    Raises:
        ExportError: the model cannot be traced, a loop not be rolled, or its state not be lifted.
    """
    first: FixedAxes | None = None
    try:
        try:
            program = trace(prepared)
        except FixedAxes as error:
            if error.places:
                raise
            first = error
            prepared = at_other_sizes(prepared, error.axes)
            program = trace(prepared)
    except FixedAxes as error:
        if not error.places:
            raise first or error from None
        prepared, module = roll(prepared, error)
        if state == "lift":
            prepared = lift_loops(prepared, module, module.rolled)
        return prepared, trace(prepared, module), True
    except ExportError:
        if first is not None:
            raise first from None
        raise
    if prepared.unlifted is not None:
        raise prepared.unlifted
    return prepared, program, False


def _needs_full_lengths(prepared: Prepared, sampler: Sampler) -> bool:
    """Whether eager PyTorch refuses lengths that all end before the padding does, as where packed meets padded data."""

    def takes(sampler: Sampler) -> bool:
        with contextlib.suppress(*REFUSED), quiet(), torch.no_grad():
            prepared.flat(*sampler.draw(prepared.sizes, seed=0))
            return True
        return False

    short = replace(sampler, sorted_lengths=True, short_lengths=True)
    return not takes(short) and takes(replace(sampler, sorted_lengths=True, full_lengths=True))
