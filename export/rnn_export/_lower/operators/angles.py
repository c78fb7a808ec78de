"""Angles, in all four quadrants."""

from __future__ import annotations

import math
from typing import Any

from .write import Table, aten, constant, dtype_of, floating, op


def is_negative(x: Any, dtype: Any) -> Any:
    """Whether a number has a minus; a zero may have one too, which shows where it divides."""
    zero = constant(0, dtype)
    return op.Less(op.Where(op.Equal(x, zero), op.Div(constant(1, dtype), x), x), zero)


def atan2(y: Any, x: Any) -> Any:
    """aten.atan2: the arc tangent of the smaller coordinate over the larger one, turned into its octant."""
    y, dtype = floating(y, dtype_of(y, x))
    x, _ = floating(x, dtype)
    zero, one = constant(0, dtype), constant(1, dtype)
    wide, high = op.Abs(x), op.Abs(y)
    steep = op.Greater(high, wide)
    less, more = op.Where(steep, wide, high), op.Where(steep, high, wide)
    # 0 of 0 is 0, infinity of infinity 1.
    ratio = op.Div(less, op.Where(op.Equal(more, zero), one, more))
    ratio = op.Where(op.And(op.Equal(less, more), op.Not(op.Equal(more, zero))), one, ratio)
    angle = op.Atan(ratio)
    angle = op.Where(steep, op.Sub(constant(math.pi / 2, dtype), angle), angle)
    angle = op.Where(is_negative(x, dtype), op.Sub(constant(math.pi, dtype), angle), angle)
    angle = op.Where(is_negative(y, dtype), op.Neg(angle), angle)
    return op.Where(op.Or(op.IsNaN(x), op.IsNaN(y)), constant(math.nan, dtype), angle)


def signbit(x: Any) -> Any:
    """aten.signbit."""
    dtype = dtype_of(x)
    if not dtype.is_floating_point():
        return op.Less(x, constant(0, dtype))
    return is_negative(x, dtype)


def angle(x: Any) -> Any:
    """aten.angle of real numbers: half a turn below zero, NaN of NaN."""
    x, dtype = floating(x)
    turned = op.Where(op.Less(x, constant(0, dtype)), constant(math.pi, dtype), constant(0, dtype))
    return op.Where(op.IsNaN(x), x, turned)


TRANSLATIONS: Table = {aten.angle.default: angle, aten.atan2.default: atan2, aten.signbit.default: signbit}
