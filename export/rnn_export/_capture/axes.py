"""Which dimensions of the inputs are dynamic, and what they are called."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from torch import Tensor

from rnn_runtime import InputError, TensorSpec

from .module import Flat

Axes = dict[str, dict[int, str]]

_WORD = "an axis name is a word such as 'batch' or 'sequence'"


def named(
    flat: Flat, axes: Mapping[str, Mapping[int, str]] | None, input_names: Sequence[str] | None
) -> tuple[list[str], Axes]:
    """The inputs' names and the dynamic axes of each.

    Keys of the axis map that are no inputs name the parts of tuples that it leaves out, in order, where there are as
    many: axes={"x": ..., "h": ..., "c": ...} names those of forward(x, (h, c)). Where no key is an input, or there is
    one for each input with those that are in their places, they name any input. A key close to an input's name is taken
    for a slip.

    Raises:
        InputError: an unknown input or dimension, a name that is no word, or a wrong number of names.
    """
    names = list(flat.inputs.names)
    if input_names is not None:
        if len(input_names) != len(names) or len(set(input_names)) != len(names):
            raise InputError(f"input_names is {list(input_names)}; the inputs are {names}: give each its own name")
        names = list(input_names)
    if axes is not None and not isinstance(axes, Mapping):
        raise InputError(f"axes is {axes!r}: give a dict of input -> dimension -> axis name")
    if not names:
        raise InputError("the example inputs hold no tensor: give a tensor, a tuple of forward's arguments, or a dict")
    empty = [name for name, tensor in zip(names, flat.inputs.example, strict=True) if tensor.numel() == 0]
    if empty:
        raise InputError(f"the example of {empty[0]!r} is empty: give sizes of 1 or more")
    given = dict(axes or {})
    unknown = [name for name in given if name not in names]
    free = [k for k, name in enumerate(names) if name not in given]
    close = [
        f"{name!r} (did you mean {match[0]!r}?)"
        for name in unknown
        if (match := difflib.get_close_matches(name, [names[k] for k in free], n=1))
    ]
    in_order = len(given) == len(names) and all(names[k] == name for k, name in enumerate(given) if name in names)
    nameable = free if in_order or len(unknown) == len(given) else [k for k in free if flat.inputs.parts[k]]
    if unknown and input_names is None and len(unknown) == len(nameable) and not close:
        for k, name in zip(nameable, unknown, strict=True):
            names[k] = name
    elif unknown:
        said = ", ".join(close or map(repr, unknown))
        raise InputError(f"axes names {said}, but the inputs are {names}: use those names, or give input_names")
    result: Axes = {}
    for name, example in zip(names, flat.inputs.example, strict=True):
        result[name] = _dimensions(name, example, given.get(name, {}))
    return names, result


def dynamic(spec: TensorSpec) -> dict[int, str]:
    """The dynamic axes of a tensor whose signature is known: dimension -> axis name."""
    return {dim: axis for dim, axis in enumerate(spec.axes) if isinstance(axis, str)}


def _dimensions(name: str, example: Tensor, given: Mapping[int, str]) -> dict[int, str]:
    if not isinstance(given, Mapping):
        raise InputError(
            f"the axes of {name!r} are {given!r}: give a dict of dimension -> axis name, such as {{0: 'batch'}}"
        )
    dimensions: dict[int, str] = {}
    for dim, axis in given.items():
        if not isinstance(dim, int) or not -example.dim() <= dim < example.dim():
            raise InputError(f"{name!r} has no dimension {dim!r}: its example has shape {tuple(example.shape)}")
        if not isinstance(axis, str) or not axis.isidentifier():
            raise InputError(f"dimension {dim} of {name!r} is named {axis!r}: {_WORD}")
        dimensions[dim % example.dim()] = axis
    return dimensions


def sizes(names: Sequence[str], axes: Axes, example: Sequence[Tensor]) -> dict[str, int]:
    """The size that the example gives to each dynamic axis.

    Raises:
        InputError: two inputs give one axis different sizes.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, tensor in zip(names, example, strict=True):
        for dim, axis in axes[name].items():
            size = tensor.shape[dim]
            before, owner = found.setdefault(axis, (size, name))
            if before != size:
                raise InputError(
                    f"the example inputs give the axis {axis!r} two sizes: {before} in {owner!r}, {size} in {name!r}. "
                    "Make them equal, or name the axes apart"
                )
    return {axis: size for axis, (size, _) in found.items()}
