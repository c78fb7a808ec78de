"""What `load` was told about a model beside its signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _guards
from ._errors import InputError
from ._signature import Signature, TensorSpec

NAN = ("propagate", "raise")


class Context(NamedTuple):
    """How much of an input a model wants to see again before each chunk: the last `steps` along `dimension`."""

    dimension: int
    steps: int


@dataclass(frozen=True)
class Options:
    """Constants, context and the answer to NaN, checked against a signature.

    Attributes:
        constants: inputs that are the same in every run, by name.
        context: by the name of an input, what a stream puts before each chunk.
        nan: "propagate" or "raise".
    """

    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    context: dict[str, Context] = field(default_factory=dict)
    nan: str = "propagate"


def read(
    signature: Signature,
    constants: Mapping[str, ArrayLike] | None,
    context: Mapping[str, Mapping[int, int]] | None,
    nan: str,
) -> tuple[Signature, Options]:
    """The options, and the signature without the inputs that are constant.

    Raises:
        InputError: something does not fit the signature.
    """
    if nan not in NAN:
        raise InputError(f"nan is {nan!r}; expected 'propagate' or 'raise'")
    known = {spec.name: spec for spec in signature.data_inputs}
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in (constants or {}).items():
        if name not in known:
            raise InputError(f"there is no input {name!r} to hold constant: the inputs are {', '.join(known)}")
        arrays[name] = _constant(known[name], value)
        if problems := _guards.tensor(known[name], arrays[name]):
            raise InputError("; ".join(problems))
        sizes = _guards.Sizes()
        sizes.add(known[name], arrays[name].shape)
        if problems := sizes.outside(signature.limits):
            raise InputError("; ".join(problems))
    _guards.refuse_ids(signature.ids, arrays)
    left = replace(
        signature,
        inputs=tuple(spec for spec in signature.inputs if spec.name not in arrays),
        more_lengths=tuple(spec for spec in signature.more_lengths if spec.input not in arrays),
        ids=tuple(spec for spec in signature.ids if spec.input not in arrays),
    )
    left = replace(left, limits=tuple(limit for limit in left.limits if limit.axis in left.axis_names))
    if not left.data_inputs:
        raise InputError("every input is held constant: leave one for `run` and `push` to give")
    return left, Options(arrays, {name: _context(left, name, value) for name, value in (context or {}).items()}, nan)


def _constant(spec: TensorSpec, value: object) -> NDArray[Any]:
    """A plain 16000 has no dtype of its own, so it takes the graph's where that loses nothing."""
    try:
        given = np.array(value, order="C")
        if hasattr(value, "dtype"):
            return given
        array = given.astype(spec.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the constant {spec.name!r} cannot be a {spec} ({error}): give such an array") from None
    if array.dtype.kind != "f" and not np.array_equal(array, given):
        raise InputError(f"the constant {spec.name!r} is {value!r}, which {spec} cannot hold: give such an array")
    return array


def _context(signature: Signature, name: str, value: object) -> Context:
    known = {spec.name: spec for spec in signature.data_inputs}
    if name not in known:
        raise InputError(f"there is no input {name!r} to keep a context of: the inputs are {', '.join(known)}")
    if signature.lengths is not None:
        raise InputError("a model that takes lengths cannot keep a context: a row's last steps may be padding")
    rank = len(known[name].axes)
    if isinstance(value, Mapping) and len(value) == 1:
        ((dimension, steps),) = value.items()
        whole = isinstance(dimension, int) and isinstance(steps, int)
        if whole and -rank <= dimension < rank and steps > 0:
            return Context(dimension % rank, steps)
    raise InputError(
        f"the context of {name!r} is {value!r}; expected {{dimension: steps}}, such as {{1: 64}}, for one of its "
        f"{rank} dimensions"
    )
