"""When a result is that of eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

TOLERANCE = 1e-5
FACTOR = 8
"""How far a result may be off: so much of the largest value above 1, or so many times eager float32's own error."""

Arrays = list[NDArray[Any]]


def flat(value: Any) -> list[torch.Tensor]:
    """All tensors in a result, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in flat(item)]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in flat(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for name in value.__dataclass_fields__ for tensor in flat(getattr(value, name))]
    raise TypeError(f"a model returned {type(value).__name__}, which is neither a tensor nor holds any")


def difference(got: Arrays, eager: Arrays, exact: Arrays, moved: Callable[[], Arrays]) -> str:
    """How results differ from eager PyTorch's, "" where they do not.

    Args:
        got: of a backend, of which the first are the model's results.
        eager: in float32.
        exact: in float64.
        moved: gives the results in float64 for inputs that are off by float32's rounding, where it is needed.
    """
    if len(got) < len(eager):
        return f"{len(got)} results instead of {len(eager)}"
    for i, (g, e, x) in enumerate(zip(got, eager, exact, strict=False)):
        if g.shape != e.shape:
            return f"result {i} has shape {g.shape} instead of {e.shape}"
        if g.dtype != e.dtype:
            return f"result {i} is {g.dtype} instead of {e.dtype}"
        if said := _apart(g, e, x):
            error, text = said
            if error is not None and error <= FACTOR * _largest(moved()[i], x):
                continue  # the model itself turns a rounding of its input into as much
            return f"result {i} {text}"
    return ""


def _apart(got: NDArray[Any], eager: NDArray[Any], exact: NDArray[Any]) -> tuple[float | None, str] | None:
    """The largest error where it is too large, and how to say so; no error where places of NaN or integers differ."""
    if got.dtype.kind != "f":
        wrong = got != eager
        return (None, f"differs in {int(wrong.sum())} of {wrong.size} places") if wrong.any() else None
    got, eager, exact = (array.astype(np.float64) for array in (got, eager, exact))
    if not _same_places(got, exact):
        return None if _same_places(got, eager) else (None, "has NaN or infinities in other places")
    error, own = _largest(got, exact), _largest(eager, exact)
    finite = exact[np.isfinite(exact)]
    scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
    if error <= TOLERANCE * scale or error <= FACTOR * own:
        return None
    return error, f"is off by {error:.2g} at values up to {scale:.2g}, eager float32 by {own:.1g}"


def _same_places(one: NDArray[Any], other: NDArray[Any]) -> bool:
    odd = ~np.isfinite(other)
    return bool((np.isfinite(one) == ~odd).all()) and np.array_equal(one[odd], other[odd], equal_nan=True)


def _largest(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference between values that are finite in both."""
    if one.shape != other.shape:
        return 0.0
    one, other = one.astype(np.float64), other.astype(np.float64)
    both = np.isfinite(one) & np.isfinite(other)
    return float(np.abs(one[both] - other[both]).max()) if both.any() else 0.0
