"""The tolerances, in one table, with the reason for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ._statistics import Statistics


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far off an output may be.

    Attributes:
        dtype: of the output; "" stands for any.
        backend: what a backend's name begins with; "" for any.
        precision: of the weights and products, as the graph has it: "float32", "float16", "int8" ...; "" for any.
        error: the largest absolute error, times the largest value where that is above 1; None where the error says
            nothing, so that `snr` and `agreement` count alone.
        snr: the smallest signal-to-noise ratio in decibels, None where it does not count.
        agreement: how often the largest element along the last axis must be the same one, where there are `DECISIONS`
            of them or more; None where it does not count.
        reason: why.
    """

    dtype: str
    backend: str
    precision: str
    error: float | None
    snr: float | None
    agreement: float | None
    reason: str


TABLE = (
    Tolerance(
        "",
        "",
        "int8",
        None,
        30.0,
        0.9,
        "8 bits keep 37 to 41 dB of an LSTM, and saturated ones 16; what counts is the decision, not a single element",
    ),
    Tolerance(
        "",
        "",
        "float16",
        None,
        50.0,
        0.98,
        "11 bits of mantissa are 66 dB, less what a few hundred steps add up",
    ),
    Tolerance(
        "float32",
        "onnxruntime-cuda",
        "",
        1e-5,
        None,
        None,
        "TF32, whose products are a thousand times coarser, is switched off, so that a GPU is held to what everyone is",
    ),
    Tolerance(
        "float16", "", "", 2e-3, None, None, "one rounding is 5e-4; outputs and states are each rounded once or twice"
    ),
    Tolerance(
        "float32",
        "",
        "",
        1e-5,
        None,
        None,
        "one rounding is 6e-8; summed over a layer's width and a few hundred steps it stays a hundred times below, and "
        "a wrong gate, axis or weight is far above",
    ),
    Tolerance(
        "float64",
        "",
        "",
        1e-12,
        None,
        None,
        "one rounding is 1.1e-16; the yardstick is float64 too, so only the order of sums differs",
    ),
    Tolerance("", "", "", 0.0, None, None, "whole numbers and booleans are equal or they are not"),
)
"""The first that fits counts: more special ones come first."""


SLACK = 3.0
"""Decibels, twice the noise's power: by so much what an export of low precision kept may be less at other sizes."""


DECISIONS = 50
"""Of fewer, one near tie that noise decides would be too large a share."""


def tolerance(dtype: str, backend: str = "", precision: str = "") -> Tolerance:
    """The line of the table for an output of this dtype, on this backend, of a graph of this precision."""
    return next(
        line
        for line in TABLE
        if line.dtype in ("", dtype) and backend.startswith(line.backend) and line.precision in ("", precision)
    )


def decides(found: Statistics, line: Tolerance, slack: float = 0.0) -> bool:
    """Whether an output of low precision is as good as it can be, by its noise and by what is decided with it.

    Args:
        found: how it differs.
        line: what is asked of it.
        slack: decibels less than that which will do; of the decisions as many more may differ as the noise is larger.
    """
    if line.snr is not None and not found.snr >= line.snr - slack:
        return False
    if line.agreement is None or found.decisions < DECISIONS:
        return True
    return 1 - found.agreement <= (1 - line.agreement) * 10 ** (slack / 20) + 1e-12


def precision(operators: Mapping[str, int]) -> str:
    """The precision that the operators of a graph tell of: "int8" where one works on 8 bits, else ""."""
    return "int8" if operators.keys() & _EIGHT_BITS else ""


_EIGHT_BITS = {
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
