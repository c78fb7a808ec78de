"""What a pool has done: counts since it was made, and percentiles over what it did last."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

WINDOW = 4096
"""How many of the last values percentiles are taken over."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The last 4096 values of something, or fewer; zeros where there are none yet."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    largest: float


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """A snapshot of a pool.

    Attributes:
        streams: open now.
        queued: chunks that wait now.
        chunks: taken out of the queue and run, since the pool was made, those that failed among them.
        batches: how many times what had arrived was run.
        rejected: chunks that the full queue refused.
        errors: chunks whose run failed.
        idle: streams that the idle time-out ended.
        batch_size: chunks of one batch.
        queue_ms: from a chunk's arrival to the start of its batch, in milliseconds.
        step_ms: from the start of a batch to its results, in milliseconds.
    """

    streams: int
    queued: int
    chunks: int
    batches: int
    rejected: int
    errors: int
    idle: int
    batch_size: Percentiles
    queue_ms: Percentiles
    step_ms: Percentiles


class Recorder:
    """The counts and windows behind a snapshot. The pool's lock guards it."""

    def __init__(self) -> None:
        self.chunks = self.batches = self.rejected = self.errors = self.idle = 0
        self._sizes: deque[int] = deque(maxlen=WINDOW)
        self._waits: deque[float] = deque(maxlen=WINDOW)
        self._steps: deque[float] = deque(maxlen=WINDOW)

    def batch(self, waits: list[float], step: float) -> None:
        """Take in one batch: how long each of its chunks waited, and how long it ran, in seconds."""
        self.batches += 1
        self.chunks += len(waits)
        self._sizes.append(len(waits))
        self._waits.extend(waits)
        self._steps.append(step)

    def snapshot(self, streams: int, queued: int) -> PoolMetrics:
        """What is known now."""
        return PoolMetrics(
            streams,
            queued,
            self.chunks,
            self.batches,
            self.rejected,
            self.errors,
            self.idle,
            _percentiles(np.array(self._sizes, np.float64)),
            _percentiles(np.array(self._waits, np.float64) * 1e3),
            _percentiles(np.array(self._steps, np.float64) * 1e3),
        )


def _percentiles(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Percentiles:
    if not values.size:
        return Percentiles(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    return Percentiles(values.size, float(values.mean()), p50, p90, p99, float(values.max()))
