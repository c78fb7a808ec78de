"""What comes of sizes that were not traced: a candidate is run beside the eager model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rnn_runtime._report import compare

from .._equal import equal
from .._errors import ExportError
from .._quiet import quiet
from .module import copied, float64, wide_copy, widened
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


class NotTheModel(ExportError):
    """The candidate is not the model already at the traced sizes."""


def wide_candidate(candidate: nn.Module) -> nn.Module:
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
        tolerance: the largest error, times |want| where that is above 1.
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
        self._known: dict[tuple[int, ...], Outcome] = {}
        self._failures: dict[tuple[int, ...], Exception] = {}
        self._tolerances: list[float] = []
        self._calibrate(tolerance)

    def _calibrate(self, tolerance: float) -> None:
        """See that the candidate is the model on the traced inputs, and settle how far each output may be off.

        That is more where the model rounds: one that goes to bfloat16 on its way is as far off itself in float64 as in
        float32.
        """
        prepared = self._prepared
        want = self._wanted(prepared.traced)
        if isinstance(want, Exception):
            raise ExportError(f"the model fails in float64, which results are held against: {want}") from want
        self._tolerances = [tolerance] * len(want)
        outcome = self._outcome(prepared.traced, want, prepared.sizes)
        if outcome == "different":
            self._tolerances = [max(tolerance, min(ROUGHEST, 8 * error)) for error in self._own_errors(want)]
            outcome = self._outcome(prepared.traced, want, prepared.sizes)
        if outcome == "different" or self.at(prepared.sizes) == "different":
            raise NotTheModel(
                f"what was captured is not the model, already at {listed(prepared.sizes)}: it may keep state "
                "between calls in a way that was not found, draw random numbers, or change its own parameters"
            )

    def _own_errors(self, want: Sequence[Tensor]) -> list[float]:
        """How far eager PyTorch in the model's own precision is off, of each output, in what a tolerance is a share of.

        0 where it gives something else altogether, which is no rounding.
        """
        narrow = self._narrow(self._prepared.traced)
        if isinstance(narrow, Exception) or len(narrow) != len(want):
            return [0.0] * len(want)
        found = [compare(a.to(b.dtype).numpy(), b.numpy(), 0.0) for a, b in zip(narrow, want, strict=True)]
        return [one.error / one.measure if math.isfinite(one.error) else 0.0 for one in found]

    def at(self, sizes: Sizes) -> Outcome:
        """What comes of these sizes."""
        key = tuple(sizes.values())
        if key not in self._known:
            self._known[key] = self._try(sizes) if self._runs(sizes) else "too large"
        return self._known[key]

    def failure(self, sizes: Sizes) -> Exception | None:
        """What the candidate raised at these sizes, if it did."""
        return self._failures.get(tuple(sizes.values()))

    def _runs(self, sizes: Sizes) -> bool:
        numbers = sum(
            _product(sizes[axes[dim]] if dim in axes else size for dim, size in enumerate(tensor.shape))
            for tensor, axes in zip(self._prepared.traced, self._axes(), strict=True)
        )
        return max(sizes.values(), default=1) <= self._longest and numbers <= MOST_NUMBERS

    def _axes(self) -> list[Mapping[int, str]]:
        return [self._prepared.axes[name] for name in self._prepared.names]

    def _try(self, sizes: Sizes) -> Outcome:
        failed: Sequence[Tensor] | None = None
        for seed in range(4):
            for draw in self._draws:
                want = self._wanted(inputs := draw(sizes, seed))
                if not isinstance(want, Exception):
                    return self._outcome(inputs, want, sizes)
                failed = failed or inputs
        assert failed is not None
        if not isinstance(self._narrow(failed), Exception):
            raise ExportError(
                f"the model takes {listed(sizes)} as it is and fails in float64, which results are held against: "
                f"{self._wanted(failed)}. Let it take its dtypes from its inputs and parameters"
            )
        return "refused"

    def _wanted(self, inputs: Sequence[Tensor]) -> Sequence[Tensor] | Exception:
        """What a copy of the model gives in float64: what it keeps, no other run sees."""
        try:
            with quiet(), torch.no_grad(), float64():
                return list(copied(self._model)(*map(widened, inputs)))
        except Exception as error:  # whatever the model raises, it takes no such input
            return error

    def _narrow(self, inputs: Sequence[Tensor]) -> Sequence[Tensor] | Exception:
        try:
            with quiet(), torch.no_grad():
                return list(copied(self._prepared.flat)(*(x.clone() for x in inputs)))
        except Exception as error:
            return error

    def _outcome(self, inputs: Sequence[Tensor], want: Sequence[Tensor], sizes: Sizes) -> Outcome:
        try:
            with quiet(), torch.no_grad(), float64():
                got = self._candidate(*map(widened, inputs))
        except Exception as error:
            self._failures[tuple(sizes.values())] = error
            return "different"
        same = len(got) == len(want) and all(map(equal, got, want, self._tolerances))
        return "same" if same else "different"


def _product(sizes: object) -> int:
    result = 1
    for size in sizes:  # type: ignore[attr-defined]
        result *= size
    return result


def listed(sizes: Sizes) -> str:
    """Sizes as in "batch=2, sequence=7"."""
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items())
