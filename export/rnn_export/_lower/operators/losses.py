"""What models score with, and diagonals: parts that are left out are not multiplied by zero, which keeps NaN."""

from __future__ import annotations

from typing import Any

from .logarithms import log1p_of_power
from .statistics import mean
from .write import Table, aten, constant, dtype_of, op, rank_of, whole


def _reduced(loss: Any, x: Any, reduction: int) -> Any:
    loss.dtype, loss.shape = x.dtype, x.shape
    if reduction == 0:
        return loss
    return mean(loss) if reduction == 1 else op.ReduceSum(loss, whole(*range(rank_of(x))), keepdims=0)


def mse_loss(x: Any, y: Any, reduction: int = 1) -> Any:
    """aten.mse_loss."""
    apart = op.Sub(x, y)
    return _reduced(op.Mul(apart, apart), x, reduction)


def bce_with_logits(x: Any, y: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1) -> Any:
    """aten.binary_cross_entropy_with_logits."""
    dtype = dtype_of(x)
    one, zero = constant(1, dtype), constant(0, dtype)
    added = op.Add(log1p_of_power(op.Neg(op.Abs(x)), dtype), op.Where(op.Less(x, zero), op.Neg(x), zero))
    if pos_weight is not None:
        added = op.Mul(added, op.Add(op.Mul(op.Sub(pos_weight, one), y), one))
    loss = op.Add(op.Mul(op.Sub(one, y), x), added)
    return _reduced(loss if weight is None else op.Mul(loss, weight), x, reduction)


def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """aten.diagonal."""
    rank = rank_of(x)
    dim1, dim2 = dim1 % rank, dim2 % rank
    others = [d for d in range(rank) if d not in (dim1, dim2)]
    turned = op.Transpose(x, perm=[*others, dim1, dim2])
    sizes = op.Shape(turned)
    rows = op.Gather(sizes, whole(rank - 2), axis=0)
    columns = op.Gather(sizes, whole(rank - 1), axis=0)
    first, second = whole(max(0, -offset)), whole(max(0, offset))
    count = op.Max(op.Min(op.Sub(rows, first), op.Sub(columns, second)), whole(0))
    places = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
    flat = op.Reshape(turned, op.Concat(op.Slice(sizes, whole(0), whole(rank - 2)), op.Mul(rows, columns), axis=0))
    at = op.Add(op.Mul(op.Add(places, first), columns), op.Add(places, second))
    return op.Gather(flat, at, axis=rank - 2)


def trace(x: Any) -> Any:
    """aten.trace."""
    return op.ReduceSum(diagonal(x), whole(0), keepdims=0)


TRANSLATIONS: Table = {
    aten.mse_loss.default: mse_loss,
    aten.binary_cross_entropy_with_logits.default: bce_with_logits,
    aten.diagonal.default: diagonal,
    aten.trace.default: trace,
}
