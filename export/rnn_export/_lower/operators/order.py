"""Sorting: equal values in the order in which they came, NaN behind everything."""

from __future__ import annotations

import math
from typing import Any

from .write import FLOAT, FLOATS, INT64, Table, aten, constant, dtype_of, op, rank_of, size, whole


def _sorted(x: Any, dim: int, descending: bool) -> tuple[Any, Any]:
    """All values along an axis in order, and where each was."""
    dtype = dtype_of(x)
    if not rank_of(x):
        return op.Identity(x), op.Constant(value_int=0)
    dim %= rank_of(x)
    count = size(x, dim)
    largest = int(descending)
    if dtype not in FLOATS:
        key = op.Cast(x, to=INT64) if dtype.name == "BOOL" else x
        values, order = op.TopK(key, count, axis=dim, largest=largest, sorted=1)
        return (op.Cast(values, to=dtype) if dtype.name == "BOOL" else values), order
    broken = op.IsNaN(x)
    _, order = op.TopK(op.Where(broken, constant(math.inf, dtype), x), count, axis=dim, largest=largest, sorted=1)
    # A NaN is more than infinity.
    last = op.GatherElements(op.Cast(broken, to=FLOAT), order, axis=dim)
    _, again = op.TopK(last, count, axis=dim, largest=largest, sorted=1)
    order = op.GatherElements(order, again, axis=dim)
    return op.GatherElements(x, order, axis=dim), order


def sort(x: Any, dim: int = -1, descending: bool = False) -> Any:
    """aten.sort."""
    return _sorted(x, dim, descending)


def stable_sort(x: Any, *, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """aten.sort.stable."""
    return _sorted(x, dim, descending)


def argsort(x: Any, dim: int = -1, descending: bool = False) -> Any:
    """aten.argsort."""
    return _sorted(x, dim, descending)[1]


def stable_argsort(x: Any, *, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """aten.argsort.stable."""
    return _sorted(x, dim, descending)[1]


def topk(x: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:  # the names are PyTorch's
    """aten.topk."""
    values, order = _sorted(x, dim, largest)
    if not rank_of(x):
        return values, order
    end = whole(k) if isinstance(k, int) else op.Reshape(k, whole(1))
    axis = whole(dim % rank_of(x))
    return op.Slice(values, whole(0), end, axis), op.Slice(order, whole(0), end, axis)


TRANSLATIONS: Table = {
    aten.sort.default: sort,
    aten.sort.stable: stable_sort,
    aten.argsort.default: argsort,
    aten.argsort.stable: stable_argsort,
    aten.topk.default: topk,
}
