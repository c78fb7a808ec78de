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
from .._roll import roll
from .._roll.lift import lift as lift_loops
from . import bare, graph
from .decide import Decision, Sample, decide
from .describe import describe
from .graph import Layer
from .lengths import settle
from .prepare import Prepared, State, prepare
from .sample import Sampler
from .scan_leaf import replace_scans
from .tidy import tidy
from .trace import FixedAxes, at_other_sizes, trace

__all__ = ["Captured", "Decision", "Layer", "Prepared", "State", "capture", "prepare", "sequences", "traced"]


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
        rolled: the model's Python loops were found and rolled.
    """

    program: ExportedProgram
    signature: Signature
    layers: tuple[Layer, ...]
    sampler: Sampler
    decisions: tuple[Decision, ...]
    witnesses: list[Sample]
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
    decisions, witnesses = decide(prepared)
    prepared.flat.answers = {decision.place: decision.answer for decision in decisions}
    prepared, program, rolled = traced(prepared, state)
    if output_names is None and bare.layer(model) is not None:
        output_names = bare.OUTPUTS[: len(prepared.output_paths)]

    def described(
        program: ExportedProgram,
    ) -> tuple[ExportedProgram, Signature, list[LengthsSpec], tuple[Layer, ...]]:
        replace_scans(program)
        tidy(program)
        if not graph.recurrent(program) and not isinstance(state, Mapping):
            raise ExportError(
                "the model calls no recurrent layer (nn.RNN, nn.LSTM, nn.GRU) and no rnn_export.scan. Where it makes "
                "one step of a cell, name its state, as in state={'h': 'h_n'}; for other models use torch.onnx.export"
            )
        return program, *describe(program, prepared, output_names, lengths, state)

    program, signature, specs, layers = described(program)
    specs, sampler = settle(prepared, specs, Sampler.of(signature, prepared.flat.inputs.example))
    if specs and all(spec.full for spec in specs):  # what is packed is the whole, which need not be left open
        program, signature, _, layers = described(trace(prepared, rolled, whole=True))
    signature = replace(signature, lengths=specs[0] if specs else None)
    return Captured(
        **vars(prepared),
        program=program,
        signature=signature,
        layers=layers,
        sampler=sampler,
        decisions=decisions,
        witnesses=witnesses,
        rolled=rolled is not None,
    )


def traced(prepared: Prepared, state: State) -> tuple[Prepared, ExportedProgram, nn.Module | None]:
    """The program of a model, and the module that stands for it where its Python loops were rolled.

    `prepared` comes back at the sizes that it was traced at. Where loops have been rolled, and state="lift", their
    states are lifted too.

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
        return prepared, trace(prepared, module), module
    except ExportError:
        if first is not None:
            raise first from None
        raise
    if prepared.unlifted is not None:
        raise prepared.unlifted
    return prepared, program, None
