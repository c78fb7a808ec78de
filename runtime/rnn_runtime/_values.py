"""OrtValues in and out, so that arrays on a GPU never pass through the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import _session
from ._device import CUDA_MEMORY, onnxruntime
from ._signature import TensorSpec


def among(inputs: object) -> bool:
    """Whether a caller gives an onnxruntime.OrtValue, or an array on a GPU that speaks DLPack."""
    items = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else [inputs]
    return any(_is_value(item) for item in items)


def by_name(specs: Sequence[TensorSpec], inputs: Any) -> dict[str, Any]:
    """What a caller gives by input name, as far as it can be told; what cannot is left to the checks."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    values = inputs if isinstance(inputs, tuple | list) else (inputs,)
    return {spec.name: value for spec, value in zip(specs, values, strict=False)}


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The OrtValues among the inputs; and the inputs with empty arrays of their shapes and dtypes instead, to check."""
    values = {name: _value(item) for name, item in given.items() if _is_value(item)}
    stand_ins = {name: np.empty(v.shape(), _session.dtype(name, v.data_type())) for name, v in values.items()}
    return {**given, **stand_ins}, values


def _is_value(item: object) -> bool:
    if isinstance(item, np.ndarray):
        return False
    if isinstance(item, onnxruntime().OrtValue):
        return True
    where = getattr(item, "__dlpack_device__", None)
    return where is not None and where()[0] in CUDA_MEMORY


def _value(item: Any) -> Any:
    ort = onnxruntime()
    if isinstance(item, ort.OrtValue):
        return item
    # DLPack knew no booleans for long, so ONNX Runtime wants to be told.
    inner = ort.capi._pybind_state.OrtValue.from_dlpack(item.__dlpack__(), "bool" in str(item.dtype))
    return ort.OrtValue(inner)
