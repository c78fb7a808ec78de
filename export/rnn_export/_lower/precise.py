"""Operators in float64 that PyTorch's own translations to ONNX compute in float32 in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.core import aten_layer_norm, aten_scalar_tensor

op: Any = opset18  # its stubs know no plain lists


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enable: bool = True
) -> Any:
    """aten.layer_norm: ONNX's operator, whose statistics are float32, or in float64 what it stands for."""
    if x.dtype != ir.DataType.DOUBLE:
        return aten_layer_norm(x, normalized_shape, weight, bias, eps, cudnn_enable)
    axes = list(range(-len(normalized_shape), 0))
    centred = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    y = op.Div(centred, op.Sqrt(op.Add(variance, op.Constant(value=ir.tensor(np.float64(eps))))))
    y = y if weight is None else op.Mul(y, weight)
    return y if bias is None else op.Add(y, bias)


def scalar_tensor(s: Any, dtype: int = -1, **others: Any) -> Any:
    """aten.scalar_tensor: a plain number, which is otherwise made in float32 and then widened."""
    if isinstance(s, float) and dtype == ir.DataType.DOUBLE:
        return op.Constant(value=ir.tensor(np.float64(s)))
    return aten_scalar_tensor(s, dtype, **others)
