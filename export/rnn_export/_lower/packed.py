"""Packing and padding as plain ONNX operators."""

from __future__ import annotations

from typing import Any

from onnxscript import opset18

op: Any = opset18  # its stubs know no plain lists


def pack(x: Any, lengths: Any) -> Any:
    return op.Slice(x, [0], op.Unsqueeze(op.ReduceMax(lengths, keepdims=0), [0]), [0])


def pad(y: Any, lengths: Any, value: float, total: Any) -> Any:
    total = op.Reshape(op.Cast(total, to=7), [1]) if not isinstance(total, int) else op.Constant(value_ints=[total])
    steps = op.Shape(y, start=0, end=1)
    rank = len(y.shape)
    # Steps that were cut off come back first, then every step past its row's end gets the value.
    fill = op.CastLike(op.Constant(value_float=float(value)), y)
    pads = op.Concat(
        op.Constant(value_ints=[0] * rank), op.Sub(total, steps), op.Constant(value_ints=[0] * (rank - 1)), axis=0
    )
    padded = op.Pad(y, pads, fill)
    step = op.Range(0, op.Squeeze(total, [0]), 1)
    inside = op.Less(op.Unsqueeze(step, [1]), op.Unsqueeze(lengths, [0]))
    return op.Where(op.Unsqueeze(inside, list(range(2, rank))) if rank > 2 else inside, padded, fill)
