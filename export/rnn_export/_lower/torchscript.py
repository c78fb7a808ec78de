"""The model as TorchScript, the signature in its extra files. A legacy format: PyTorch has deprecated it.

A model is traced, unless it holds a loop: the captured program is then written as code, in which loops stay loops.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from rnn_runtime._signature import METADATA_KEY

from .._capture import Captured
from .._errors import ExportError
from .._quiet import quiet
from .pt2 import put_back
from .script import script


def write(captured: Captured, path: Path) -> None:
    """Trace or script the model and save it to `path`.

    Raises:
        ExportError: the tracer cannot follow the model, or TorchScript has no form for it.
    """
    try:
        with quiet(), torch.no_grad():
            if captured.has_loops:
                program = copy.deepcopy(captured.program)
                put_back(program)
                module = script(program)
            else:
                # Trace checking replays the traced shape only; the comparison that follows does far more.
                module = torch.jit.trace(captured.flat, tuple(captured.traced), check_trace=False)
            torch.jit.save(module, str(path), _extra_files={METADATA_KEY: captured.signature.to_json()})
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the model cannot be traced to TorchScript: {type(error).__name__}: {error}. Leave that format out"
        ) from error
