"""Arithmetic of sizes and Python's own functions of them, such as `round(x.shape[1] / 2)`, as plain ONNX operators.

Numbers with a point are float64, as Python's are: `int(90 * 0.7)` is 62, and 63 in float32.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.function_libs.torch_lib.ops import core

from .operators.division import floor_divide, remainder
from .operators.write import DOUBLE, INT64, constant, is_value, op

_SIZED = "rnn_export.size"
"""Marks the values that are numbers with a point: the exporter notes them as float32."""


def _is_whole(x: Any) -> bool:
    return x.dtype == INT64 if is_value(x) else isinstance(x, int)


def _marked(x: Any) -> Any:
    x.meta[_SIZED] = True
    return x


def _double(x: Any) -> Any:
    """A number as a value of float64."""
    if not is_value(x):
        return constant(x, DOUBLE)
    return x if x.meta.get(_SIZED) else op.Cast(x, to=DOUBLE)


def _arithmetic(whole: Callable[..., Any], pointed: Callable[..., Any]) -> Callable[..., Any]:
    """An operator of two numbers, as it is of whole ones and of others."""

    def write(x: Any, y: Any) -> Any:
        if _is_whole(x) and _is_whole(y):
            return whole(x, y)
        return _marked(pointed(_double(x), _double(y)))

    return write


def _comparison(name: str) -> Callable[..., Any]:
    def write(x: Any, y: Any) -> Any:
        if _is_whole(x) and _is_whole(y):
            return getattr(op, name)(x, y)
        return getattr(op, name)(_double(x), _double(y))

    return write


def _function(operator_: str) -> Callable[[Any], Any]:
    return lambda x: _marked(getattr(op, operator_)(_double(x)))


def _whole(operator_: str) -> Callable[[Any], Any]:
    """A rounding, of a number that may be whole already, which ONNX's operators do not take."""

    def write(x: Any) -> Any:
        return op.Identity(x) if _is_whole(x) else op.Cast(getattr(op, operator_)(_double(x)), to=INT64)

    return write


def _truncated(x: Any) -> Any:
    return op.Identity(x) if _is_whole(x) else op.Cast(_double(x), to=INT64)


def _rounded(x: Any, digits: Any = None) -> Any:
    if digits is None:
        return _whole("Round")(x)  # of two as near both take the even one
    scale = constant(10.0**digits, DOUBLE)
    return _marked(op.Div(op.Round(op.Mul(_double(x), scale)), scale))


def _logarithm(base: float) -> Callable[[Any], Any]:
    return lambda x: _marked(op.Div(op.Log(_double(x)), constant(math.log(base), DOUBLE)))


def _whole_value(x: Any) -> Any:
    return x if is_value(x) else constant(x, INT64)


def _floor_of_whole(x: Any, y: Any) -> Any:
    x, y = _whole_value(x), _whole_value(y)
    return op.Div(op.Sub(x, op.Mod(x, y)), y)  # what is left over has the divisor's sign


def _divided(x: Any, y: Any) -> Any:
    return _marked(op.Div(_double(x), _double(y)))


def _of_double(function: Callable[..., Any]) -> Callable[..., Any]:
    """A translation of tensors, for numbers: those with a point are float64 there."""

    def write(x: Any, y: Any) -> Any:
        for value in (x, y):
            value.dtype = DOUBLE
        return function(x, y)

    return write


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.add: _arithmetic(op.Add, op.Add),
    operator.sub: _arithmetic(op.Sub, op.Sub),
    operator.mul: _arithmetic(op.Mul, op.Mul),
    operator.truediv: _divided,
    operator.floordiv: _arithmetic(_floor_of_whole, _of_double(floor_divide)),
    operator.mod: _arithmetic(op.Mod, _of_double(remainder)),
    operator.pow: _arithmetic(core.aten_pow, op.Pow),
    operator.neg: lambda x: op.Neg(x) if _is_whole(x) else _marked(op.Neg(_double(x))),
    **{
        getattr(operator, name): _comparison(written)
        for name, written in (("lt", "Less"), ("le", "LessOrEqual"), ("gt", "Greater"), ("ge", "GreaterOrEqual"))
    },
    operator.eq: _comparison("Equal"),
    operator.ne: lambda x, y: op.Not(_comparison("Equal")(x, y)),
    builtins.round: _rounded,
    math.ceil: _whole("Ceil"),
    math.floor: _whole("Floor"),
    math.trunc: _truncated,
    torch.sym_int: _truncated,
    torch.sym_float: lambda x: _marked(op.Identity(x)) if _pointed(x) else _marked(op.Cast(x, to=DOUBLE)),
    torch.sym_max: _arithmetic(op.Max, op.Max),
    torch.sym_min: _arithmetic(op.Min, op.Min),
    torch._sym_sqrt: _function("Sqrt"),  # type: ignore[attr-defined]
    torch._sym_log2: _logarithm(2),  # type: ignore[attr-defined]
}
"""What stands for a function in torch.onnx's table, which has none of these or takes float32."""


def _pointed(x: Any) -> bool:
    return bool(is_value(x) and x.meta.get(_SIZED))


def widen(graph: ir.Graph) -> None:
    """Note numbers made of sizes as what they are: float64."""
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.meta.get(_SIZED):
                value.dtype = DOUBLE
