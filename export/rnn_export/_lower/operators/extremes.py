"""Bounds, larger and smaller ones, and signs."""

from __future__ import annotations

from typing import Any

from .write import Table, aten, constant, dtype_of, given, is_value, op


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:  # the names are PyTorch's
    """aten.clamp: one bound leaves infinities on the other side as they are, which ONNX's Clip does not."""
    dtype = dtype_of(x)
    y = x
    if min is not None:
        y = op.Max(y, given(min, dtype))
    return y if max is None else op.Min(y, given(max, dtype))


def clamp_min(x: Any, min: Any) -> Any:
    """aten.clamp_min."""
    return clamp(x, min)


def clamp_max(x: Any, max: Any) -> Any:
    """aten.clamp_max."""
    return clamp(x, None, max)


def sign(x: Any) -> Any:
    """aten.sign, which is 0 of NaN."""
    dtype = dtype_of(x)
    zero = constant(0, dtype)
    return op.Sub(op.Cast(op.Greater(x, zero), to=dtype), op.Cast(op.Less(x, zero), to=dtype))


def _number(operator: str) -> Any:
    """The larger or the smaller one, a number where the other is NaN."""

    def write(x: Any, y: Any) -> Any:
        dtype = dtype_of(x, y)
        x, y = given(x, dtype), given(y, dtype)
        if not dtype.is_floating_point():
            return getattr(op, operator)(x, y)
        return op.Where(op.IsNaN(x), y, op.Where(op.IsNaN(y), x, getattr(op, operator)(x, y)))

    return write


def power(x: Any, exponent: Any) -> Any:
    """aten.pow with a plain number: the ones that PyTorch has ways of its own for."""
    dtype = dtype_of(x)
    if dtype.is_floating_point() and not is_value(exponent):
        if exponent == 0.5:
            return op.Sqrt(x)
        if exponent == -0.5:
            return op.Reciprocal(op.Sqrt(x))
        if exponent == 2:
            return op.Mul(x, x)
        if exponent == 3:
            return op.Mul(op.Mul(x, x), x)
        if exponent == -1:
            return op.Reciprocal(x)
        if exponent == -2:
            return op.Reciprocal(op.Mul(x, x))
        return op.Pow(x, constant(exponent, dtype))
    from onnxscript.function_libs.torch_lib.ops.core import aten_pow

    return aten_pow(x, exponent)


def heaviside(x: Any, y: Any) -> Any:
    """aten.heaviside, which is 0 of NaN."""
    dtype = dtype_of(x)
    zero = constant(0, dtype)
    return op.Where(op.Equal(x, zero), y, op.Cast(op.Greater(x, zero), to=dtype))


def xlogy(x: Any, y: Any) -> Any:
    """aten.xlogy: 0 where x is, but of NaN."""
    dtype = dtype_of(*(value for value in (x, y) if is_value(value) and value.dtype.is_floating_point()))
    x, y = given(x, dtype), given(y, dtype)
    zero = constant(0, dtype)
    return op.Where(op.And(op.Equal(x, zero), op.Not(op.IsNaN(y))), zero, op.Mul(x, op.Log(y)))


def logit(x: Any, eps: Any = None) -> Any:
    """aten.logit."""
    dtype = dtype_of(x)
    one = constant(1, dtype)
    if eps is not None:
        x = op.Min(op.Max(x, constant(eps, dtype)), constant(1 - eps, dtype))
    return op.Log(op.Div(x, op.Sub(one, x)))


def lerp(x: Any, y: Any, weight: Any) -> Any:
    """aten.lerp: from the nearer end, as PyTorch does."""
    dtype = dtype_of(x)
    weight = given(weight, dtype)
    one, half = constant(1, dtype), constant(0.5, dtype)
    apart = op.Sub(y, x)
    near = op.Add(x, op.Mul(weight, apart))
    far = op.Sub(y, op.Mul(apart, op.Sub(one, weight)))
    return op.Where(op.Less(op.Abs(weight), half), near, far)


TRANSLATIONS: Table = {
    aten.xlogy.Tensor: xlogy,
    aten.xlogy.Scalar_Other: xlogy,
    aten.xlogy.Scalar_Self: xlogy,
    aten.special_xlogy.default: xlogy,
    aten.logit.default: logit,
    aten.lerp.Tensor: lerp,
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.default: clamp_min,
    aten.clamp_min.Tensor: clamp_min,
    aten.clamp_max.default: clamp_max,
    aten.clamp_max.Tensor: clamp_max,
    aten.sign.default: sign,
    aten.sgn.default: sign,
    aten.fmax.default: _number("Max"),
    aten.fmin.default: _number("Min"),
    aten.heaviside.default: heaviside,
    aten.pow.Tensor_Scalar: power,
}
