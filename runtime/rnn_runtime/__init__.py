"""Run exported recurrent models with NumPy and ONNX Runtime alone.

import rnn_runtime

model = rnn_runtime.load("build/hello")  # a bundle folder, or a bare .onnx file
result = model.run(x)  # result["output"], result.state
result = model.run(y, state=result.state)  # goes on where x ended
stream = model.stream(batch=1)
y = stream.push(chunk)  # chunk after chunk, the state carried
model.check()  # replays the recorded inputs and outputs
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._errors import (
    BundleError,
    DependencyError,
    DeviceError,
    Error,
    InputError,
    MismatchError,
    PoolFull,
    QueueFull,
    StreamClosed,
    UnknownId,
)
from ._model import Model, load
from ._result import Result
from ._signature import IdsSpec, LengthsSpec, LimitSpec, Signature, StateSpec, TensorSpec
from ._stream import Stream

if TYPE_CHECKING:
    from ._metrics import Percentiles, PoolMetrics
    from ._pool import PoolStream, StreamPool
    from ._report import Check, Divergence, Report, Row, Series
    from ._score import Scored, score
    from ._verify import verify

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "Check",
    "DependencyError",
    "DeviceError",
    "Divergence",
    "Error",
    "IdsSpec",
    "InputError",
    "LengthsSpec",
    "LimitSpec",
    "MismatchError",
    "Model",
    "Percentiles",
    "PoolFull",
    "PoolMetrics",
    "PoolStream",
    "QueueFull",
    "Report",
    "Result",
    "Row",
    "Scored",
    "Series",
    "Signature",
    "StateSpec",
    "Stream",
    "StreamClosed",
    "StreamPool",
    "TensorSpec",
    "UnknownId",
    "load",
    "score",
    "verify",
]


# What an app that loads and streams does not need at its start: a pool alone brings asyncio and concurrent.futures,
# which take longer to import than all the rest.
_LATER = {
    **dict.fromkeys(("PoolStream", "StreamPool"), "_pool"),
    **dict.fromkeys(("Percentiles", "PoolMetrics"), "_metrics"),
    **dict.fromkeys(("Check", "Divergence", "Report", "Row", "Series"), "_report"),
    **dict.fromkeys(("Scored", "score"), "_score"),
    "verify": "_verify",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'rnn_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
