"""Layer normalisation in float64: ONNX's operator computes its statistics in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.core import aten_layer_norm

op: Any = opset18  # its stubs know no plain lists


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enable: bool = True
) -> Any:
    """aten.layer_norm: the operator, or in float64 what it stands for."""
    if x.dtype != ir.DataType.DOUBLE:
        return aten_layer_norm(x, normalized_shape, weight, bias, eps, cudnn_enable)
    axes = list(range(-len(normalized_shape), 0))
    centred = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    y = op.Div(centred, op.Sqrt(op.Add(variance, op.Constant(value=ir.tensor(np.float64(eps))))))
    y = y if weight is None else op.Mul(y, weight)
    return y if bias is None else op.Add(y, bias)
