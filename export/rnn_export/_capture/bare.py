"""A model that is nothing but one of PyTorch's recurrent layers: its arguments, axes and states are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .axes import Axes
from .module import Inputs

INPUTS = ("input", "h_0", "c_0")
OUTPUTS = ("output", "h_n", "c_n")

_FORWARDS = {nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward}


def layer(model: nn.Module) -> nn.RNNBase | None:
    """The model itself where it is a recurrent layer of PyTorch; a subclass that only adds parameters counts."""
    return model if isinstance(model, nn.RNNBase) and type(model).forward in _FORWARDS else None


def example(layer: nn.RNNBase) -> Tensor:
    """An input for a layer of which nothing else is known: batch 3, sequence 5, standard normal."""
    shape = (3, 5, layer.input_size) if layer.batch_first else (5, 3, layer.input_size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=next(layer.parameters()).dtype)


def inputs(layer: nn.RNNBase, example_inputs: Any, *, with_state: bool) -> tuple[Any, ...]:
    """The example inputs as forward's arguments, the state among them: zeros where the example has none."""
    if isinstance(example_inputs, Mapping):
        example_inputs = [example_inputs[name] for name in ("input", "hx") if name in example_inputs]
    given = example_inputs
    given = tuple(given) if isinstance(given, tuple | list) else (given,)
    if len(given) == 3 and isinstance(layer, nn.LSTM):
        return given[0], given[1:]
    if not with_state or len(given) != 1:
        return given
    x = torch.as_tensor(given[0])
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    batch = () if x.dim() == 2 else (x.shape[0 if layer.batch_first else 1],)
    h_0 = x.new_zeros(count, *batch, layer.proj_size or layer.hidden_size)
    if not isinstance(layer, nn.LSTM):
        return x, h_0
    return x, (h_0, x.new_zeros(count, *batch, layer.hidden_size))


def merged(known: Axes, given: Mapping[str, Mapping[int, str]]) -> dict[str, Mapping[int, str]]:
    """The known axes under the names that are given for some of them; a name given once counts for all inputs."""
    renamed = {
        known[name][dim]: axis
        for name, dimensions in given.items()
        for dim, axis in (dimensions.items() if isinstance(dimensions, Mapping) else ())
        if dim in known.get(name, {})
    }
    own = {name: {dim: renamed.get(axis, axis) for dim, axis in dims.items()} for name, dims in known.items()}
    return {
        **own,
        **{name: {**own.get(name, {}), **dims} if isinstance(dims, Mapping) else dims for name, dims in given.items()},
    }


def first_axes(layer: nn.RNNBase, example_inputs: Any) -> dict[int, str]:
    """The dynamic axes of a layer's first input; one of two dimensions has no batch."""
    x = inputs(layer, example_inputs, with_state=False)[0]
    if torch.as_tensor(x).dim() == 2:
        return {0: "sequence"}
    return {0: "batch", 1: "sequence"} if layer.batch_first else {0: "sequence", 1: "batch"}


def axes(layer: nn.RNNBase, given: Inputs) -> Axes:
    """The dynamic axes of a layer's inputs; an input of two dimensions has no batch."""
    first = first_axes(layer, given.example[0])
    state = {1: "batch"} if "batch" in first.values() else {}
    return {name: first if name == INPUTS[0] else state for name in given.names}
