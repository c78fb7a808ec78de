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


def _losses(x: Any, target: Any, weight: Any, ignore_index: int) -> tuple[Any, Any]:
    """The negative entries of `x` (rows, classes, ...) at the targets, times the weights that they have; and these."""
    if rank_of(x) < 2 or dtype_of(target).is_floating_point():
        raise NotImplementedError("a loss over classes of a single row, or of probabilities, has no translation")
    dtype, kind = dtype_of(x), dtype_of(target)
    zero = constant(0, dtype)
    counts = op.Not(op.Equal(target, constant(ignore_index, kind)))
    place = op.Where(counts, target, constant(0, kind))
    found = op.Squeeze(op.GatherElements(x, op.Unsqueeze(place, whole(1)), axis=1), whole(1))
    weights = op.Where(counts, constant(1, dtype) if weight is None else op.Gather(weight, place), zero)
    return op.Where(counts, op.Neg(op.Mul(found, weights)), zero), weights


def _summed(losses: Any, weights: Any, reduction: int, axes: range) -> Any:
    if reduction == 0:
        return losses
    total = op.ReduceSum(losses, whole(*axes), keepdims=0)
    return total if reduction == 2 else op.Div(total, op.ReduceSum(weights, whole(*axes), keepdims=0))


def nll_loss_forward(x: Any, target: Any, weight: Any, reduction: int, ignore_index: int) -> tuple[Any, Any]:
    """aten.nll_loss_forward and aten.nll_loss2d_forward: the losses, and the sum of the weights that they have."""
    losses, weights = _losses(x, target, weight, ignore_index)
    axes = range(rank_of(target))
    return _summed(losses, weights, reduction, axes), op.ReduceSum(weights, whole(*axes), keepdims=0)


def nll_loss(x: Any, target: Any, weight: Any = None, reduction: int = 1, ignore_index: int = -100) -> Any:
    """aten.nll_loss, of any rank."""
    return _summed(*_losses(x, target, weight, ignore_index), reduction, range(rank_of(target)))


def cross_entropy_loss(
    x: Any,
    target: Any,
    weight: Any = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """aten.cross_entropy_loss over classes given by their numbers."""
    if label_smoothing and weight is not None:
        raise NotImplementedError("cross_entropy with weights and label_smoothing has no translation")
    scores = op.LogSoftmax(x, axis=1)
    scores.dtype, scores.shape = x.dtype, x.shape
    losses, weights = _losses(scores, target, weight, ignore_index)
    if label_smoothing:
        dtype = dtype_of(x)
        every = op.Where(op.Greater(weights, constant(0, dtype)), op.ReduceMean(scores, whole(1), keepdims=0), weights)
        smooth = op.Mul(every, constant(label_smoothing, dtype))
        losses = op.Sub(op.Mul(losses, constant(1 - label_smoothing, dtype)), smooth)
    return _summed(losses, weights, reduction, range(rank_of(target)))


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
    aten.nll_loss_forward.default: nll_loss_forward,
    aten.nll_loss2d_forward.default: nll_loss_forward,
    aten.nll_loss.default: nll_loss,
    aten.nll_loss2d.default: nll_loss,
    aten.nll_loss_nd.default: nll_loss,
    aten.cross_entropy_loss.default: cross_entropy_loss,
    aten.diagonal.default: diagonal,
    aten.trace.default: trace,
}
