"""Python's own functions of sizes, such as `round(x.shape[1] / 2)`, as plain ONNX operators."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18

op: Any = opset18  # its stubs know no plain lists

_INT64 = 7


def _whole(operator: str) -> Callable[[Any], Any]:
    """A rounding, of a number that may be whole already, which ONNX's operators do not take."""

    def write(x: Any) -> Any:
        return op.Identity(x) if x.dtype == ir.DataType.INT64 else op.Cast(getattr(op, operator)(x), to=_INT64)

    return write


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    builtins.round: lambda x, digits=None: _whole("Round")(x),  # of two as near both take the even one
    math.ceil: _whole("Ceil"),
    math.floor: _whole("Floor"),
    math.trunc: lambda x: op.Cast(x, to=_INT64),
    torch.sym_int: lambda x: op.Cast(x, to=_INT64),
    torch._sym_sqrt: op.Sqrt,  # type: ignore[attr-defined]
}
"""What stands for a function in torch.onnx's table, which has none of these."""
