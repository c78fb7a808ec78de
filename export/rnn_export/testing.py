"""Parity tests for other people's test suites: one function, and the fixture `parity` of the pytest plugin."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn_runtime import MismatchError, Report

if TYPE_CHECKING:
    from torch import nn

__all__ = ["assert_parity"]


def assert_parity(
    model: nn.Module,
    example_inputs: Any,
    *,
    device: str = "cpu",
    level: str = "quick",
    seed: int = 0,
    tolerance: float | None = None,
    path: str | Path | None = None,
    **options: Any,
) -> Report:
    """Export a model, verify it on every backend at hand, and fail where one leaves eager PyTorch.

    Args:
        model: stays as it is.
        example_inputs: as for `rnn_export.export`.
        device: where the artifacts run: "cpu", "cuda", "cuda:1".
        level: "quick", "default" or "full", as for `rnn_export.verify`.
        seed: of the inputs that are tried.
        tolerance: the largest absolute error, times the largest value where that is above 1; by dtype if None.
        path: where to write the bundle, and to replace one that is there; a temporary folder if None.
        options: the other arguments of `rnn_export.export`, such as axes, lengths, state and formats.

    Returns:
        The report.

    Raises:
        AssertionError: something leaves eager PyTorch, or a property fails; the text is the report.
        DeviceError: the device cannot be had; it is never replaced by another.
        ExportError, InputError: as `rnn_export.export`.
    """
    from . import export, verify

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bundle" if path is None else Path(path)
        try:
            bundle = export(model, example_inputs, target, tolerance=tolerance, overwrite=path is not None, **options)
        except MismatchError as error:
            raise AssertionError(str(error)) from None
        report = verify(
            model,
            bundle,
            example_inputs=example_inputs,
            device=device,
            level=level,
            seed=seed,
            tolerance=tolerance,
        )
    if not report.passed:
        raise AssertionError(f"{type(model).__name__} does not keep its parity on {device}:\n{report}")
    return report
