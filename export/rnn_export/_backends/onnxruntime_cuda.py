"""The ONNX graph on a GPU, where there is one, beside the CPU."""

from __future__ import annotations

from rnn_runtime import DeviceError
from rnn_runtime._bundle import Bundle
from rnn_runtime._device import cuda_problem

from . import Backend, LeftOut
from .onnxruntime import OnnxRuntime

NAME = "onnxruntime-cuda"


def backends(bundle: Bundle) -> list[Backend]:
    """One on the first GPU. Raises LeftOut where there is none that ONNX Runtime can use."""
    problem = cuda_problem()
    if problem is not None:
        raise LeftOut(problem)
    try:
        return [OnnxRuntime(bundle.path, "cuda")]
    except DeviceError as error:
        raise LeftOut(str(error)) from None
