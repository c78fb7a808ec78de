"""Largest and smallest values: where there is a NaN PyTorch gives it, and ONNX Runtime passes it over."""

from __future__ import annotations

import math
from typing import Any

from .write import FLOAT, FLOATS, INT64, Table, aten, constant, dtype_of, op, rank_of, whole


def _axes(x: Any, dim: Any) -> Any:
    if dim is None or (not isinstance(dim, int) and not list(dim)):
        return whole(*range(rank_of(x)))
    return whole(*([dim] if isinstance(dim, int) else dim))


def extreme(x: Any, dim: Any, keepdim: bool, *, largest: bool) -> Any:
    """The largest or smallest value along axes, or NaN where there is one."""
    if not rank_of(x):
        return op.Identity(x)
    dtype = dtype_of(x)
    axes = _axes(x, dim)
    reduce = op.ReduceMax if largest else op.ReduceMin
    if dtype.name == "BOOL":
        return op.Cast(reduce(op.Cast(x, to=INT64), axes, keepdims=int(keepdim)), to=dtype)
    y = reduce(x, axes, keepdims=int(keepdim))
    if dtype not in FLOATS:
        return y
    broken = op.ReduceMax(op.Cast(op.IsNaN(x), to=FLOAT), axes, keepdims=int(keepdim))
    return op.Where(op.Greater(broken, constant(0, FLOAT)), constant(math.nan, dtype), y)


def place(x: Any, dim: Any, keepdim: bool, *, largest: bool) -> Any:
    """Where the first NaN is, or else the first of the largest or smallest values."""
    dtype = dtype_of(x)
    find = op.ArgMax if largest else op.ArgMin
    if not rank_of(x):
        return op.Constant(value_int=0)
    if dtype.name == "BOOL":
        x = op.Cast(x, to=INT64)
    if dim is None:
        x, keep, dim = op.Reshape(x, whole(-1)), 0, 0
        result = _first(x, dim, keep, dtype, find)
        return op.Reshape(result, whole(*([1] * 0))) if not keepdim else result
    return _first(x, dim, int(keepdim), dtype, find)


def _first(x: Any, dim: int, keep: int, dtype: Any, find: Any) -> Any:
    found = find(x, axis=dim, keepdims=keep)
    if dtype not in FLOATS:
        return found
    broken = op.Cast(op.IsNaN(x), to=FLOAT)
    some = op.Greater(op.ReduceMax(broken, whole(dim), keepdims=keep), constant(0, FLOAT))
    return op.Where(some, op.ArgMax(broken, axis=dim, keepdims=keep), found)


def _extremes(*, largest: bool) -> Table:
    name, value, index = ("max", "amax", "argmax") if largest else ("min", "amin", "argmin")

    def whole_tensor(x: Any) -> Any:
        return extreme(x, None, False, largest=largest)

    def along(x: Any, dim: int, keepdim: bool = False) -> Any:
        return extreme(x, dim, keepdim, largest=largest), place(x, dim, keepdim, largest=largest)

    def values(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
        return extreme(x, dim, keepdim, largest=largest)

    def places(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return place(x, dim, keepdim, largest=largest)

    return {
        getattr(aten, name).default: whole_tensor,
        getattr(aten, name).dim: along,
        getattr(aten, value).default: values,
        getattr(aten, index).default: places,
    }


def aminmax(x: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
    """aten.aminmax."""
    return extreme(x, dim, keepdim, largest=False), extreme(x, dim, keepdim, largest=True)


def vector_norm(x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: int = -1) -> Any:
    """aten.linalg_vector_norm: those of infinite order are largest and smallest values."""
    from onnxscript.function_libs.torch_lib.ops.linalg import aten_linalg_vector_norm

    if math.isinf(order):
        return extreme(_absolute(x), dim, keepdim, largest=order > 0)
    return aten_linalg_vector_norm(x, order, dim, keepdim, dtype)


def _absolute(x: Any) -> Any:
    y = op.Abs(x)
    y.dtype, y.shape = x.dtype, x.shape
    return y


def isclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """aten.isclose."""
    dtype = dtype_of(x)
    same = op.Equal(x, y)
    if dtype not in FLOATS:
        x, y, dtype = op.Cast(x, to=FLOAT), op.Cast(y, to=FLOAT), FLOAT
    elif equal_nan:
        same = op.Or(same, op.And(op.IsNaN(x), op.IsNaN(y)))
    apart = op.Abs(op.Sub(x, y))
    allowed = op.Add(constant(atol, dtype), op.Mul(constant(rtol, dtype), op.Abs(y)))
    finite = op.Less(apart, constant(math.inf, dtype))
    return op.Or(same, op.And(finite, op.LessOrEqual(apart, allowed)))


TRANSLATIONS: Table = {
    **_extremes(largest=True),
    **_extremes(largest=False),
    aten.aminmax.default: aminmax,
    aten.linalg_vector_norm.default: vector_norm,
    aten.isclose.default: isclose,
}
