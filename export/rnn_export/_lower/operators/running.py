"""Running sums of exponentials, in as many rounds as the size of the axis has binary digits.

Each round joins every element with the one that lies 1, 2, 4, 8, ... before it. A product may not be joined so: what
lies between 1e-30 and 1e30 overflows in another order.
"""

from __future__ import annotations

from typing import Any

from onnxscript import INT64 as INT64_
from onnxscript import script
from onnxscript.function_libs.torch_lib.tensor_typing import TReal

from .write import Table, aten, op, rank_of, whole


@script(default_opset=op)
def _log_sums(x: TReal, total: INT64_, last: INT64_, first: INT64_, one: INT64_) -> TReal:
    y = x
    reach = op.Identity(one)
    more = op.Squeeze(op.Less(reach, total))
    while more:
        early = op.Slice(y, first, reach, last)
        before = op.Slice(y, first, op.Sub(total, reach), last)
        late = op.Slice(y, reach, total, last)
        apart = op.Neg(op.Abs(op.Sub(late, before)))
        both = op.Log(op.Add(op.Exp(apart), op.CastLike(1.0, x)))
        twice = op.CastLike(0.6931471805599453, x)
        # Of two infinities that are equal the difference is no number.
        added = op.Where(op.Equal(late, before), twice, both)
        second = op.Or(op.Less(late, before), op.IsNaN(before))
        joined = op.Add(op.Where(second, before, late), added)
        y = op.Concat(early, joined, axis=-1)
        reach = op.Add(reach, reach)
        more = op.Squeeze(op.Less(reach, total))
    return y


def _along(function: Any, x: Any, rank: int, dim: int) -> Any:
    if not rank:
        return op.Identity(x)
    order = list(range(rank))
    order[dim], order[-1] = order[-1], order[dim]
    turned = op.Transpose(x, perm=order)
    total = op.Gather(op.Shape(turned), whole(rank - 1), axis=0)
    return op.Transpose(function(turned, total, whole(rank - 1), whole(0), whole(1)), perm=order)


def logcumsumexp(x: Any, dim: int) -> Any:
    """aten.logcumsumexp."""
    return _along(_log_sums, x, rank_of(x), dim)


TRANSLATIONS: Table = {aten.logcumsumexp.default: logcumsumexp}
