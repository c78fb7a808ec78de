"""Before anything is traced: a private copy of the model, bound to its inputs, their names and their axes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnn_runtime import InputError, LimitSpec

from .._axis import Axis
from .._errors import ExportError
from .._quiet import quiet
from . import axes as axis_map
from . import bare, effects, kept, lift, tree
from . import limits as limits_of
from .effects import KeepsStateError
from .follow import follow
from .ledger import Assumption
from .module import REFUSED, Flat, copied, flat_model
from .sample import Sampler

State = str | Mapping[str, str]


@dataclass(frozen=True)
class Prepared:
    """A model bound to its inputs, before anything is traced.

    Attributes:
        flat: a private, evaluating copy of the model, from flat tensors to flat tensors, kept and lifted states last.
        names, axes: of its inputs.
        example_sizes: the size that the example gives each dynamic axis.
        sizes, traced: sizes of two or more, and inputs of these sizes: the example itself, or larger ones.
        output_paths: the way to each result in what the model returns; kept and lifted states last.
        unlifted: why no layer's state was lifted, where that was asked for; a loop's still may be.
        unstreamed: the operator that may keep the model from a stream, where its layers' states alone are lifted.
        fixed: the sizes of axes that are dynamic in the model and not in the files.
        limits: the sizes that the model is exported for, by axis; an axis that is not there takes any.
        assumptions: what was taken for granted, and how each was settled.
        tried: sizes at which the model was held against what stands for it.
        counts: plain numbers that the model counts itself, which no survey follows.
    """

    flat: Flat
    names: list[str]
    axes: axis_map.Axes
    example_sizes: dict[str, int]
    sizes: dict[str, int]
    traced: list[Tensor]
    output_paths: list[tree.Path]
    unlifted: ExportError | None
    fixed: Mapping[str, int]
    unstreamed: ExportError | None = field(default=None, kw_only=True)
    limits: dict[str, LimitSpec] = field(default_factory=dict, kw_only=True)
    assumptions: tuple[Assumption, ...] = field(default=(), kw_only=True)
    tried: tuple[Mapping[str, int], ...] = field(default=(), kw_only=True)
    counts: tuple[str, ...] = field(default=(), kw_only=True)


def prepare(
    model: nn.Module,
    example_inputs: Any,
    *,
    axes: Mapping[str, Mapping[int, str | Axis]] | None,
    input_names: Sequence[str] | None,
    state: State,
) -> Prepared:
    """Bind a private copy of `model` to its inputs, and lift its states where that is asked for.

    Raises:
        InputError: axes or names do not fit the model.
        ExportError: the model does not take its example, or its states cannot be lifted.
    """
    plain, limits = limits_of.split(axes)
    layer = bare.layer(model)
    if layer is not None:
        example_inputs = bare.inputs(layer, example_inputs, with_state=state != "none")
    flat = flat_model(model, example_inputs)
    example = flat.inputs.example
    if layer is not None and input_names is None:
        flat.inputs.names = list(bare.INPUTS[: len(example)])
        plain = bare.merged(bare.axes(layer, flat.inputs), plain or {})
    names, dynamic = axis_map.named(flat, plain, input_names)
    fixed = plain is not None and set(names) <= set(plain)  # that none is dynamic is then said of each input
    if not any(dynamic.values()) and not fixed:
        raise InputError(
            f"no axis is dynamic: name them, as in axes={{{names[0]!r}: {{0: 'batch', 1: 'sequence'}}}} "
            "(only a bare nn.RNN, nn.LSTM or nn.GRU has axes that are known)"
        )
    dynamic = follow(flat, names, dynamic, given=plain or {}, limits=limits)
    sizes = example_sizes = axis_map.sizes(names, dynamic, example)
    limits_of.require(limits, example_sizes)
    traced = list(example)
    if min(sizes.values(), default=2) < 2:  # a size of 1 would be taken for a constant
        sizes = {axis: max(size, 2) for axis, size in sizes.items()}
        traced = Sampler(names, dynamic, example).draw(sizes, seed=0)
    larger = limits_of.larger(limits, sizes)
    found = _effects(flat, traced, Sampler(names, dynamic, example).draw(larger, seed=1))
    if found.state:
        if state == "none":
            raise KeepsStateError(_kept_text("", found))
        _keep(flat, names, dynamic, sizes, traced, found, limits)
        traced += [slot.zeros(sizes) for slot in flat.states]
        example += [slot.zeros(example_sizes) for slot in flat.states]
        left = _effects(flat, traced, Sampler(names, dynamic, example).draw(larger, seed=1))
        if left.state:
            raise KeepsStateError(_kept_text("beside its states ", left))
        found = replace(found, paths=left.paths)
    output_paths = found.paths
    how = "overwritten with large and random values after one call and after several: the results move"
    assumptions = tuple(
        Assumption("state", f"{spot.name} is kept between calls", type(model).__name__, "tried", how)
        for spot in found.state
    )
    unlifted = None
    if state == "lift" and layer is None:
        try:
            _lift(flat, names, dynamic, sizes, traced, limits)
        except (lift.NoLayer, lift.NoStream) as error:
            unlifted = error
        traced += [slot.zeros(sizes) for slot in flat.lifted]
        example += [slot.zeros(example_sizes) for slot in flat.lifted]
        output_paths += [(slot.output,) for slot in flat.lifted]
    return Prepared(
        flat,
        names,
        dynamic,
        example_sizes,
        sizes,
        traced,
        output_paths,
        unlifted,
        fixed={},
        limits=limits,
        assumptions=assumptions,
    )


def _kept_text(which: str, found: effects.Effects) -> str:
    return (
        f"a call of the model changes the next one: {which}it keeps {', '.join(spot.name for spot in found.state)} "
        "between calls, and a graph keeps nothing. Take that as an argument and return its next value, or set it anew "
        "in each call"
    )


def _effects(flat: Flat, traced: list[Tensor], larger: list[Tensor]) -> effects.Effects:
    """What one call of the model leaves to the next."""
    try:
        return effects.find(flat, traced, larger)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the model itself fails on its example inputs, before any export: {type(error).__name__}: {error}. Their "
            f"shapes were {', '.join(str(tuple(tensor.shape)) for tensor in traced)}"
        ) from error


def _keep(
    flat: Flat,
    names: list[str],
    axes: axis_map.Axes,
    sizes: Mapping[str, int],
    traced: Sequence[Tensor],
    found: effects.Effects,
    limits: limits_of.Limits,
) -> None:
    """Make what the model keeps between calls inputs and outputs of `flat`, and name them and their axes."""
    larger = limits_of.larger(limits, sizes)
    drawn = Sampler(names, axes, flat.inputs.example).draw(larger, seed=1)
    both = [(sizes, list(traced)), (larger, drawn)]
    flat.kept = kept.find(lambda: copied(flat), found.state, found.left.model, found.later.model, both, list(sizes))
    for slot in flat.states:
        if slot.input in names:
            raise InputError(f"the kept state {slot.input!r} has the name of an input: rename that with input_names")
        names.append(slot.input)
        assert isinstance(slot, kept.KeptSlot)
        axes[slot.input] = {dim: axis for dim, axis in enumerate(slot.axes) if isinstance(axis, str)}


def _lift(
    flat: Flat,
    names: list[str],
    axes: axis_map.Axes,
    sizes: Mapping[str, int],
    traced: Sequence[Tensor],
    limits: limits_of.Limits,
) -> None:
    """Make the states of inner layers inputs and outputs of `flat`, and name them and their axes."""
    larger = limits_of.larger(limits, sizes)
    drawn = Sampler(names, axes, flat.inputs.example).draw(larger, seed=1)
    seen = []
    for chosen, inputs in ((sizes, list(traced)), (larger, drawn)):
        for variant in _telling(inputs):
            copy = copied(flat)
            with contextlib.suppress(*REFUSED), quiet():
                seen.append((chosen, lift.calls(copy.model, functools.partial(copy, *variant))))
                break
    flat.lifted = lift.slots(seen, others=bool(flat.kept))
    for slot in flat.lifted:
        if slot.input in names:
            raise InputError(f"the lifted state {slot.input!r} has the name of an input: rename that with input_names")
        names.append(slot.input)
        axes[slot.input] = slot.axes


def _telling(inputs: list[Tensor]) -> Iterator[list[Tensor]]:
    """The same inputs with nothing but zeros in none of them, so that a state which one of them gives is not zeros.

    Then with whole numbers in falling order, as sorted lengths are; then as they are.
    """
    generator = torch.Generator().manual_seed(0)

    def filled(tensor: Tensor) -> Tensor:
        if bool(tensor.any()):
            return tensor
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        return torch.ones_like(tensor)

    full = [filled(tensor) for tensor in inputs]
    yield full
    yield [
        tensor.sort(descending=True).values if tensor.dim() == 1 and not tensor.is_floating_point() else tensor
        for tensor in full
    ]
    yield inputs
