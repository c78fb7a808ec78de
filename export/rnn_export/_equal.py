"""The one equality of tensors: what the capture, the roll and the proof of a stream mean by "the same"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rnn_runtime._report import compare

EXACT = 0.0
FLOAT64 = 1e-9
"""What two ways to compute a thing in float64 may differ by, times the largest finite value where that is above 1."""


def equal(got: Tensor, want: Tensor, tolerance: float = EXACT) -> bool:
    """Whether `got` is `want`: shape, dtype, the places of NaN and of either infinity, and every number.

    Args:
        got: what was computed.
        want: what it is held against.
        tolerance: the largest difference of a float, times |want| where that is above 1. Each number is held by itself:
            one large value, as the -1e9 of a mask, hides nothing.
    """
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    # Identical numbers, none of them NaN: most comparisons end here, and large weights are not made into float64.
    return torch.equal(got, want) or _equal(_plain(got), _plain(want), tolerance)


def _equal(got: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    if not compare(got, want, tolerance).passed:
        return False
    if want.dtype.kind != "f":
        return True
    finite = np.isfinite(want)
    allowed = tolerance * np.maximum(1.0, np.abs(want[finite].astype(np.float64)))
    return bool((np.abs(got[finite].astype(np.float64) - want[finite]) <= allowed).all())


def all_equal(got: Sequence[Tensor], want: Sequence[Tensor], tolerance: float = EXACT) -> bool:
    """Whether two rows of tensors are as long and equal, each to each."""
    return len(got) == len(want) and all(equal(a, b, tolerance) for a, b in zip(got, want, strict=True))


def _plain(tensor: Tensor) -> np.ndarray:
    """The values as an array of a dtype that NumPy has."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray = tensor.numpy()
    return array
