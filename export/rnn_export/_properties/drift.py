"""A long sequence."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_runtime._properties import OutOfDomain, Part, Subject, Trial
from rnn_runtime._report import Series
from rnn_runtime._tolerances import SLACK

from .._compare import held, own_error
from ._held import Held, part

STRETCHES = 100
GROWN = 10.0
"""Times what the table allows: where eager PyTorch in the model's precision is that far off, any order of sums is."""

SECONDS = 20.0
"""A yardstick that needs longer for the whole sequence is too slow to be asked."""

_MEMORY = 4 * 2**30  # bytes that the yardstick may need for it


class Drift:
    """Errors do not add up over many steps.

    Args:
        steps: of the sequence.
    """

    name = "drift"

    def __init__(self, steps: int) -> None:
        self.promise = f"over {steps:,} steps the error stays within what is allowed for a few"
        self.series: list[Series] = []
        self._steps = steps
        self._refusal: str | None = None
        self._measured = False

    def unfit(self, subject: Subject) -> str | None:
        """Models that run over no one axis, whose limits end before, or that take far too long over so many steps."""
        if subject.sequence is None:
            return "the recurrent layers run over no one axis of the inputs"
        limit = subject.signature.limit(subject.sequence)
        if not limit.allows(self._steps):
            return f"the limit of {subject.sequence!r} is {limit.sizes}, and this takes {self._steps:,} steps"
        if not self._measured:
            self._refusal, self._measured = self._measure(subject), True
        return self._refusal

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """How many steps: what fails over many may fail over fewer."""
        least = subject.within(dict.fromkeys(subject.signature.axis_names, 1))
        sizes = {axis: (size, size) for axis, size in least.items()}
        sizes[str(subject.sequence)] = (least[str(subject.sequence)], self._steps)
        return {**sizes, "values": (4, 4), "seed": (0, 0)}

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """All of them, in one row."""
        return [self._trial(subject, self._steps)]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """Each output over the whole sequence."""
        assert isinstance(subject, Held)
        inputs = subject.inputs(trial)
        case = subject.case(inputs)
        for name in case.want:
            _, own = own_error(case, name, None)
            if case.want[name].dtype.kind == "f" and own.error > GROWN * own.bound:
                raise OutOfDomain(
                    f"eager PyTorch's own error grows to {own.error:.2g} in {name}: the model amplifies it"
                )
        got = subject.attempt(inputs)
        if trial[str(subject.sequence)] == self._steps:
            for spec in subject.signature.outputs:
                if subject.sequence in spec.axes and got[spec.name].shape == case.want[spec.name].shape:
                    self.series.append(
                        _series(
                            subject.backend,
                            spec.name,
                            np.abs(got[spec.name].astype(np.float64) - case.want[spec.name]),
                            spec.axes.index(subject.sequence),
                        )
                    )
        return [part(row) for row in held(subject.backend, case, dict(got), subject.given, subject.precision, SLACK)]

    def _trial(self, subject: Subject, steps: int) -> Trial:
        sizes = {**dict.fromkeys(subject.signature.axis_names, 1), str(subject.sequence): steps}
        return {**subject.within(sizes), "values": 4, "seed": 0}

    def _measure(self, subject: Subject) -> str | None:
        """Why the yardstick cannot run over so many steps, from what it needs for fewer."""
        assert subject.reference is not None
        seconds, memory = [], [_memory()]
        for steps in (self._steps // 100, self._steps // 10):
            start = time.monotonic()
            try:
                subject.reference(subject.inputs(self._trial(subject, max(1, steps))))
            except OutOfDomain as error:
                return f"eager PyTorch takes no sequence of {steps:,} steps: {str(error).splitlines()[0]}"
            seconds.append(time.monotonic() - start)
            memory.append(_memory())
        growth = 100 if seconds[1] > 0.2 and seconds[1] > 30 * seconds[0] else 10
        if seconds[1] * growth > SECONDS:
            return f"eager PyTorch would take about {seconds[1] * growth:.0f} s for {self._steps:,} steps"
        if (memory[2] - memory[1]) * growth > _MEMORY:
            return f"eager PyTorch would take too much memory for {self._steps:,} steps"
        return None


def _series(backend: str, output: str, error: NDArray[Any], along: int) -> Series:
    """The largest error in each of a hundred stretches."""
    by_step = error.max(axis=tuple(dim for dim in range(error.ndim) if dim != along))
    starts = np.unique(np.linspace(0, len(by_step), STRETCHES, endpoint=False).astype(int))
    return Series(
        backend, output, tuple(map(int, starts)), tuple(float(v) for v in np.maximum.reduceat(by_step, starts))
    )


def _memory() -> int:
    """The most memory that this process has held so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
