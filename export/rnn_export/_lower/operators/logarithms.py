"""Logarithms of sums, whose exponentials would overflow or vanish."""

from __future__ import annotations

import math
from typing import Any

from .write import Table, aten, constant, dtype_of, floating, given, op


def log1p(x: Any) -> Any:
    """aten.log1p: the logarithm of what 1 + x is rounded to, scaled by what the rounding lost."""
    x, dtype = floating(x)
    one = constant(1, dtype)
    total = op.Add(x, one)
    lost = op.Sub(total, one)
    scaled = op.Div(op.Mul(op.Log(total), x), op.Where(op.Equal(lost, constant(0, dtype)), one, lost))
    small = op.LessOrEqual(op.Abs(x), one)
    return op.Where(op.Equal(total, one), x, op.Where(small, scaled, op.Log(total)))


def expm1(x: Any) -> Any:
    """aten.expm1, by the hyperbolic tangent where `exp(x) - 1` would cancel."""
    x, dtype = floating(x)
    one, half = constant(1, dtype), constant(0.5, dtype)
    power = op.Exp(x)
    small = op.Mul(op.Tanh(op.Mul(x, half)), op.Add(power, one))
    return op.Where(op.Less(op.Abs(x), one), small, op.Sub(power, one))


def _joined(x: Any, y: Any, base: float) -> Any:
    """log(base**x + base**y): the larger one, and what the other adds to it."""
    dtype = dtype_of(x, y)
    x, y = given(x, dtype), given(y, dtype)
    scale = math.log(base)
    apart = op.Neg(op.Abs(op.Sub(x, y)))
    powers = op.Exp(op.Mul(apart, constant(scale, dtype)) if base != math.e else apart)
    added = op.Log(op.Add(powers, constant(1, dtype)))
    if base != math.e:
        added = op.Div(added, constant(scale, dtype))
    # Of two infinities that are equal the difference is no number.
    added = op.Where(op.Equal(x, y), constant(math.log(2) / scale, dtype), added)
    return op.Add(op.Where(op.Or(op.Less(x, y), op.IsNaN(y)), y, x), added)


def logaddexp(x: Any, y: Any) -> Any:
    """aten.logaddexp."""
    return _joined(x, y, math.e)


def logaddexp2(x: Any, y: Any) -> Any:
    """aten.logaddexp2."""
    return _joined(x, y, 2)


def log_sigmoid(x: Any) -> Any:
    """aten.log_sigmoid."""
    x, dtype = floating(x)
    zero = constant(0, dtype)
    added = log1p_of_power(op.Neg(op.Abs(x)), dtype)
    return op.Sub(op.Where(op.Less(x, zero), x, zero), added)


def log1p_of_power(x: Any, dtype: Any) -> Any:
    """log(1 + exp(x)) of an x of 0 or less."""
    return op.Log(op.Add(op.Exp(x), constant(1, dtype)))


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """aten.softplus: `x` itself from the threshold on."""
    x, dtype = floating(x)
    scaled = x if beta == 1 else op.Mul(x, constant(beta, dtype))
    zero = constant(0, dtype)
    y = op.Add(op.Where(op.Less(scaled, zero), zero, scaled), log1p_of_power(op.Neg(op.Abs(scaled)), dtype))
    y = y if beta == 1 else op.Div(y, constant(beta, dtype))
    return op.Where(op.Greater(scaled, constant(threshold, dtype)), x, y)


def log_ndtr(*_: Any) -> Any:
    """aten.special_log_ndtr, whose lower tail the tools underneath make NaN.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("torch.special.log_ndtr has no translation that is right for large negative numbers")


TRANSLATIONS: Table = {
    aten.special_log_ndtr.default: log_ndtr,
    aten.log1p.default: log1p,
    aten.expm1.default: expm1,
    aten.logaddexp.default: logaddexp,
    aten.logaddexp2.default: logaddexp2,
    aten.log_sigmoid.default: log_sigmoid,
    aten.softplus.default: softplus,
}
