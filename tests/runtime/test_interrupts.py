"""Pools under Ctrl-C and without memory: an exception at any line leaves a pool that works, or one that is closed."""

from __future__ import annotations

import itertools
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from rnn_runtime import Error, Model, Result, StreamClosed, StreamPool
from rnn_runtime._model import load
from rnn_runtime._rows import Rows

SECONDS = 20  # until a test that would hang fails
FILES = ("_pool.py", "_care.py", "_replies.py", "_rows.py", "_schedule.py", "_metrics.py")
CHUNKS = [np.full((2, 1, 4), value, np.float32) for value in (0.3, -0.2, 0.5, 0.1)]


@pytest.fixture(scope="module")
def rnn(files: Path) -> Model:
    return load(files / "rnn.onnx", threads=1)


@pytest.fixture(scope="module")
def states(rnn: Model) -> list[np.ndarray]:
    """The state before the first chunk, after it, after the second, and so on."""
    found = [np.zeros((1, 1, 3), np.float32)]
    for chunk in CHUNKS:
        found.append(rnn.run(chunk, state={"h_0": found[-1]}).state["h_0"])
    return found


class Fault:
    """Raises `error` at the line of the pool's code that is the `at`-th to run in a thread that has this trace."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.left, self.error, self.where = at, error, ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if Path(frame.f_code.co_filename).name not in FILES or frame.f_code.co_name == "<module>":
            return None
        entered: set[int] = set()

        def local(frame: FrameType, event: str, arg: object) -> Any:
            if event != "line" or not self.left:
                return local
            line = frame.f_lineno
            text = linecache.getline(frame.f_code.co_filename, line).strip()
            if text == "try:":  # does nothing that could fail
                return local
            if text.startswith("with ") and "_lock" in text:
                # A `with` has a second event where it ends, before it releases its lock. No interrupt comes there:
                # CPython looks for signals after calls, and the next call is the release itself.
                if line in entered:
                    return local
                entered.add(line)
            self.left -= 1
            if not self.left:
                self.where = f"{Path(frame.f_code.co_filename).name}:{line} {text}"
                raise self.error
            return local

        return local


def use(pool: StreamPool, stream: Any, futures: list[Future[Result]], opened: list[Any]) -> None:
    """All that a caller can do with a pool, in the thread that is interrupted."""
    stream.push(CHUNKS[0])
    futures.append(stream.submit(CHUNKS[1]))
    futures[-1].result()
    opened.append(pool.open(state={"h_0": np.ones((1, 1, 3), np.float32)}))
    opened[-1].push(CHUNKS[0])
    opened[-1].reset()
    assert not opened[-1].state["h_0"].any()
    opened[-1].close()
    stream.push(CHUNKS[2], timeout=None)
    pool.metrics()


def judge(pool: StreamPool, stream: Any, friend: Any, waiting: Future[Result], states: list[np.ndarray]) -> str:
    """Whether the pool works or is closed; nobody waits for ever, and no state is one that no chunk can leave."""
    pushed = 1
    try:
        waiting.result(SECONDS)
    except StreamClosed:
        pass
    except Error:
        pushed = 0  # the batch failed, and the state is as it was
    try:
        found = stream.state["h_0"]
        assert any(np.allclose(found, state, rtol=0, atol=1e-6) for state in states)
        try:
            got = friend.submit(CHUNKS[pushed]).result(SECONDS)
        except StreamClosed:
            raise
        except Error:  # the exception came only now
            got = friend.submit(CHUNKS[pushed]).result(SECONDS)
        np.testing.assert_allclose(got.state["h_0"], states[pushed + 1], rtol=0, atol=1e-6)
        others = [pool.open() for _ in range(pool.capacity - 2)]  # no slot is lost
        for other in others:
            other.close()
        return "works"
    except StreamClosed:
        with pytest.raises(StreamClosed):
            pool.open()
        with pytest.raises(StreamClosed):
            friend.push(CHUNKS[0])
        return "closed"


def each_line(
    rnn: Model, states: list[np.ndarray], error: type[BaseException], everywhere: bool
) -> Iterator[tuple[Fault, str]]:
    """What becomes of a pool for an exception at the first line, at the second, and so on."""
    for at in itertools.count(1):
        fault = Fault(at, error("from outside"))
        futures: list[Future[Result]] = []
        opened: list[Any] = []
        if everywhere:
            threading.settrace(fault)
        pool = StreamPool(rnn, 4, max_wait_ms=4 if everywhere else 20, idle_timeout=30)
        threading.settrace(None)  # type: ignore[arg-type]  # the stubs know no end of it
        try:
            try:
                stream, friend = pool.open(), pool.open()
                waiting = friend.submit(CHUNKS[0])
            except StreamClosed:  # the pool's thread has failed already
                yield fault, "closed"
                continue
            before = sys.gettrace()
            if not everywhere:
                sys.settrace(fault)
            try:
                use(pool, stream, futures, opened)
            except (Error, KeyboardInterrupt, MemoryError):
                pass
            finally:
                sys.settrace(before)
            if not fault.where and not everywhere:
                return
            for other in opened:
                other.close()  # as who was interrupted would
            with ThreadPoolExecutor(1) as judges:
                try:
                    found = judges.submit(judge, pool, stream, friend, waiting, states).result(3 * SECONDS)
                except BaseException as failed:
                    raise AssertionError(f"after {fault.where}: {failed!r}") from failed
            for future in futures:
                assert future.done() or future.exception(SECONDS) is not None or future.result(SECONDS), fault.where
            if not fault.where:
                return
            yield fault, found
        finally:
            closing = threading.Thread(target=pool.close, daemon=True)
            closing.start()
            closing.join(SECONDS)
            assert not closing.is_alive(), fault.where
            assert not pool._worker.is_alive(), fault.where


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_exception_at_any_line_of_a_caller(rnn: Model, states: list[np.ndarray], error: type[BaseException]) -> None:
    found = {fault.where: outcome for fault, outcome in each_line(rnn, states, error, everywhere=False)}
    assert len(found) > 100
    assert set(found.values()) == {"works", "closed"}
    # Where the pool waits or runs, which is nearly always, it goes on.
    for line in ("pieces = self._rows.run(batch)", "self._lock.acquire()", "outputs = list(self._run(feeds).values())"):
        assert {outcome for where, outcome in found.items() if line in where} == {"works"}, line


def test_an_exception_at_any_line_of_the_pools_own_thread(
    rnn: Model, states: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    found = list(each_line(rnn, states, MemoryError, everywhere=True))
    assert len(found) > 20
    assert "closed" in {outcome for _, outcome in found}


def test_a_pool_that_breaks_while_it_stores_says_so(rnn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Rows, piece: object) -> None:
        raise KeyboardInterrupt

    with StreamPool(rnn, 2) as pool, pool.open() as stream:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Rows, "store", fail)
            stream.push(CHUNKS[0])
        calls: list[Callable[[], object]] = [
            pool.open, stream.reset, lambda: stream.state, lambda: stream.push(CHUNKS[0]),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(StreamClosed, match=r"KeyboardInterrupt.*may be half stored; make another"):
                call()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, RuntimeError])
def test_a_callback_that_ends_the_program_ends_no_pool(
    rnn: Model, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()

    def leave(stream: object) -> None:
        told.set()
        raise error("from a callback")

    with StreamPool(rnn, 2, idle_timeout=0.02) as pool:
        pool.open(on_idle=leave)
        assert told.wait(SECONDS)
        assert pool.open().submit(CHUNKS[0]).result(SECONDS)
    assert "from a callback" in caplog.text
