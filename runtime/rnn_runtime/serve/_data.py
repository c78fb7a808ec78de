"""The numbers of a request: nothing is made of them before their types and their count are known.

What a request says can be made to cost more than the request: NumPy makes of one text among others an array in which
each element has the size of the longest, and a shape with a zero in it has any size for free.
"""

from __future__ import annotations

import math
import reprlib
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._faults import Fault

_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}  # of JSON, by a tensor's kind
_DEEPEST = 32  # dimensions that NumPy has had in every version
_LARGEST_EMPTY = 2**20  # values that a tensor with a size of 0 would have if that size were 1

_short = reprlib.Repr()
_short.maxlong = _short.maxstring = _short.maxother = 60


def brief(value: object) -> str:
    """A value of a client's as it goes into an error: its repr, cut."""
    return _short.repr(value)


def numbers(name: str, data: object, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers of nested or flat JSON lists, in one row: what `dtype` would change is refused.

    Raises:
        Fault: they are no such lists, or of another type, or out of its range.
    """
    values = _flat(data)
    if values is None or not set(map(type, values)) <= _TYPES[dtype.kind]:
        raise Fault(400, f"the data of {brief(name)} is no list of {dtype} values")
    if dtype.kind in "ui" and values:
        bounds = np.iinfo(dtype)
        if min(values) < bounds.min or max(values) > bounds.max:
            raise Fault(400, f"the data of {brief(name)} has values out of the range of {dtype}")
    try:
        with np.errstate(over="ignore"):  # a float that is too large becomes infinite, as everywhere
            return np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype, copy=False)
    except OverflowError:  # a whole number that no float holds
        raise Fault(400, f"the data of {brief(name)} has values out of the range of {dtype}") from None


def _flat(data: object) -> list[Any] | None:
    """What is in lists of lists, level by level; None where they are ragged, too deep, or no lists."""
    level: Any = data
    if type(level) is not list:
        return None
    for _ in range(_DEEPEST):
        if list not in (types := set(map(type, level))):
            return level  # type: ignore[no-any-return]
        if len(types) > 1 or len(set(map(len, level))) > 1:
            return None
        level = list(chain.from_iterable(level))
    return None


def shaped(name: str, array: NDArray[Any], shape: object) -> NDArray[Any]:
    """`array` in the shape that a request gives for it. Raises Fault where it has another number of values."""
    if (
        not isinstance(shape, list)
        or len(shape) > _DEEPEST
        or not all(type(size) is int and 0 <= size < 2**63 for size in shape)
    ):
        raise Fault(
            400, f"the input {brief(name)} has shape {brief(shape)}; expected a list of sizes, 0 or more, of 64 bits"
        )
    count = math.prod(shape)
    if count != array.size:
        raise Fault(
            400, f"the input {brief(name)} has {array.size} values, but its shape {brief(shape)} takes {brief(count)}"
        )
    if not count and math.prod(size or 1 for size in shape) > _LARGEST_EMPTY:
        raise Fault(
            400,
            f"the input {brief(name)} has no values, but the shape {brief(shape)}: the sizes beside the 0 may come to "
            f"{_LARGEST_EMPTY} at most",
        )
    return array.reshape(shape)
