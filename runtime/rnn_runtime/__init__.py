"""Run exported recurrent models with NumPy and ONNX Runtime alone.

import rnn_runtime

model = rnn_runtime.load("build/hello")  # a bundle folder, or a bare .onnx file
result = model.run(x)  # result["output"], result.state
result = model.run(y, state=result.state)  # goes on where x ended
stream = model.stream(batch=1)
y = stream.push(chunk)  # chunk after chunk, the state carried
model.check()  # replays the recorded inputs and outputs
"""

from ._errors import BundleError, DependencyError, DeviceError, Error, InputError, MismatchError
from ._model import Model, load
from ._report import Check, Divergence, Report, Row, Series
from ._result import Result
from ._signature import LengthsSpec, Signature, StateSpec, TensorSpec
from ._stream import Stream
from ._verify import verify

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "Check",
    "DependencyError",
    "DeviceError",
    "Divergence",
    "Error",
    "InputError",
    "LengthsSpec",
    "MismatchError",
    "Model",
    "Report",
    "Result",
    "Row",
    "Series",
    "Signature",
    "StateSpec",
    "Stream",
    "TensorSpec",
    "load",
    "verify",
]
