"""How the result of a chunk reaches who waits for it: a thread, a future, or a task of asyncio.

Whoever answers may be interrupted and answer again, and two threads may answer at once: the first answer counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Protocol

from ._errors import Error
from ._result import Result
from ._schedule import Chunk

Outcome = tuple[Result | None, Error | None]
"""The result or the error, and None for the other."""


class Reply(Protocol):
    """Takes one outcome, once."""

    def awaited(self) -> bool:
        """The chunk is about to run: whether anybody waits for it still."""
        ...

    def give(self, outcome: Outcome) -> None:
        """Hand over the outcome; a later one is dropped."""
        ...

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in whose thread alone `give` may be called; None where any thread may."""
        ...


class Waiter:
    """A thread that waits for its chunk: a bare lock costs a fifth of a future."""

    __slots__ = ("_lock", "_outcome")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._outcome: Outcome | None = None

    def awaited(self) -> bool:
        """It is: a thread cannot be told to stop waiting."""
        return True

    def give(self, outcome: Outcome) -> None:
        """Hand over the outcome, once."""
        if self._outcome is None:
            self._outcome = outcome
        with contextlib.suppress(RuntimeError):  # it is released already
            self._lock.release()

    def loop(self) -> None:
        """Any thread may give."""

    def wait(self) -> Result:
        """The result, when it is there. Raises the error."""
        self._lock.acquire()
        assert self._outcome is not None
        result, error = self._outcome
        if result is None:
            assert error is not None
            raise error
        return result


class Promise(Future[Result]):
    """What `PoolStream.submit` gives: `result()` without a timeout runs a batch that is due in the caller's thread."""

    def __init__(self, lead: Callable[[], None]) -> None:
        super().__init__()
        self._lead = lead

    def awaited(self) -> bool:
        """Whether it is not cancelled; it cannot be from here on."""
        return self.set_running_or_notify_cancel()

    def give(self, outcome: Outcome) -> None:
        """Hand over the outcome, once."""
        result, error = outcome
        with contextlib.suppress(InvalidStateError):  # it is done already, or was cancelled
            if result is not None:
                self.set_result(result)
            elif self.running() or (not self.done() and self.set_running_or_notify_cancel()):
                self.set_exception(error)

    def loop(self) -> None:
        """Any thread may give."""

    def result(self, timeout: float | None = None) -> Result:
        """As `concurrent.futures.Future.result`."""
        if timeout is None and not self.done():
            self._lead()
        return super().result(timeout)


class Task:
    """A task of asyncio that waits for its chunk."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Result] = self._loop.create_future()

    def awaited(self) -> bool:
        """Whether it is not cancelled."""
        return not self._future.cancelled()

    def give(self, outcome: Outcome) -> None:
        """Hand over the outcome, in the thread of the loop, unless it was cancelled meanwhile."""
        if self._future.done():
            return
        result, error = outcome
        if result is not None:
            self._future.set_result(result)
        else:
            assert error is not None
            self._future.set_exception(error)

    def loop(self) -> asyncio.AbstractEventLoop:
        """Only its own loop may give."""
        return self._loop

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._future.cancel()

    async def wait(self) -> Result:
        """The result, when it is there. Raises the error."""
        return await self._future


def answer(answers: Iterable[tuple[Chunk, Outcome]]) -> None:
    """Give everyone what is theirs; an event loop is woken once for all of its tasks."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Reply, Outcome]]] = {}
    for chunk, outcome in answers:
        if chunk.place is not None and not chunk.place.done():  # it ends without having had a place
            with contextlib.suppress(InvalidStateError):
                chunk.place.set_result(None)
        reply: Reply = chunk.reply
        loop = reply.loop()
        if loop is None:
            reply.give(outcome)
        else:
            loops.setdefault(loop, []).append((reply, outcome))
    for loop, items in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks with it
            loop.call_soon_threadsafe(_settle, items)


def _settle(items: list[tuple[Reply, Outcome]]) -> None:
    for reply, outcome in items:
        reply.give(outcome)
