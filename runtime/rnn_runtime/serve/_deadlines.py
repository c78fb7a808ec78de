"""One timer for all requests, which have the same time each."""

from __future__ import annotations

import asyncio
from types import TracebackType

_EARLY = 2e-3
"""Seconds. uvloop's clock counts milliseconds: a timer may find the end a moment away, and be set to no time at all."""


class Deadlines:
    """What `asyncio.timeout` does, for thousands a second that have the same time: a timer for each takes too long.

    Calling it gives the context manager, which raises TimeoutError where its body takes longer.

    Args:
        seconds: for each.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.open: dict[Deadline, None] = {}  # the first to end comes first
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> Deadline:
        return Deadline(self)

    def add(self, deadline: Deadline) -> None:
        """Watch over one more."""
        self.open[deadline] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline.end, self._look)

    def _look(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        while self.open:
            first = next(iter(self.open))
            if first.end > loop.time() + _EARLY:
                self._timer = loop.call_at(first.end, self._look)
                return
            del self.open[first]
            first.expire()


class Deadline:
    """One of them, within a task."""

    __slots__ = ("_cancelling", "_deadlines", "_late", "_task", "end")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines, self._late = deadlines, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self.end = asyncio.get_running_loop().time() + self._deadlines.seconds
        self._deadlines.add(self)

    def expire(self) -> None:
        """The time is over."""
        self._late = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._late:
            del self._deadlines.open[self]
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
