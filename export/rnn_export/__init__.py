"""Take a PyTorch model with recurrent layers, unchanged, to a verified, stateful deployment.

    import rnn_export

    bundle = rnn_export.export(model, example_inputs, "build/model", axes={"x": {0: "batch", 1: "sequence"}})
    report = rnn_export.verify(model, bundle)

Importing this package imports neither PyTorch nor ONNX: they come with the first function that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rnn_runtime import BundleError, DependencyError, DeviceError, Error, InputError, MismatchError, Report, Row
from rnn_runtime import __version__ as __version__

from ._axis import Axis
from ._errors import ExportError

if TYPE_CHECKING:
    from ._export import Bundle, export
    from ._scan import scan
    from ._verify import verify

__all__ = [
    "Axis",
    "Bundle",
    "BundleError",
    "DependencyError",
    "DeviceError",
    "Error",
    "ExportError",
    "InputError",
    "MismatchError",
    "Report",
    "Row",
    "export",
    "scan",
    "verify",
]

_LATER = {"Bundle": "_export", "export": "_export", "scan": "_scan", "verify": "_verify"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._versions import require_installed

    require_installed()
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
