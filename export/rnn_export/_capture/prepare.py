"""Before anything is traced: a private copy of the model, bound to its inputs, their names and their axes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rnn_runtime import InputError

from .._quiet import quiet
from . import axes as axis_map
from . import bare, lift
from .describe import State
from .module import REFUSED, Flat, flat_model
from .sample import Sampler


@dataclass(frozen=True)
class Prepared:
    """A model bound to its inputs, before anything is traced.

    Attributes:
        flat: a private, evaluating copy of the model, from flat tensors to flat tensors, lifted states last.
        names, axes: of its inputs.
        example_sizes: the size that the example gives each dynamic axis.
        sizes, traced: sizes of two or more, and inputs of these sizes: the example itself, or larger ones.
    """

    flat: Flat
    names: list[str]
    axes: axis_map.Axes
    example_sizes: dict[str, int]
    sizes: dict[str, int]
    traced: list[Tensor]


def prepare(
    model: nn.Module,
    example_inputs: Any,
    *,
    axes: Mapping[str, Mapping[int, str]] | None,
    input_names: Sequence[str] | None,
    state: State,
) -> Prepared:
    """Bind a private copy of `model` to its inputs, and lift its states where that is asked for.

    Raises:
        InputError: axes or names do not fit the model.
        ExportError: the model does not take its example, or its states cannot be lifted.
    """
    layer = bare.layer(model)
    if layer is not None:
        example_inputs = bare.inputs(layer, example_inputs, with_state=state != "none")
    flat = flat_model(model, example_inputs)
    example = flat.inputs.example
    if layer is not None and input_names is None:
        flat.inputs.names = list(bare.INPUTS[: len(example)])
        axes = bare.merged(bare.axes(layer, flat.inputs), axes or {})
    names, dynamic = axis_map.named(flat, axes, input_names)
    if not any(dynamic.values()):
        raise InputError(
            f"no axis is dynamic: name them, as in axes={{{names[0]!r}: {{0: 'batch', 1: 'sequence'}}}} "
            "(only a bare nn.RNN, nn.LSTM or nn.GRU has axes that are known)"
        )
    sizes = example_sizes = axis_map.sizes(names, dynamic, example)
    traced = list(example)
    if min(sizes.values()) < 2:  # a size of 1 would be taken for a constant
        sizes = {axis: max(size, 2) for axis, size in sizes.items()}
        traced = Sampler(names, dynamic, example).draw(sizes, seed=0)
    if state == "lift" and layer is None:
        _lift(flat, names, dynamic, sizes)
        traced += [slot.zeros(sizes) for slot in flat.lifted]
        example += [slot.zeros(example_sizes) for slot in flat.lifted]
    return Prepared(flat, names, dynamic, example_sizes, sizes, traced)


def _lift(flat: Flat, names: list[str], axes: axis_map.Axes, sizes: dict[str, int]) -> None:
    """Make the states of inner layers inputs and outputs of `flat`, and name them and their axes."""
    sampler = Sampler(names, axes, flat.inputs.example)
    seen = []
    for k, chosen in enumerate((sizes, {axis: size + 2 + j for j, (axis, size) in enumerate(sizes.items())})):
        inputs = sampler.draw(chosen, seed=k)
        with contextlib.suppress(*REFUSED), quiet():
            seen.append((chosen, lift.calls(flat.model, functools.partial(flat, *inputs))))
    flat.lifted = lift.slots(seen)
    for slot in flat.lifted:
        if slot.input in names:
            raise InputError(f"the lifted state {slot.input!r} has the name of an input: rename that with input_names")
        names.append(slot.input)
        axes[slot.input] = {1: slot.batch} if isinstance(slot.batch, str) else {}
