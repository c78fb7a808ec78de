"""What translations are written with: ONNX's operators, and constants of a value's own dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18

op: Any = opset18  # its stubs know no plain lists
aten: Any = torch.ops.aten

Table = dict[Callable[..., Any], Callable[..., Any]]
"""An operator of PyTorch, and the function that writes it in ONNX."""

INT64 = ir.DataType.INT64
BOOL = ir.DataType.BOOL
FLOAT = ir.DataType.FLOAT
DOUBLE = ir.DataType.DOUBLE
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def is_value(x: Any) -> bool:
    """Whether an argument is a value of the graph, and no plain number."""
    return isinstance(x, ir.Value)


def dtype_of(*values: Any) -> ir.DataType:
    """The dtype of the first value of the graph among the arguments."""
    found: ir.DataType | None = next(x.dtype for x in values if is_value(x))
    assert found is not None
    return found


def constant(value: Any, dtype: ir.DataType) -> Any:
    """A number, or an array of numbers, of this dtype."""
    return op.Constant(value=ir.tensor(np.asarray(value).astype(dtype.numpy())))


def given(x: Any, dtype: ir.DataType) -> Any:
    """An argument, plain number or value, as a value of this dtype."""
    if not is_value(x):
        return constant(x, dtype)
    return x if x.dtype == dtype else op.Cast(x, to=dtype)


def floating(x: Any, like: ir.DataType | None = None) -> tuple[Any, ir.DataType]:
    """`x` as floats, and their dtype: whole numbers become float32, as in PyTorch."""
    dtype = dtype_of(x) if like is None else like
    if dtype in FLOATS:
        return given(x, dtype), dtype
    return op.Cast(x, to=FLOAT), FLOAT


def rank_of(x: Any) -> int:
    """How many dimensions a value has."""
    return len(x.shape)


def whole(*numbers: int) -> Any:
    """A row of whole numbers, as axes and ends are given."""
    return op.Constant(value=ir.tensor(np.array(numbers, np.int64)))


def size(x: Any, axis: int) -> Any:
    """The size of an axis, as a row of one number."""
    return op.Gather(op.Shape(x), whole(axis % rank_of(x)), axis=0)
