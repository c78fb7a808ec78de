"""Attention, of any rank, with rows in which a mask leaves nothing."""

from __future__ import annotations

import math
from typing import Any

from .write import BOOL, Table, aten, constant, dtype_of, op, rank_of, size, whole


def _turned(x: Any) -> Any:
    order = list(range(rank_of(x)))
    order[-2:] = order[-1], order[-2]
    return op.Transpose(x, perm=order)


def _causal(query: Any, key: Any) -> Any:
    """Which keys no query comes before, counted from the first of both."""

    def places(x: Any, axis: int) -> Any:
        row = op.Range(op.Constant(value_int=0), op.Squeeze(size(x, -2)), op.Constant(value_int=1))
        return op.Unsqueeze(row, whole(axis))

    return op.GreaterOrEqual(places(query, 1), places(key, 0))


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """aten.scaled_dot_product_attention: zeros where a mask leaves a query no key, as PyTorch gives them.

    Raises:
        NotImplementedError: there is dropout, or fewer heads of keys than of queries.
    """
    if dropout_p or enable_gqa:
        raise NotImplementedError("scaled_dot_product_attention with dropout_p or enable_gqa has no translation")
    dtype, width = dtype_of(query), query.shape[-1]
    if scale is None:
        if not isinstance(width, int):
            raise NotImplementedError("scaled_dot_product_attention over an axis of any size has no translation")
        scale = 1 / math.sqrt(width)
    # PyTorch scales both sides, which keeps large products within float32's range.
    root = constant(math.sqrt(abs(scale)), dtype)
    scores = op.MatMul(op.Mul(query, root), op.Mul(_turned(key), root))
    scores = op.Neg(scores) if scale < 0 else scores
    mask = _causal(query, key) if is_causal else attn_mask
    if mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    nothing = constant(-math.inf, dtype)
    if is_causal or dtype_of(mask) == BOOL:
        mask = op.Where(mask, constant(0, dtype), nothing)  # added, which keeps NaN as PyTorch does
    scores = op.Add(scores, mask)
    some = op.ReduceMax(op.Cast(op.Not(op.Equal(scores, nothing)), to=dtype), whole(-1), keepdims=1)
    weights = op.Where(op.Cast(some, to=BOOL), op.Softmax(scores, axis=-1), constant(0, dtype))
    return op.MatMul(weights, value)


TRANSLATIONS: Table = {aten.scaled_dot_product_attention.default: attention}
