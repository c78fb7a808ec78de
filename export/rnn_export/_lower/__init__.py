"""Lower: a captured program as the files of a bundle, one module for each format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rnn_runtime import InputError
from rnn_runtime._bundle import ONNX, PT2, STEP, TORCHSCRIPT

from .._capture import Captured
from . import onnx, pt2, single, torchscript

FORMATS = ("onnx", "torchscript", "pt2")


def check(formats: Sequence[str], lowering: str) -> None:
    """Raises InputError where `formats` is empty or names an unknown one, or `lowering` is unknown."""
    if lowering not in onnx.LOWERINGS:
        raise InputError(f"lowering is {lowering!r}; give one of {list(onnx.LOWERINGS)}")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats or isinstance(formats, str):
        raise InputError(f"formats is {formats!r}; give one or more of {list(FORMATS)} in a list")


def lower(
    captured: Captured,
    folder: Path,
    formats: Sequence[str],
    lowering: str = "auto",
    opset: int | None = None,
    *,
    split_directions: bool = False,
    single_steps: bool = True,
    ir_version: int | None = None,
) -> str | None:
    """Write the model in each format into `folder`.

    Returns:
        The axis that has size 1 in the graph for single steps; None where there is no such graph.

    Raises:
        ExportError: a format cannot hold the model.
    """
    step = None
    if "onnx" in formats:
        onnx.write(captured, folder / ONNX, lowering, opset, split_directions=split_directions, ir_version=ir_version)
        scans = onnx.scans(captured, lowering, split_directions=split_directions)
        step = single.axis(captured, scans, folder / ONNX) if single_steps else None
        if step is not None:
            single.write(captured, scans, step, folder / ONNX, folder / STEP)
    if "torchscript" in formats:
        torchscript.write(captured, folder / TORCHSCRIPT)
    if "pt2" in formats:
        pt2.write(captured, folder / PT2)
    return step
