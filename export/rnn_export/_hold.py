"""Artifacts held against the model at the sizes that the capture tried: what a tool underneath lost becomes a limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rnn_runtime import Report, Signature
from rnn_runtime._bundle import ONNX

from ._backends import Backend, found
from ._capture import Captured
from ._compare import EAGER_FACTOR, compare
from ._errors import ExportError
from ._first import FirstRun
from ._reference import Reference, runs

TOLERANCE = 1e-3
"""Times the largest value where that is above 1: float32 stays below, far from the traced sizes too, and another
way through the model is above."""


def hold(captured: Captured, reference: Reference, folder: Path, first: FirstRun) -> Captured:
    """`captured`, with limits that leave out the sizes at which a file in `folder` goes another way than the model.

    A tool underneath may drop what does nothing at the traced sizes, as a slice that ends beyond them.

    Raises:
        ExportError: no limit leaves them out.
    """
    tried = [sizes for sizes in captured.with_tried([captured.sizes])[:-1] if sizes != captured.sizes]
    cases = [case for seed, sizes in enumerate(tried) if (case := reference.case(sizes, seed)) is not None]
    if (folder / ONNX).exists():
        first.require(folder / ONNX, runs(cases))
    traced = reference.case(captured.sizes, seed=0)
    for backend in found(folder) if cases and traced is not None else ():
        assert traced is not None
        if not compare([traced], [backend], TOLERANCE).passed:
            continue  # it is wrong at any size, which the comparison to come says
        if _strays(compare(cases, [backend], TOLERANCE)):
            try:
                captured = captured.limited(_in_float64(backend, captured.signature), TOLERANCE)
            except ExportError as error:
                raise ExportError(f"{backend.name} diverges from eager PyTorch: {error}") from error
    return captured


def _strays(report: Report) -> bool:
    """Whether a backend goes another way: it is off by more than the tolerance, and eager PyTorch itself is not."""
    return any(row.error > EAGER_FACTOR * (row.eager_error or 0.0) for row in report.failures)


def _in_float64(backend: Backend, signature: Signature) -> Callable[..., list[Tensor]]:
    """A backend as something that takes and gives tensors in float64."""

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {
            spec.name: tensor.numpy().astype(spec.dtype) for spec, tensor in zip(signature.inputs, inputs, strict=True)
        }
        results = backend.run(given)
        tensors = [
            torch.from_numpy(np.array(results[spec.name])) for spec in signature.outputs
        ]  # 0-d is no array there
        return [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]

    return run
