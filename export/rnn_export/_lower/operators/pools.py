"""Means over windows: those that are as many as is asked for, and those with a divisor of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxscript.function_libs.torch_lib.ops import nn

from .write import Table, aten, constant, dtype_of, op, rank_of, size, whole

MANY = 64
"""More windows than this are not written out one by one."""


def _adaptive(x: Any, count: int, axis: int) -> Any:
    """The means of `count` windows along an axis of any size: window i goes from floor(i n / count) on."""
    if not isinstance(count, int) or count > MANY:
        raise NotImplementedError(f"adaptive pooling to {count} windows has no translation: {MANY} at most, a number")
    steps, many = size(x, axis), whole(count)
    means = []
    for i in range(count):
        start = op.Div(op.Mul(steps, whole(i)), many)
        end = op.Div(op.Add(op.Mul(steps, whole(i + 1)), whole(count - 1)), many)
        # Not ReduceMean, which is 0 of nothing.
        total = op.ReduceSum(op.Slice(x, start, end, whole(axis)), whole(axis), keepdims=1)
        means.append(op.Div(total, op.Cast(op.Sub(end, start), to=dtype_of(x))))
    return means[0] if count == 1 else op.Concat(*means, axis=axis)


def adaptive(x: Any, output_size: Sequence[int | None]) -> Any:
    """aten.adaptive_avg_pool1d and those of two and three axes."""
    rank = rank_of(x)
    y = x
    for k, count in enumerate(output_size):
        if count is not None:
            axis = rank - len(output_size) + k
            shape, dtype = x.shape, x.dtype
            y = _adaptive(y, count, axis)
            y.dtype = dtype
            y.shape = type(shape)([*shape[:axis], count, *shape[axis + 1 :]])
            x = y
    return y


def _divided(plain: Any) -> Any:
    """A mean pool whose sums are divided by `divisor_override`, where that is given."""

    def write(
        x: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override is None:
            return plain(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
        if ceil_mode:
            raise NotImplementedError("avg_pool with divisor_override and ceil_mode has no translation")
        means = plain(x, kernel_size, stride, padding, False, True)
        return op.Mul(means, constant(math.prod(kernel_size) / divisor_override, dtype_of(x)))

    return write


TRANSLATIONS: Table = {
    aten.adaptive_avg_pool1d.default: adaptive,
    aten.adaptive_avg_pool2d.default: adaptive,
    aten.adaptive_avg_pool3d.default: adaptive,
    aten._adaptive_avg_pool2d.default: adaptive,
    aten._adaptive_avg_pool3d.default: adaptive,
    aten.avg_pool2d.default: _divided(nn.aten_avg_pool2d),
    aten.avg_pool3d.default: _divided(nn.aten_avg_pool3d),
}
