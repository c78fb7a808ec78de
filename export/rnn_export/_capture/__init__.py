"""Capture: an unchanged nn.Module becomes an ExportedProgram whose recurrent calls are leaves, and its signature."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rnn_runtime import InputError, Signature

from .._errors import ExportError
from .._quiet import quiet
from . import axes as axis_map
from . import bare, fixed, graph, lift, tree
from .describe import State, describe
from .graph import Layer
from .mode import Capture
from .module import REFUSED, Flat, flat_model, require_stateless
from .sample import Sampler
from .scan_leaf import replace_scans
from .tidy import tidy

__all__ = ["Captured", "Layer", "Prepared", "State", "capture", "prepare", "sequences"]


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
    padded = {signature.lengths.axis} if signature.lengths and signature.lengths.input in words else set()
    return (words | padded) & set(signature.axis_names)


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
    output_paths = _run_twice(prepared)
    program = _trace(prepared)
    replace_scans(program)
    tidy(program)
    if not graph.recurrent(program):
        raise ExportError(
            "the model calls no recurrent layer (nn.RNN, nn.LSTM, nn.GRU): rnn-export is for models that have one; "
            "for others use torch.onnx.export"
        )
    if output_names is None and bare.layer(model) is not None:
        output_names = bare.OUTPUTS[: len(output_paths)]
    signature, layers = describe(
        program, prepared.names, prepared.axes, output_paths, output_names, lengths, state, prepared.flat.lifted
    )
    sampler = Sampler.of(signature, prepared.flat.inputs.example)
    if signature.lengths is not None and _needs_full_lengths(prepared, sampler):
        signature = replace(signature, lengths=replace(signature.lengths, full=True))
        sampler = replace(sampler, full_lengths=True)
    return Captured(**vars(prepared), program=program, signature=signature, layers=layers, sampler=sampler)


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


def _needs_full_lengths(prepared: Prepared, sampler: Sampler) -> bool:
    """Whether eager PyTorch refuses lengths that all end before the padding does, as where packed meets padded data."""

    def takes(sampler: Sampler) -> bool:
        with contextlib.suppress(*REFUSED), quiet(), torch.no_grad():
            prepared.flat(*sampler.draw(prepared.sizes, seed=0))
            return True
        return False

    short = replace(sampler, sorted_lengths=True, short_lengths=True)
    return not takes(short) and takes(replace(sampler, sorted_lengths=True, full_lengths=True))


def _run_twice(prepared: Prepared) -> list[tree.Path]:
    """The way to each result in what the model returns."""
    first = prepared.traced
    # Other values, so that what one call leaves behind shows in the next. Where the model does not take them (lengths
    # that are no longer sorted), numbers alone change.
    rolled = [tensor.flatten().roll(1).reshape(tensor.shape) for tensor in first]
    numbers = [b if b.is_floating_point() else a for a, b in zip(first, rolled, strict=True)]
    try:
        try:
            return require_stateless(prepared.flat, first, rolled)
        except REFUSED:
            return require_stateless(prepared.flat, first, numbers)
    except ExportError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in prepared.traced)
        raise ExportError(
            f"the model itself fails on its example inputs, before any export: {type(error).__name__}: {error}. Their "
            f"shapes were {shapes}"
        ) from error


def _trace(prepared: Prepared) -> ExportedProgram:
    """The captured program; traced at two sizes, which have to give the same one.

    Raises:
        ExportError: the model cannot be traced, or what it does depends on the traced sizes.
    """
    program = _trace_once(prepared, prepared.traced)
    larger = {axis: 2 * size for axis, size in prepared.sizes.items()}  # twice keeps what has to be even
    again = _trace_once(prepared, Sampler(prepared.names, prepared.axes, prepared.traced).draw(larger, seed=0))
    for node, other in zip_longest(program.graph.nodes, again.graph.nodes):
        if node is None or other is None or _literals(node) != _literals(other):
            found = node if node is not None else other
            code = re.search(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', found.meta.get("stack_trace") or "")
            where = f": `{code[3].strip()}` ({code[1]}:{code[2]})" if code else ""
            raise ExportError(
                f"what the model computes depends on the traced sizes ({prepared.sizes}, then {larger}){where}. Use "
                "sizes of tensors only in tensor operations, or leave the axis out of `axes`"
            )
    return program


def _literals(node: torch.fx.Node) -> tuple[str, str]:
    """A node's operator and the plain values among its arguments."""
    plain = torch.fx.node.map_arg((node.args, node.kwargs), lambda _: None)
    return str(node.target) if node.op == "call_function" else node.op, str(plain)


def _trace_once(prepared: Prepared, inputs: Sequence[Tensor]) -> ExportedProgram:
    flat, names, axes = prepared.flat, prepared.names, prepared.axes
    dynamic = tuple(dict.fromkeys(axes[name], Dim.DYNAMIC) for name in names)
    places: list[fixed.Place] = []
    hook = flat.register_forward_pre_hook(lambda _, inputs: _unify(inputs, names, axes))
    try:
        with quiet(), torch.no_grad(), fixed.watching(flat) as places, Capture():
            return torch.export.export(flat, tuple(inputs), dynamic_shapes={"flat": dynamic}, strict=False)
    except ExportError:
        raise
    except Exception as error:
        raise _refusal(error, prepared, inputs, places) from error
    finally:
        hook.remove()


def _unify(inputs: tuple[Tensor, ...], names: list[str], axes: axis_map.Axes) -> None:
    """Tell the tracer that axes of one name have one size."""
    seen: dict[str, Any] = {}
    for name, tensor in zip(names, inputs, strict=True):
        for dim, axis in axes[name].items():
            torch._check(tensor.shape[dim] == seen.setdefault(axis, tensor.shape[dim]))


def _refusal(
    error: Exception, prepared: Prepared, inputs: Sequence[Tensor], places: Sequence[fixed.Place]
) -> ExportError:
    """torch.export's error in the user's terms: inputs and axes by name, and the line of code that it points to."""
    text = str(error)
    names, axes = prepared.names, prepared.axes
    found = re.findall(r"\['flat'\]\[(\d+)\]\.size\(\)\[(\d+)\].*?constant \((\d+)\)", text)
    if found:
        parts = [(names[int(i)], axes[names[int(i)]][int(dim)], int(size)) for i, dim, size in found]
        said = "; ".join(f"{axis!r} of {name!r} became {size}" for name, axis, size in parts)
        sizes = {size for _, _, size in parts}
        loops = list(dict.fromkeys(str(place) for place in places if place.size in sizes))
        if loops:
            return ExportError(
                f"the model fixes an axis to the traced size: {said}, by {'; '.join(loops[:3])}. A Python loop over an "
                "axis is unrolled when it is traced: let a recurrent layer run over it, write the loop with "
                "rnn_export.scan, or leave the axis out of `axes`"
            )
        fixed_elsewhere = [
            f"{name!r} has dimension {dim} of that size with no name"
            for name, tensor in zip(names, inputs, strict=True)
            for dim, size in enumerate(tensor.shape)
            if size in sizes and dim not in axes[name]
        ]
        hint = "; ".join(fixed_elsewhere) or "a size is used as a plain number, or an operator needs it fixed"
        return ExportError(
            f"the model fixes an axis to the traced size: {said}. {hint}: name it in `axes` too, or leave the axis out"
        )
    code = re.search(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', text)
    where = f" (`{code[3].strip()}`, {code[1]}:{code[2]})" if code else ""
    if "data-dependent" in text:
        return ExportError(
            f"the model decides by the value of a tensor{where}, and a graph has one way: compute both and choose with "
            "torch.where, or take the decision out of the model"
        )
    return ExportError(
        f"the model cannot be captured{where}: {type(error).__name__}: {text.strip().partition(chr(10))[0]}"
    )
