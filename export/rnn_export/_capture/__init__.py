"""Capture: an unchanged nn.Module becomes an ExportedProgram whose recurrent calls are leaves, and its signature."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from rnn_runtime import LengthsSpec, Signature

from .._errors import ExportError
from . import bare, graph
from .decide import Decision, Sample, decide
from .describe import describe
from .graph import Layer
from .lengths import settle
from .prepare import Prepared, State, prepare
from .sample import Sampler
from .scan_leaf import replace_scans
from .tidy import tidy
from .trace import trace

__all__ = ["Captured", "Decision", "Layer", "Prepared", "State", "capture", "prepare", "sequences"]


@dataclass(frozen=True)
class Captured(Prepared):
    """What the other rooms need to know of a model.

    Attributes:
        program: the model as an ExportedProgram in which every recurrent call is a leaf; axes symbolic.
        signature: its inputs, outputs, states and lengths.
        layers: the recurrent layers found.
        sampler: draws further inputs.
        decisions: those by the value of a tensor, and the way that the program goes at each.
        witnesses: inputs that go either way at these decisions.
    """

    program: ExportedProgram
    signature: Signature
    layers: tuple[Layer, ...]
    sampler: Sampler
    decisions: tuple[Decision, ...]
    witnesses: list[Sample]

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
    decisions, witnesses = decide(prepared)
    prepared.flat.answers = {decision.place: decision.answer for decision in decisions}
    if output_names is None and bare.layer(model) is not None:
        output_names = bare.OUTPUTS[: len(prepared.output_paths)]

    def captured(*, whole: bool) -> tuple[ExportedProgram, Signature, list[LengthsSpec], tuple[Layer, ...]]:
        program = trace(prepared, whole=whole)
        replace_scans(program)
        tidy(program)
        if not graph.recurrent(program) and not isinstance(state, Mapping):
            raise ExportError(
                "the model calls no recurrent layer (nn.RNN, nn.LSTM, nn.GRU) and no rnn_export.scan. Where it makes "
                "one step of a cell, name its state, as in state={'h': 'h_n'}; for other models use torch.onnx.export"
            )
        return program, *describe(program, prepared, output_names, lengths, state)

    program, signature, specs, layers = captured(whole=False)
    specs, sampler = settle(prepared, specs, Sampler.of(signature, prepared.flat.inputs.example))
    if specs and all(spec.full for spec in specs):  # what is packed is the whole, which need not be left open
        program, signature, _, layers = captured(whole=True)
    signature = replace(signature, lengths=specs[0] if specs else None)
    return Captured(
        **vars(prepared),
        program=program,
        signature=signature,
        layers=layers,
        sampler=sampler,
        decisions=decisions,
        witnesses=witnesses,
    )
