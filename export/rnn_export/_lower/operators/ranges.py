"""Evenly spaced numbers: how many there are is computed in float64, and each by itself from the first."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.function_libs.torch_lib.ops.core import aten_arange, aten_arange_start, aten_arange_start_step

from .write import DOUBLE, FLOAT, INT64, Table, aten, constant, is_value, op


def _is_whole(x: Any) -> bool:
    return x.dtype == INT64 if is_value(x) else isinstance(x, int)


def _double(x: Any) -> Any:
    return op.Cast(x, to=DOUBLE) if is_value(x) else constant(x, DOUBLE)


def _spaced(start: Any, end: Any, step: Any, dtype: Any) -> Any:
    first, apart = _double(start), _double(step)
    count = op.Cast(op.Ceil(op.Div(op.Sub(_double(end), first), apart)), to=INT64)
    places = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
    found = op.Add(op.Mul(op.Cast(places, to=DOUBLE), apart), first)
    return op.Cast(found, to=FLOAT if dtype in (-1, None) else dtype)


def _arange(plain: Any) -> Any:
    def write(*bounds: Any, dtype: int = -1, **others: Any) -> Any:
        kind = None if dtype in (-1, None) else ir.DataType(dtype)
        if all(map(_is_whole, bounds)) and (kind is None or not kind.is_floating_point()):
            return plain(*bounds, dtype=dtype)
        start, end, step = {1: (0, *bounds, 1), 2: (*bounds, 1), 3: bounds}[len(bounds)]
        return _spaced(start, end, step, dtype)

    return write


TRANSLATIONS: Table = {
    aten.arange.default: _arange(aten_arange),
    aten.arange.start: _arange(aten_arange_start),
    aten.arange.start_step: _arange(aten_arange_start_step),
}
