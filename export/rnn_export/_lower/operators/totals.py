"""Whether any is true, of nothing too, and products, of whole numbers too."""

from __future__ import annotations

from typing import Any

from .write import BOOL, INT64, Table, aten, constant, dtype_of, op, rank_of, whole


def _any(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    true = x if dtype_of(x) == BOOL else op.Cast(x, to=BOOL)
    count = op.Cast(true, to=INT64)
    if rank_of(x):
        axes = range(rank_of(x)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
        count = op.ReduceSum(count, whole(*axes), keepdims=int(keepdim))
    return op.Greater(count, constant(0, INT64))


def _prod(x: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    kind = dtype_of(x)
    if dtype not in (-1, None):
        x = op.Cast(x, to=dtype)
    elif not kind.is_floating_point() and kind != INT64:
        x = op.Cast(x, to=INT64)
    if not rank_of(x):
        return op.Identity(x)
    axes = whole(*(range(rank_of(x)) if dim is None else [dim]))
    return op.ReduceProd(x, axes, keepdims=int(keepdim))


TRANSLATIONS: Table = {
    aten.any.default: _any,
    aten.any.dim: _any,
    aten.any.dims: _any,
    aten.prod.default: lambda x, *, dtype=-1: _prod(x, None, False, dtype),
    aten.prod.dim_int: lambda x, dim, keepdim=False, *, dtype=-1: _prod(x, dim, keepdim, dtype),
}
