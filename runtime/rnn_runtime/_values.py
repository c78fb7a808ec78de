"""OrtValues in and out, so that arrays on a GPU never pass through the host."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from . import _session
from ._device import CUDA_MEMORY, onnxruntime
from ._errors import InputError


def among(inputs: object) -> bool:
    """Whether a caller gives an onnxruntime.OrtValue, or an array on a GPU that speaks DLPack."""
    if isinstance(inputs, np.ndarray):
        return False
    items = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else [inputs]
    return any(_is_value(item) for item in items)


def split(given: Mapping[str, Any], lengths: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The OrtValues among inputs; and the inputs with empty arrays of their shapes and dtypes instead, to check.

    Args:
        given: inputs by name.
        lengths: those whose values are checked too, so that they come to the host.

    Raises:
        InputError: an array cannot be taken as it is.
    """
    values = {name: as_value(name, item) for name, item in given.items() if _is_value(item)}
    stand_ins: dict[str, Any] = {}
    for name in list(values):
        if name in lengths:
            stand_ins[name] = values.pop(name).numpy()
        else:
            dtype = _session.dtype(name, values[name].data_type())
            stand_ins[name] = np.empty(values[name].shape(), dtype)
    return {**given, **stand_ins}, values


def _is_value(item: object) -> bool:
    if isinstance(item, np.ndarray):
        return False
    if isinstance(item, onnxruntime().OrtValue):
        return True
    where = getattr(item, "__dlpack_device__", None)
    return where is not None and where()[0] in CUDA_MEMORY


def as_value(name: str, item: Any) -> Any:
    """An OrtValue over the memory of an array that speaks DLPack; an OrtValue is given back.

    Raises:
        InputError: ONNX Runtime cannot take it, for its layout or dtype.
    """
    ort = onnxruntime()
    if isinstance(item, ort.OrtValue):
        return item
    plain = ort.capi._pybind_state.OrtValue
    try:
        try:
            return ort.OrtValue(plain.from_dlpack(item.__dlpack__()))
        except TypeError:  # before 1.32 it has to be told of booleans, which DLPack did not know for long
            return ort.OrtValue(plain.from_dlpack(item.__dlpack__(), False))
    except Exception as error:  # what ONNX Runtime or the array's own library raises
        raise InputError(
            f"{name!r} cannot be taken by DLPack ({str(error).splitlines()[0] if str(error) else error!r}): give it "
            "contiguous, in the dtype that the model takes, or as a NumPy array"
        ) from None
