"""Means and variances: of nothing they are NaN, and squares of deviations do not overflow on their way to a root."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .write import Table, aten, constant, floating, given, op, rank_of, whole


def _axes(x: Any, dim: Any) -> list[int]:
    rank = rank_of(x)
    if dim is None or (not isinstance(dim, int) and not list(dim)):
        return list(range(rank))
    return [d % rank for d in ([dim] if isinstance(dim, int) else dim)] if rank else []


def _count(x: Any, axes: list[int], dtype: Any) -> Any:
    """How many elements there are along some axes: a plain number where the graph knows, else a value."""
    sizes = [x.shape[axis] for axis in axes]
    if all(isinstance(size, int) for size in sizes):
        return math.prod(sizes)
    found = op.ReduceProd(op.Gather(op.Shape(x), whole(*axes), axis=0), keepdims=0)
    return op.Cast(found, to=dtype)


def mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: int = -1) -> Any:
    """aten.mean."""
    x = given(x, _named(dtype)) if dtype not in (-1, None) else x
    axes = _axes(x, dim)
    if not axes:
        return op.Identity(x)
    kind = x.dtype if x.dtype is not None else _named(dtype)
    count = _count(x, axes, kind)
    if isinstance(count, int) and count:
        return op.ReduceMean(x, whole(*axes), keepdims=int(keepdim))
    return op.Div(op.ReduceSum(x, whole(*axes), keepdims=int(keepdim)), given(count, kind))


def _named(dtype: Any) -> Any:
    from onnx_ir import DataType

    return DataType(dtype)


def _spread(x: Any, dim: Any, correction: Any, keepdim: bool, *, root: bool) -> tuple[Any, Any]:
    """The variance, or its root, and the mean."""
    x, dtype = floating(x)
    axes = _axes(x, dim)
    where = whole(*axes)
    zero, one = constant(0, dtype), constant(1, dtype)
    count = _count(x, axes, dtype)
    correction = 1 if correction is None else correction
    if isinstance(count, int):
        middle = (
            op.ReduceMean(x, where, keepdims=1) if count else op.Mul(constant(np.nan, dtype), op.ReduceSum(x, where))
        )
        free = constant(max(0, count - correction), dtype)
    else:
        middle = op.Div(op.ReduceSum(x, where, keepdims=1), count)
        free = op.Max(zero, op.Sub(count, constant(correction, dtype)))
    apart = op.Sub(x, middle)
    if root:
        largest = op.ReduceSum(op.Abs(apart), where, keepdims=1)
        usual = op.And(op.Greater(largest, zero), op.Not(op.IsInf(largest)))
        scale = op.Where(usual, largest, one)
        apart = op.Div(apart, scale)
    total = op.ReduceSum(op.Mul(apart, apart), where, keepdims=1)
    result = op.Div(total, free)
    if root:
        result = op.Mul(op.Sqrt(result), scale)
    # PyTorch follows mean and variance together: of infinities both are NaN.
    middle = op.Where(op.IsNaN(total), constant(np.nan, dtype), middle)
    return (result, middle) if keepdim else (op.Squeeze(result, where), op.Squeeze(middle, where))


def _form(kind: str, *, root: bool, both: bool) -> Any:
    """A translation of var, std, var_mean or std_mean in one of their forms."""

    def write(x: Any, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *, correction: Any = None) -> Any:
        if kind == "correction":
            pair = _spread(x, dim, correction, keepdim, root=root)
        elif kind == "dim":
            pair = _spread(x, dim, int(unbiased), keepdim, root=root)
        else:  # the second argument of the plain form is whether it is unbiased
            pair = _spread(x, None, 1 if dim is None else int(dim), False, root=root)
        return pair if both else pair[0]

    return write


TRANSLATIONS: Table = {
    aten.mean.default: lambda x, *, dtype=-1: mean(x, dtype=dtype),
    aten.mean.dim: mean,
    **{
        getattr(getattr(aten, name), kind): _form(kind, root=name.startswith("std"), both=name.endswith("mean"))
        for name in ("var", "std", "var_mean", "std_mean")
        for kind in ("default", "dim", "correction")
    },
}
