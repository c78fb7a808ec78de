"""The built-in models by name, each with what an export of it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rnn_models._cells import gru, gru_input, lstm, lstm_input
from rnn_models._charlm import charlm, charlm_example
from rnn_models._custom import (
    attention_decoder,
    decoder_example,
    gru_example,
    layer_norm_lstm,
    lstm_example,
    min_gru,
    peephole_lstm,
)
from rnn_models._forecaster import forecaster, forecaster_example
from rnn_models._hello import hello, hello_batch_first, hello_input
from rnn_models._tagger import tagger, tagger_example


@dataclass(frozen=True, eq=False)
class BuiltIn:
    """A reference model and what an export of it needs.

    Args:
        name: what the command line calls it.
        build: the factory; its docstring tells what the model stands for.
        example: makes the example inputs: a tensor, or a dict of tensors by the names of forward's parameters, with a
            batch and a sequence of two or more.
        axes: input name -> dimension -> axis name; None for a bare nn.RNN, nn.LSTM or nn.GRU, whose axes and state
            arguments are known.
        lengths: the input that holds the sequence lengths, if there is one.
        output_names: names of forward's results, in order; None for a bare nn.RNN, nn.LSTM or nn.GRU.
        formats: the formats that can hold it; None for all of the exporter's own choice.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Tensor | dict[str, Tensor]]
    axes: Mapping[str, Mapping[int, str]] | None = None
    lengths: str | None = None
    output_names: tuple[str, ...] | None = None
    formats: tuple[str, ...] | None = None

    @property
    def summary(self) -> str:
        """The first line of the factory's docstring."""
        return (self.build.__doc__ or "").partition("\n")[0]

    def model(self) -> nn.Module:
        """Build the model anew: on the CPU, in evaluation mode, with the same weights every time."""
        return self.build()

    def example_inputs(self) -> Tensor | dict[str, Tensor]:
        """Make the example inputs anew: on the CPU, with the same values every time."""
        return self.example()

    def export_arguments(self) -> dict[str, Any]:
        """The keyword arguments for `rnn_export.export`, all but the path.

        Returns:
            `model` and `example_inputs`, and of `axes` (a dict of dicts), `lengths` (a name), `output_names` and
            `formats` (lists) those that this model has.
        """
        arguments: dict[str, Any] = {"model": self.model(), "example_inputs": self.example_inputs()}
        if self.axes is not None:
            arguments["axes"] = {name: dict(axes) for name, axes in self.axes.items()}
        if self.lengths is not None:
            arguments["lengths"] = self.lengths
        if self.output_names is not None:
            arguments["output_names"] = list(self.output_names)
        if self.formats is not None:
            arguments["formats"] = list(self.formats)
        return arguments


STATEFUL = {"x": {0: "batch", 1: "sequence"}, "h": {0: "batch"}, "c": {0: "batch"}}

BUILT_INS = (
    BuiltIn("hello", hello, hello_input),
    BuiltIn("hello-batch-first", hello_batch_first, hello_input),
    BuiltIn("lstm", lstm, lstm_input),
    BuiltIn("gru", gru, gru_input),
    BuiltIn(
        "tagger",
        tagger,
        tagger_example,
        axes={"ids": {0: "batch", 1: "sequence"}, "lengths": {0: "batch"}},
        lengths="lengths",
        output_names=("logits",),
    ),
    BuiltIn(
        "charlm",
        charlm,
        charlm_example,
        axes={"ids": {0: "batch", 1: "sequence"}, "h": {1: "batch"}},
        output_names=("logits", "h_n"),
    ),
    BuiltIn(
        "forecaster",
        forecaster,
        forecaster_example,
        axes={"history": {0: "batch", 1: "sequence"}},
        output_names=("prediction",),
    ),
    BuiltIn("layer-norm-lstm", layer_norm_lstm, lstm_example, STATEFUL, None, ("y", "h_n", "c_n"), ("onnx",)),
    BuiltIn("peephole-lstm", peephole_lstm, lstm_example, STATEFUL, None, ("y", "h_n", "c_n"), ("onnx",)),
    BuiltIn("min-gru", min_gru, gru_example, {k: STATEFUL[k] for k in "xh"}, None, ("y", "h_n"), ("onnx",)),
    BuiltIn(
        "attention-decoder",
        attention_decoder,
        decoder_example,
        axes={"source": {0: "batch", 1: "source"}, "target": {0: "batch", 1: "target"}},
        output_names=("logits", "attention"),
        formats=("onnx",),
    ),
)

_BY_NAME = {built_in.name: built_in for built_in in BUILT_INS}


def names() -> tuple[str, ...]:
    """The names of the built-in models, the simplest first."""
    return tuple(_BY_NAME)


def get(name: str) -> BuiltIn:
    """The built-in model of that name.

    Raises:
        LookupError: there is none of that name; the text lists those there are.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        # From None, and no KeyError: its text would be shown in quotes, below the dictionary's own.
        raise LookupError(
            f"no built-in model is named {name!r}; the built-in models are {', '.join(names())}"
        ) from None
