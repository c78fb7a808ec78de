"""Division of floats that ends at a whole number, and what it leaves."""

from __future__ import annotations

from typing import Any

from .write import FLOATS, Table, aten, constant, dtype_of, given, op


def _rest(x: Any, y: Any, dtype: Any) -> tuple[Any, Any]:
    """C's fmod, and whether its sign is not the divisor's."""
    zero = constant(0, dtype)
    rest = op.Mod(x, y, fmod=1)
    other = op.Not(op.Equal(op.Less(rest, zero), op.Less(y, zero)))
    return rest, op.And(op.Not(op.Equal(rest, zero)), other)


def remainder(x: Any, y: Any) -> Any:
    """aten.remainder, which has the sign of the divisor."""
    dtype = dtype_of(x, y)
    x, y = given(x, dtype), given(y, dtype)
    if dtype not in FLOATS:
        return op.Mod(x, y)
    rest, other = _rest(x, y, dtype)
    return op.Where(other, op.Add(rest, y), rest)


def floor_divide(x: Any, y: Any) -> Any:
    """aten.floor_divide: by what fmod leaves, as Python's own."""
    dtype = dtype_of(x, y)
    x, y = given(x, dtype), given(y, dtype)
    if dtype not in FLOATS:
        left = op.Mod(x, y)  # with the divisor's sign
        return op.Div(op.Sub(x, left), y)
    one, zero = constant(1, dtype), constant(0, dtype)
    rest, other = _rest(x, y, dtype)
    exact = op.Div(op.Sub(x, rest), y)
    exact = op.Where(other, op.Sub(exact, one), exact)
    lower = op.Floor(exact)
    lower = op.Where(op.Greater(op.Sub(exact, lower), constant(0.5, dtype)), op.Add(lower, one), lower)
    return op.Where(op.Equal(y, zero), op.Div(x, y), lower)


def divide(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    """aten.div with a rounding mode."""
    dtype = dtype_of(x, y)
    if rounding_mode == "floor":
        return floor_divide(x, y)
    x, y = given(x, dtype), given(y, dtype)
    if rounding_mode is None:
        return op.Div(x, y)
    if dtype not in FLOATS:
        return op.Div(x, y)  # which cuts off, of whole numbers
    exact = op.Div(x, y)
    down = op.Floor(op.Abs(exact))
    return op.Where(op.Less(exact, constant(0, dtype)), op.Neg(down), down)


TRANSLATIONS: Table = {
    aten.remainder.Tensor: remainder,
    aten.remainder.Scalar: remainder,
    aten.remainder.Scalar_Tensor: remainder,
    aten.floor_divide.default: floor_divide,
    aten.floor_divide.Scalar: floor_divide,
    aten.div.Tensor_mode: divide,
    aten.div.Scalar_mode: divide,
}
