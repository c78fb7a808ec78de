"""How one array differs from another, in more words than its largest error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

QUANTILES = (0.5, 0.9, 0.99, 0.999)
DECADES = tuple(range(-17, 3))
"""Powers of ten between which `Statistics.histogram` counts: below the first, between each two, above the last."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """The differences of one output, taken in float64 over the elements that are finite on both sides.

    Attributes:
        count: how many elements there are.
        over: how many are further off than the bound, or finite on one side alone.
        first: the index of the first of these, None where there is none.
        absolute: the largest absolute error.
        relative: the largest error over the wanted value's size, where that is above the smallest normal number of the
            dtype.
        quantiles: of the absolute error, at 0.5, 0.9, 0.99 and 0.999.
        cosine: of the angle between the two arrays as vectors; nan where one is all zeros.
        snr: the signal-to-noise ratio in decibels; inf where nothing differs.
        ulp: the largest error in units in the last place of the wanted value, in the output's own dtype.
        histogram: how many absolute errors lie in each of the decades of `DECADES`.
        agreement: how often the largest element along the last axis is the same one; nan for fewer than two.
    """

    count: int
    over: int
    first: tuple[int, ...] | None
    absolute: float
    relative: float
    quantiles: tuple[float, ...]
    cosine: float
    snr: float
    ulp: float
    histogram: tuple[int, ...]
    agreement: float


def statistics(got: ArrayLike, want: ArrayLike, bound: float) -> Statistics | None:
    """Compare two float arrays of one shape; None for other dtypes, other shapes and empty arrays.

    Args:
        got: in the output's own dtype, in which units in the last place are counted.
        want: in that dtype or a wider one.
        bound: the largest error that counts as none.
    """
    narrow, wide = np.asarray(got), np.asarray(want)
    if narrow.dtype.kind != "f" or wide.dtype.kind != "f" or narrow.shape != wide.shape or not narrow.size:
        return None
    a, b = narrow.astype(np.float64), wide.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same | ~finite, 0.0, np.abs(a - b))
    bad = (error > bound) | ~(same | finite)
    info = np.finfo(narrow.dtype)
    size = np.abs(np.where(finite, b, 0.0))
    with np.errstate(over="ignore"):
        spacing = np.spacing(np.clip(size, float(info.tiny), float(info.max)).astype(narrow.dtype)).astype(np.float64)
    normal = size > float(info.tiny)
    with np.errstate(over="ignore"):
        relative = float((error[normal] / size[normal]).max(initial=0.0))
    return Statistics(
        count=int(a.size),
        over=int(bad.sum()),
        first=tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape)) if bad.any() else None,
        absolute=float(error.max()),
        relative=relative,
        quantiles=tuple(float(q) for q in np.quantile(error, QUANTILES)),
        cosine=_cosine(a[finite], b[finite]),
        snr=_snr(error[finite], b[finite]),
        ulp=float((error / spacing).max()),
        histogram=_histogram(error),
        agreement=_agreement(a, b),
    )


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.clip(a @ b / lengths, -1.0, 1.0)) if 0 < lengths < math.inf else math.nan


def _snr(error: NDArray[Any], b: NDArray[Any]) -> float:
    with np.errstate(over="ignore"):
        noise, signal = float((error**2).sum()), float((b**2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if 0 < signal < math.inf and noise < math.inf else -math.inf


def _histogram(error: NDArray[Any]) -> tuple[int, ...]:
    edges = [-np.inf, *(10.0**k for k in DECADES), np.inf]
    return tuple(int(n) for n in np.histogram(error, edges)[0])


def _agreement(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.ndim == 0 or a.shape[-1] < 2:
        return math.nan
    return float((a.argmax(-1) == b.argmax(-1)).mean())
