"""Arithmetic of sizes while TorchScript is traced: in float64, as Python's is.

A traced size is a tensor without dimensions, and `size * 0.7` one of float32: 63 of 90 steps, where Python has 62.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_POINTED = {"mul", "__mul__", "__rmul__", "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "rsub"}
_POINTED |= {"pow", "__pow__", "__rpow__", "remainder", "__mod__", "__rmod__", "__floordiv__", "__rfloordiv__"}
_POINTED |= {"floor_divide"}
"""Arithmetic that has a point where one of the numbers has."""

_DIVISIONS = {"div", "__truediv__", "__rtruediv__", "__div__", "__rdiv__", "true_divide"}

_OF_SIZES = {"prim::NumToTensor", "prim::Constant", "aten::size", "aten::to", "aten::mul", "aten::add", "aten::sub"}
_OF_SIZES |= {"aten::div", "aten::pow", "aten::rsub", "aten::floor_divide", "aten::remainder", "aten::reciprocal"}
_OF_SIZES |= {"aten::floor", "aten::ceil", "aten::round", "aten::trunc", "aten::sqrt", "prim::ListConstruct"}
_OF_SIZES |= {"aten::maximum", "aten::minimum", "aten::Int", "prim::Int", "aten::neg", "aten::__floordiv__"}


class WideSizes(TorchFunctionMode):
    """While this lasts, numbers that are traced from sizes are computed in float64."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if (name in _POINTED or name in _DIVISIONS) and _has_size(args):
            pointed = name in _DIVISIONS or any(isinstance(a, float) for a in args)
            if pointed and not (kwargs or {}).get("rounding_mode"):
                args = tuple(_wide(arg) for arg in args)
        return func(*args, **(kwargs or {}))


def _has_size(args: tuple[Any, ...]) -> bool:
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return bool(tensors) and all(arg.dim() == 0 and _is_size(arg) for arg in tensors)


def _wide(number: Any) -> Any:
    return number.to(torch.float64) if isinstance(number, Tensor) else number


def _is_size(number: Tensor) -> bool:
    """Whether a traced number is made of sizes and plain numbers alone."""
    if torch._C._get_tracing_state() is None:
        return False
    todo: list[Any] = [torch._C._get_value_trace(number)]  # type: ignore[attr-defined]
    found = False
    while todo:
        node = todo.pop().node()
        if node.kind() not in _OF_SIZES:
            return False
        if node.kind() == "aten::size":
            found = True
        else:
            todo += list(node.inputs())
    return found
