"""The conformance matrix: all options of PyTorch's recurrent layers, and what a right export of each is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

INPUT, HIDDEN, PROJECTION = 5, 4, 3
SHAPES = list(itertools.product((1, 2, 7), (1, 2, 13, 64)))  # (batch, sequence)
TRACED = (3, 6)
BOUND = {"float32": 1e-5, "float64": 1e-12}
EAGER_FACTOR, NEGLIGIBLE = 4, {"float32": 1e-6, "float64": 1e-14}

CELLS: dict[str, Callable[..., nn.RNNBase]] = {
    "RNN tanh": lambda *a, **k: nn.RNN(*a, nonlinearity="tanh", **k),
    "RNN relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "LSTM proj_size": lambda *a, **k: nn.LSTM(*a, proj_size=PROJECTION, **k),
}
PACKING = ("none", "unsorted", "sorted")


@dataclass(frozen=True)
class Config:
    """One combination of options."""

    cell: str
    num_layers: int
    bidirectional: bool
    batch_first: bool
    bias: bool
    state: bool
    packing: str
    dtype: str

    def __str__(self) -> str:
        words = [self.cell, f"{self.num_layers} layers", self.packing, self.dtype]
        words += [name for name in ("bidirectional", "batch_first", "bias", "state") if getattr(self, name)]
        return ", ".join(words)


def configs() -> Iterator[Config]:
    """All of them: 1440."""
    yes_no = (False, True)
    for options in itertools.product(CELLS, (1, 2, 3), yes_no, yes_no, yes_no, yes_no, PACKING, BOUND):
        yield Config(*options)


class Recurrent(nn.Module):
    """A layer as people call it: packed by lengths or not, with its initial state given or not."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.packing = config.packing
        self.layer = CELLS[config.cell](
            INPUT,
            HIDDEN,
            config.num_layers,
            bidirectional=config.bidirectional,
            batch_first=config.batch_first,
            bias=config.bias,
        )

    def run(self, x: Tensor, lengths: Tensor | None, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first = self.layer.batch_first
        hx = None if not states else states if isinstance(self.layer, nn.LSTM) else states[0]
        if lengths is None:
            y, last = self.layer(x, hx)
        else:
            packed = pack_padded_sequence(x, lengths, first, enforce_sorted=self.packing == "sorted")
            y, last = self.layer(packed, hx)
            y, _ = pad_packed_sequence(y, first)
        return y, *(last if isinstance(last, tuple) else (last,))


class Plain(Recurrent):
    def forward(self, x, *states):
        return self.run(x, None, states)


class Packed(Recurrent):
    def forward(self, x, lengths, *states):
        return self.run(x, lengths, states)


def build(config: Config) -> Recurrent:
    """The model of a configuration, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (Plain if config.packing == "none" else Packed)(config)
    return model.to(getattr(torch, config.dtype)).eval()


def names(config: Config) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs."""
    kinds = ["h", "c"] if config.cell.startswith("LSTM") else ["h"]
    inputs = ["x"] + ["lengths"] * (config.packing != "none") + [f"{kind}_0" for kind in kinds] * config.state
    return inputs, ["output", *(f"{kind}_n" for kind in kinds)]


def axes(config: Config) -> dict[str, dict[int, str]]:
    """The dynamic axes of each input."""
    first = {0: "batch", 1: "sequence"} if config.batch_first else {0: "sequence", 1: "batch"}
    known = {"x": first, "lengths": {0: "batch"}, "h_0": {1: "batch"}, "c_0": {1: "batch"}}
    return {name: known[name] for name in names(config)[0]}


def inputs(config: Config, batch: int, sequence: int, *, short: bool = False) -> list[Tensor]:
    """Inputs with non-zero states; where `short`, the longest row ends before the padding does."""
    generator = torch.Generator().manual_seed(1000 * batch + sequence)
    dtype = getattr(torch, config.dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    made = [normal(batch, sequence, INPUT) if config.batch_first else normal(sequence, batch, INPUT)]
    if config.packing != "none":
        longest = max(1, sequence - 1) if short else sequence
        lengths = torch.randint(1, longest + 1, (batch,), generator=generator)
        lengths[batch // 2] = longest
        made.append(lengths.sort(descending=True).values if config.packing == "sorted" else lengths)
    if config.state:
        count = config.num_layers * (2 if config.bidirectional else 1)
        made.append(normal(count, batch, PROJECTION if config.cell == "LSTM proj_size" else HIDDEN))
        if config.cell.startswith("LSTM"):
            made.append(normal(count, batch, HIDDEN))
    return made


Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def problem(config: Config, model: Recurrent, run: Run) -> str | None:
    """What is wrong with a way of running the model, at the first of the twelve shapes where something is."""
    wide = build(config).double()
    for k, (batch, sequence) in enumerate(SHAPES):
        tensors = inputs(config, batch, sequence, short=k % 2 == 1)
        with torch.no_grad():
            want = [t.numpy() for t in wide(*(t.double() if t.is_floating_point() else t for t in tensors))]
            eager = [t.numpy() for t in model(*tensors)]
        try:
            got = run({name: t.numpy() for name, t in zip(names(config)[0], tensors, strict=True)})
        except Exception as error:
            first = str(error).strip().splitlines()[0][:150]
            return f"batch {batch}, sequence {sequence}: {type(error).__name__}: {first}"
        for name, g, w, e in zip(names(config)[1], got, want, eager, strict=True):
            if g.shape != w.shape:
                return f"batch {batch}, sequence {sequence}: {name} has shape {g.shape}, expected {w.shape}"
            error, own = (float(np.abs(a.astype(np.float64) - w).max()) for a in (g, e))
            limit = max(NEGLIGIBLE[config.dtype], min(BOUND[config.dtype], EAGER_FACTOR * own))
            if not error <= limit:
                return f"batch {batch}, sequence {sequence}: {name} is off by {error:.2g}, eager PyTorch by {own:.2g}"
    return None


def arguments(config: Config) -> dict[str, Any]:
    """The arguments of rnn_export.export."""
    return {
        "model": build(config),
        "example_inputs": tuple(inputs(config, *TRACED)),
        "axes": axes(config),
        "input_names": names(config)[0],
        "output_names": names(config)[1],
    }
