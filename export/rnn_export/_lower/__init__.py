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
    ir_version: int | None = None,
) -> None:
    """Write the model in each format into `folder`.

    Raises:
        ExportError: a format cannot hold the model.
    """
    if "onnx" in formats:
        onnx.write(captured, folder / ONNX, lowering, opset, split_directions=split_directions, ir_version=ir_version)
    if "torchscript" in formats:
        torchscript.write(captured, folder / TORCHSCRIPT)
    if "pt2" in formats:
        pt2.write(captured, folder / PT2)


def lower_step(captured: Captured, folder: Path, lowering: str, *, split_directions: bool = False) -> str | None:
    """Write the graph for single steps beside the finished graph in `folder`.

    Returns:
        The axis that has size 1 in it; None where there is no such graph.
    """
    scans = onnx.scans(captured, lowering, split_directions=split_directions)
    axis = single.axis(captured, scans, folder / ONNX)
    if axis is not None:
        single.write(captured, scans, axis, folder / ONNX, folder / STEP)
    return axis
