"""What comes of sizes that were not traced: a candidate is run beside the eager model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rnn_runtime._report import compare, scale

from .._equal import all_equal
from .._errors import ExportError
from .._quiet import quiet
from .module import copied, float64, wide_copy
from .prepare import Prepared

TOLERANCE = 1e-6
"""Times the largest value where that is above 1. In float64 rounding stays far below, and a wrong step far above."""
ROUGHEST = 1e-2
"""The widest tolerance, where the model itself rounds to fewer digits."""
LONGEST = 20_000
"""The largest size of an axis that is run."""
LONGEST_LOOP = 5_000
"""The same where the model loops over an axis in Python."""
MOST_NUMBERS = 4_000_000
"""The most numbers in the inputs of one run."""

Sizes = Mapping[str, int]
Outcome = Literal["same", "refused", "different", "too large"]
"""What comes of sizes: the candidate gives what the eager model gives; the eager model itself takes no such input; the
candidate gives something else; or nobody can run them."""

Draw = Callable[[Sizes, int], list[Tensor]]
"""Inputs of given sizes, by a seed."""


def widened(candidate: nn.Module) -> nn.Module:
    """A copy of a module in float64, to be tried."""
    with quiet():  # PyTorch warns of its own ways to copy a program
        return wide_copy(candidate)


class Trials:
    """Runs a candidate beside the eager model in float64, each sizes once.

    Args:
        prepared: the model.
        candidate: what is to stand for it: takes and gives tensors as it does, in float64.
        draws: ways to draw inputs, of which the first that the eager model takes counts.
        loops: whether the model loops over an axis in Python.
        tolerance: the largest error, times the largest value where that is above 1.
    """

    def __init__(
        self,
        prepared: Prepared,
        candidate: Callable[..., Sequence[Tensor]],
        draws: Sequence[Draw],
        *,
        loops: bool,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.loops = loops
        self._prepared = prepared
        self._model = wide_copy(prepared.flat)
        self._candidate = candidate
        self._draws = draws
        self._longest = LONGEST_LOOP if loops else LONGEST
        self._tolerance = tolerance
        self._known: dict[tuple[int, ...], Outcome] = {}
        self._calibrate()

    def _calibrate(self) -> None:
        """See that the candidate is the model at the traced sizes, and take a wider tolerance where the model rounds.

        A model that goes to bfloat16 on its way is as far off itself in float64 as in float32.
        """
        if self.at(self._prepared.sizes) != "different":
            return
        self._tolerance = max(self._tolerance, min(ROUGHEST, 8 * self._own_error()))
        self._known.clear()
        if self.at(self._prepared.sizes) == "different":
            raise ExportError(
                f"what was captured is not the model, already at {listed(self._prepared.sizes)}: it may keep state "
                "between calls in a way that was not found, draw random numbers, or change its own parameters"
            )

    def _own_error(self) -> float:
        """How far eager PyTorch in the model's own precision is off, times the largest value where that is above 1."""
        inputs = self._draws[0](self._prepared.sizes, 0)
        with quiet(), torch.no_grad():
            narrow = copied(self._prepared.flat)(*(x.clone() for x in inputs))
            with float64():
                wide = self._model(*(x.double() if x.is_floating_point() else x.clone() for x in inputs))
        errors = [
            compare(a.to(b.dtype).numpy(), b.numpy(), 0.0).error / scale(b.numpy())
            for a, b in zip(narrow, wide, strict=True)
        ]
        return max((error for error in errors if math.isfinite(error)), default=0.0)

    def at(self, sizes: Sizes) -> Outcome:
        """What comes of these sizes."""
        key = tuple(sizes.values())
        if key not in self._known:
            self._known[key] = self._try(sizes) if self._runs(sizes) else "too large"
        return self._known[key]

    def _runs(self, sizes: Sizes) -> bool:
        numbers = sum(
            _product(sizes[axes[dim]] if dim in axes else size for dim, size in enumerate(tensor.shape))
            for tensor, axes in zip(self._prepared.traced, self._axes(), strict=True)
        )
        return max(sizes.values(), default=1) <= self._longest and numbers <= MOST_NUMBERS

    def _axes(self) -> list[Mapping[int, str]]:
        return [self._prepared.axes[name] for name in self._prepared.names]

    def _try(self, sizes: Sizes) -> Outcome:
        with quiet(), torch.no_grad(), float64():
            for seed in range(4):
                for draw in self._draws:
                    inputs = [x.double() if x.is_floating_point() else x for x in draw(sizes, seed)]
                    try:
                        want = self._model(*(x.clone() for x in inputs))
                    except Exception:  # whatever the model raises, it takes no such input
                        continue
                    try:
                        got = self._candidate(*(x.clone() for x in inputs))
                    except Exception:
                        return "different"
                    return "same" if all_equal(got, want, self._tolerance) else "different"
        return "refused"


def _product(sizes: object) -> int:
    result = 1
    for size in sizes:  # type: ignore[attr-defined]
        result *= size
    return result


def listed(sizes: Sizes) -> str:
    """Sizes as in "batch=2, sequence=7"."""
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items())
