"""Interpolation: sizes and positions are computed as PyTorch does, in the same precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .write import DOUBLE, FLOAT, INT64, Table, aten, constant, dtype_of, is_value, op, rank_of, size, whole

Taps = list[tuple[Any, Any]]
"""Positions along an axis, and the weight of what lies there; None for 1."""


def _target(x: Any, axis: int, wanted: Any, factor: float | None) -> Any:
    """The size of an axis of the result, as a row of one number."""
    if wanted is not None:
        return op.Reshape(wanted, whole(1)) if is_value(wanted) else whole(wanted)
    exact = op.Mul(op.Cast(size(x, axis), to=DOUBLE), constant(factor, DOUBLE))
    return op.Cast(op.Floor(exact), to=INT64)


def _step(old: Any, new: Any, factor: float | None, align: bool, dtype: Any) -> Any:
    """How far it is from one position to the next."""
    if align:
        one = constant([1], dtype)
        gaps = op.Sub(op.Cast(new, to=dtype), one)
        step = op.Div(op.Sub(op.Cast(old, to=dtype), one), op.Max(gaps, one))
        return op.Mul(step, op.Cast(op.Greater(gaps, constant([0], dtype)), to=dtype))
    if factor is not None and factor > 0:
        return constant([1.0 / factor], dtype)
    return op.Div(op.Cast(old, to=dtype), op.Cast(new, to=dtype))


def _count(new: Any, dtype: Any) -> Any:
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    return op.Cast(op.Range(zero, op.Squeeze(new), one), to=dtype)


def _nearest(old: Any, new: Any, factor: float | None, half: bool) -> Taps:
    at = _count(new, FLOAT)
    at = op.Add(at, constant(0.5, FLOAT)) if half else at
    found = op.Cast(op.Floor(op.Mul(at, _step(old, new, factor, False, FLOAT))), to=INT64)
    return [(op.Min(found, op.Sub(old, whole(1))), None)]


def _source(old: Any, new: Any, factor: float | None, align: bool, dtype: Any, *, cubic: bool) -> Any:
    at, step = _count(new, dtype), _step(old, new, factor, align, dtype)
    if align:
        return op.Mul(at, step)
    half = constant(0.5, dtype)
    found = op.Sub(op.Mul(op.Add(at, half), step), half)
    return found if cubic else op.Max(found, constant(0, dtype))


def _linear(old: Any, new: Any, factor: float | None, align: bool, dtype: Any) -> Taps:
    source = _source(old, new, factor, align, dtype, cubic=False)
    last = op.Sub(old, whole(1))
    first = op.Min(op.Cast(op.Floor(source), to=INT64), last)
    second = op.Min(op.Add(first, whole(1)), last)
    weight = op.Sub(source, op.Cast(first, to=dtype))
    one = constant(1, dtype)
    weight = op.Min(op.Max(weight, constant(0, dtype)), one)
    return [(first, op.Sub(one, weight)), (second, weight)]


def _cubic(old: Any, new: Any, factor: float | None, align: bool, dtype: Any) -> Taps:
    source = _source(old, new, factor, align, dtype, cubic=True)
    floor = op.Floor(source)
    last = op.Sub(old, whole(1))
    first = op.Cast(floor, to=INT64)
    t = op.Sub(source, floor)
    one = constant(1, dtype)
    a = -0.75

    def near(d: Any) -> Any:  # ((a + 2) d - (a + 3)) d^2 + 1
        inner = op.Sub(op.Mul(constant(a + 2, dtype), d), constant(a + 3, dtype))
        return op.Add(op.Mul(op.Mul(inner, d), d), one)

    def far(d: Any) -> Any:  # ((a d - 5a) d + 8a) d - 4a
        inner = op.Sub(op.Mul(constant(a, dtype), d), constant(5 * a, dtype))
        inner = op.Add(op.Mul(inner, d), constant(8 * a, dtype))
        return op.Sub(op.Mul(inner, d), constant(4 * a, dtype))

    rest = op.Sub(one, t)
    weights = [far(op.Add(t, one)), near(t), near(rest), far(op.Add(rest, one))]
    return [(op.Min(op.Max(op.Add(first, whole(k - 1)), whole(0)), last), weight) for k, weight in enumerate(weights)]


def _resized(kind: str, x: Any, wanted: Any, align: bool, factors: Sequence[float] | None) -> Any:
    dtype = dtype_of(x)
    rank = rank_of(x)
    y = x
    for k, axis in enumerate(range(2, rank)):
        factor = None if factors is None else factors[k]
        old = size(x, axis)
        new = _target(x, axis, None if wanted is None else wanted[k], factor)
        if kind == "linear":
            taps = _linear(old, new, factor, align, dtype)
        elif kind == "cubic":
            taps = _cubic(old, new, factor, align, dtype)
        else:
            taps = _nearest(old, new, factor, kind == "exact")
        total = None
        for place, weight in taps:
            part = op.Gather(y, place, axis=axis)
            if weight is not None:
                shape = [1] * rank
                shape[axis] = -1
                part = op.Mul(part, op.Reshape(weight, whole(*shape)))
            total = part if total is None else op.Add(total, part)
        y = total
    return y


def _rows(wanted: Any) -> Any:
    return list(wanted) if isinstance(wanted, list | tuple) else wanted


def _plain(kind: str) -> Any:
    def write(x: Any, output_size: Any, scale_factors: Any = None) -> Any:
        return _resized(kind, x, _rows(output_size), False, scale_factors)

    return write


def _aligned(kind: str) -> Any:
    def write(x: Any, output_size: Any, align_corners: bool, scale_factors: Any = None) -> Any:
        return _resized(kind, x, _rows(output_size), align_corners, scale_factors)

    return write


TRANSLATIONS: Table = {
    **{getattr(aten, f"upsample_nearest{n}d").vec: _plain("nearest") for n in (1, 2, 3)},
    **{getattr(aten, f"_upsample_nearest_exact{n}d").vec: _plain("exact") for n in (1, 2, 3)},
    aten.upsample_linear1d.vec: _aligned("linear"),
    aten.upsample_bilinear2d.vec: _aligned("linear"),
    aten.upsample_trilinear3d.vec: _aligned("linear"),
    aten.upsample_bicubic2d.vec: _aligned("cubic"),
}
