"""Many streams of one model, from threads and from asyncio: what has arrived is run as one batch."""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from . import _fork, _guards
from ._care import Bell, Care
from ._errors import Error, InputError, PoolFull, QueueFull, StreamClosed
from ._independent import mixes_rows
from ._metrics import PoolMetrics, Recorder
from ._replies import Outcome, Promise, Reply, Task, Waiter, answer
from ._result import Result
from ._rows import Arrays, Piece, Rows
from ._schedule import Chunk, Queue, Schedule

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ._model import Model

Inputs = ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike]

_LATE = 0.25e-3  # seconds that a sleeping thread wakes up late: it is woken that much earlier
_ZEROS: Arrays = {}  # stands for a state of zeros, which needs no arrays


class StreamPool:
    """Up to `capacity` streams over one model, each as if it had the model to itself.

    The chunks that have arrived are run as one batch, one of each stream. Chunks of unequal length share it where the
    graph takes lengths, padded; the first few such batches are also run row by row, and where one row differs, a
    model is taken not to be neutral to padding and unequal chunks run apart, as they do where it takes no lengths.
    A stream with nothing to say is left out of the batch, and its state stays.

    Results do not depend on who else is in the batch: the LSTM and GRU operators give the same bits at every batch
    size; the vanilla RNN operator differs by up to 8e-7 from a run alone.

    A batch starts when every open stream has a chunk in it, when it holds `max_batch` chunks, when the queue is full,
    or when its oldest chunk has waited `max_wait_ms`: whichever comes first. Streams take turns, so one that pushes
    without pause shuts out nobody. One batch runs at a time: in the thread that waits for its result in `push` or
    in a future's `result()`, or else in a thread of the pool's own.

    Use it as a context manager, or call `close`: the thread lives until then.

    An exception that comes from outside, as Ctrl-C, leaves a pool that works. Where it comes while states are stored
    or the queue changes, the pool is closed instead and says so to everyone: a state is never stored in part unnoticed.

    Args:
        model: one whose inputs, outputs and states all have a batch axis.
        capacity: how many streams may be open at once; their states are allocated here, in one array per state.
        max_wait_ms: how long a chunk waits for others to share its batch, in milliseconds; 0 waits for none.
        max_queue: how many chunks may wait in all, 4 per stream if left out. One stream has its share of them,
            max_queue / capacity and at least 1, so that it cannot fill the queue for the others.
        max_batch: the most chunks in one batch; if left out `capacity`, or the model's largest batch where that is
            less, or 1 where rows would change each other, as in an int8 bundle, whose activations have one scale for
            the whole batch.
        idle_timeout: a stream without a push for this many seconds is ended, and its slot freed; None ends none.

    Raises:
        InputError: the model has no state, or a tensor without a batch axis, or a number is out of range; or the
            model takes no batch of 1, which a stream has that nobody shares a batch with.
    """

    def __init__(
        self,
        model: Model,
        capacity: int = 32,
        *,
        max_wait_ms: float = 2.0,
        max_queue: int | None = None,
        max_batch: int | None = None,
        idle_timeout: float | None = None,
    ) -> None:
        _require_count("capacity", capacity)
        max_queue = 4 * capacity if max_queue is None else max_queue
        _require_count("max_queue", max_queue)
        if max_batch is not None:
            _require_count("max_batch", max_batch)
        _require_time("max_wait_ms", max_wait_ms, "milliseconds, 0 or more", zero=True)
        if idle_timeout is not None:
            _require_time("idle_timeout", idle_timeout, "seconds above 0, or None", zero=False)
        self.capacity = capacity
        rows = self._rows = Rows(model, capacity)
        if max_batch is None:
            max_batch = 1 if mixes_rows(model) else min(capacity, rows.limit.max or capacity)
        elif not rows.limit.allows(max_batch):
            raise InputError(_guards.beyond(rows.limit, max_batch, "max_batch makes batches of"))
        wait = max_wait_ms / 1e3
        self._schedule = Schedule(
            max_batch, wait - min(_LATE, wait / 4), max_queue, max(1, max_queue // capacity), lambda: rows.unequal
        )  # with no way back to the pool: what is in a cycle stays for ever in a process that has frozen it
        self._idle_timeout = idle_timeout
        self._idle_check = math.inf  # when the next stream may have been idle for so long
        self._recorder = Recorder()
        self._free = list(range(capacity))[::-1]
        self._streams: dict[Queue, PoolStream] = {}
        self._batch: list[Chunk] = []  # what runs, in the pool's thread or in one that waits for its result
        self._leader = 0  # that thread
        self._owed: dict[Chunk, None] = {}  # chunks taken, and not answered
        self._answers: dict[Chunk, Outcome] = {}  # what is to be given to whom
        self._made = _fork.generation
        self._lock = threading.Lock()  # guards all of the above, and the states
        self._bell = Bell()
        self._care = Care(self._bell)
        self._worker = threading.Thread(target=self._work, name="rnn_runtime.StreamPool", daemon=True)
        try:
            self._worker.start()
            atexit.register(self.close)  # a thread inside ONNX Runtime must not outlive it
        except BaseException:
            self._care.closed = True
            self._bell.ring()
            raise

    def open(
        self,
        state: Mapping[str, ArrayLike] | None = None,
        on_idle: Callable[[PoolStream], object] | None = None,
    ) -> PoolStream:
        """A new stream, in a slot of its own.

        Args:
            state: what it starts from, as `PoolStream.state` or `Result.state` of batch 1 gave it; zeros if left out.
            on_idle: called with the stream, in the pool's thread, when the idle time-out has ended it. Its state can
                still be read.

        Raises:
            PoolFull: `capacity` streams are open.
            InputError: the state does not fit.
            StreamClosed: the pool is closed.
        """
        self._require_process()
        start = None if state is None else self._rows.checked(state)
        stream = None
        try:
            with self._lock, self._care:
                self._require_open()
                if not self._free:
                    raise PoolFull(
                        f"{self.capacity} streams are open, the pool's capacity: close one, or make the pool larger"
                    )
                slot, now = self._free.pop(), time.monotonic()
                self._rows.set_state(slot, start)
                stream = PoolStream(self, Queue(slot), on_idle, now)
                self._streams[stream._queue] = stream
                self._schedule.streams += 1
                if self._idle_timeout is not None:
                    self._idle_check = min(self._idle_check, now + self._idle_timeout)
                    self._bell.ring()
            return stream
        except BaseException:
            if stream is not None:  # nobody has it, so nobody would close it
                stream.close()
            raise

    def metrics(self) -> PoolMetrics:
        """What the pool has done: counts, and percentiles over the last 4096 chunks and batches."""
        self._require_process()
        with self._lock:
            return self._recorder.snapshot(len(self._streams), self._schedule.queued)

    def close(self) -> None:
        """End all streams and the pool's thread.

        The batch that runs is finished and its results are given. Chunks that wait are not run: who waits for them
        gets StreamClosed. Closing again does nothing.
        """
        if self._made != _fork.generation:  # a fork has neither the thread nor the locks
            return
        with self._lock, self._care:
            self._care.closed = True
            for queue in [] if self._care.broken else list(self._streams):
                self._end(queue, "its pool was closed")
            self._bell.ring()
        self._flush()
        atexit.unregister(self.close)
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"StreamPool({len(self._streams)} of {self.capacity} streams{', closed' if self._care.closed else ''})"

    def _submit(
        self, stream: PoolStream, inputs: object, reply: Reply, timeout: float | None, lead: bool = False
    ) -> Chunk:
        """Check a chunk and line it up, or have it wait for a place where `timeout` is not 0.

        With `lead`, a batch that is due now is run right here, since the caller waits anyway.
        """
        if self._made != _fork.generation:
            self._require_process()
        arrays, key, steps = self._rows.read(inputs)
        queue, now = stream._queue, time.monotonic()
        try:
            with self._lock, self._care:
                if queue.slot is None:
                    raise StreamClosed(stream._ended)
                self._require_open()
                chunk = Chunk(queue, arrays, key, steps, now, reply)
                self._owed[chunk] = None
                if not self._schedule.add(chunk):
                    if timeout == 0:
                        queue.start = chunk.start
                        del self._owed[chunk]
                        raise self._full(queue)
                    chunk.place = Future()
                    self._schedule.add_later(chunk)
                stream._last = now
                batch = []
                if self._schedule.pressing:
                    batch = self._begin(now) if lead else []
                    if not batch:
                        self._bell.ring()
            if batch:
                self._run(batch, now)
            return chunk
        except BaseException as error:
            self._recover(error)
            raise

    def _lead(self) -> None:
        """Run a batch that is due, if nobody does: a thread that would wait for it saves a switch of threads."""
        try:
            with self._lock, self._care:
                now = time.monotonic()
                batch = self._begin(now)
            if batch:
                self._run(batch, now)
        except BaseException as error:
            self._recover(error)
            raise

    def _give_up(self, chunk: Chunk) -> None:
        """The time to wait for a place is over: raises QueueFull, unless there is one by now."""
        if self._take_back(chunk):
            raise self._full(chunk.owner)

    def _take_back(self, chunk: Chunk) -> bool:
        """Nobody waits any more for a chunk that may have no place yet: whether it had none."""
        with self._lock, self._care:
            had_none = self._schedule.give_up(chunk)
            if had_none:
                self._owed.pop(chunk, None)
        return had_none

    def _full(self, queue: Queue) -> QueueFull:
        self._recorder.rejected += 1
        return QueueFull(
            f"the queue is full: {self._schedule.queued} chunks wait, {len(queue.chunks)} of them this stream's; the "
            "chunk was not taken: push it again later, give a timeout to wait for a place, or make max_queue larger"
        )

    def _work(self) -> None:
        """The pool's thread: run what is due, end who is idle, sleep until there is something to do."""
        try:
            while self._turn():
                pass
        except BaseException as error:  # nobody would run what comes
            self._recover(error)
            with self._lock:
                self._care.breaks(error)
            logging.getLogger("rnn_runtime").exception("the thread of a StreamPool failed, and the pool is closed")
        finally:
            try:
                self._sweep()
            except BaseException:  # nobody else would answer who waits, and what is done twice counts once
                self._sweep()

    def _turn(self) -> bool:
        with self._lock, self._care:
            if self._care.closed:
                return False
            now = time.monotonic()
            idle = self._end_idle(now)
            batch = self._begin(now)
            sleep = self._sleep(now)
        if self._answers:
            self._flush()  # what was left by who was interrupted
        for stream in idle:
            stream._tell_idle()
        if batch:
            self._run(batch, now)
        elif not idle:
            self._bell.wait(sleep)
        return True

    def _begin(self, now: float) -> list[Chunk]:
        """The batch to run now, if there is one and none runs: whoever gets it has to `_run` it.

        Puts the states in place that were set before these chunks, and leaves out those whose push was cancelled.
        """
        while not (self._batch or self._care.closed) and (batch := self._schedule.take(now)):
            for chunk in batch:
                if chunk.start is not None:
                    assert chunk.owner.slot is not None  # it is in the line
                    self._rows.set_state(chunk.owner.slot, chunk.start or None)
            live = [chunk for chunk in batch if chunk.reply.awaited()]
            if len(live) < len(batch):
                kept = set(live)
                gone = [chunk for chunk in batch if chunk not in kept]
                self._schedule.finished(gone)
                for chunk in gone:
                    self._owed.pop(chunk, None)
            if live:
                self._leader, self._batch = threading.get_ident(), live
                return live
        return []

    def _run(self, batch: list[Chunk], started: float) -> None:
        done: dict[Chunk, Outcome] = {}
        try:
            pieces = self._rows.run(batch)
            for piece in pieces:
                results = [None] * len(piece.chunks) if piece.error else self._rows.results(piece)
                for chunk, result in zip(piece.chunks, results, strict=True):
                    done[chunk] = (result, piece.error)
        except Exception as error:  # no memory for the results, say: everyone is told
            pieces = [Piece(batch, [], _failed(error))]
            done = dict.fromkeys(batch, (None, pieces[0].error))
        with self._lock, self._care:
            for piece in pieces:
                if piece.error is None:
                    self._rows.store(piece)
            self._finish(batch, done, started)
        self._flush()

    def _finish(self, batch: list[Chunk], done: dict[Chunk, Outcome], started: float) -> None:
        now = time.monotonic()
        self._recorder.errors += sum(error is not None for _, error in done.values())
        self._recorder.batch([started - chunk.arrived for chunk in batch], now - started)
        self._schedule.finished(batch)
        self._answers.update(done)
        self._leader, self._batch = 0, []
        if self._schedule.oldest() is not None or self._idle_timeout is not None:
            self._bell.ring()

    def _recover(self, error: BaseException) -> None:
        """This thread was interrupted: what it had begun is ended, as if the batch had failed, and answered."""
        if isinstance(error, Error):
            return
        with self._lock, self._care:
            if self._leader == threading.get_ident():
                batch = self._batch
                why = StreamClosed(f"the stream has ended: {self._care.broken}") if self._care.broken else None
                self._finish(batch, {chunk: (None, why or _failed(error)) for chunk in batch}, time.monotonic())
            self._bell.ring()
        self._flush()

    def _flush(self) -> None:
        """Give everyone what is theirs; what is given twice counts once."""
        answers = self._answers.copy().items()  # in one step, as others answer too
        answer(answers)
        for chunk, _ in answers:
            self._answers.pop(chunk, None)
            self._owed.pop(chunk, None)

    def _sweep(self) -> None:
        """The pool is closed: answer all but those whose batch runs, which has a thread that answers them."""
        with self._lock:
            ended = StreamClosed(f"the stream has ended: {self._care.broken or 'its pool was closed'}")
            for chunk in self._owed.keys() - set(self._batch):
                self._answers.setdefault(chunk, (None, ended))
        self._flush()

    def _end_idle(self, now: float) -> list[PoolStream]:
        if self._idle_timeout is None or now < self._idle_check:
            return []
        idle = [s for q, s in self._streams.items() if not q.busy and s._last + self._idle_timeout <= now]
        for stream in idle:
            self._end(stream._queue, f"there was no push for {self._idle_timeout:g} s: open another")
            self._recorder.idle += 1
        # Later pushes only put it off, so that it need not be looked at before the earliest.
        last = [now if queue.busy else stream._last for queue, stream in self._streams.items()]
        self._idle_check = min(last, default=math.inf) + self._idle_timeout
        return idle

    def _sleep(self, now: float) -> float:
        """Seconds until something is due by itself; -1 where nothing is."""
        oldest = None if self._batch else self._schedule.oldest()  # who is busy rings when done
        due = min(self._idle_check, math.inf if oldest is None else oldest + self._schedule.max_wait)
        return -1 if due == math.inf else max(0.0, due - now)

    def _end(self, queue: Queue, why: str) -> None:
        """End a stream, keep its last state for its owner, and free its slot; `_flush` tells what of it waits."""
        stream = self._streams.pop(queue)
        stream._kept = stream._state()
        stream._ended = f"the stream has ended: {why}"
        dropped = self._schedule.drop(queue)
        assert queue.slot is not None  # it is among the open streams
        self._free.append(queue.slot)
        queue.slot = None
        self._schedule.streams -= 1
        if self._schedule.pressing:
            self._bell.ring()  # it may have been the one that all others waited for
        for chunk in dropped:
            self._answers[chunk] = (None, StreamClosed(stream._ended))
        if dropped:
            self._bell.ring()  # the pool's thread answers them, should this one be interrupted

    def _require_open(self) -> None:
        self._care.require()
        if self._care.closed:
            raise StreamClosed("the pool is closed: make another")

    def _require_process(self) -> None:
        if self._made != _fork.generation:
            raise Error("the pool was made before this process was forked, and its thread is not here: make it after")


class PoolStream:
    """One sequence of a pool, fed in chunks; `StreamPool.open` makes it.

    Any thread, and any asyncio task, may push; chunks run in the order of the pushes. A push that fails leaves the
    state as it was.
    """

    def __init__(
        self, pool: StreamPool, queue: Queue, on_idle: Callable[[PoolStream], object] | None, now: float
    ) -> None:
        self._pool, self._queue, self._on_idle, self._last = pool, queue, on_idle, now
        self._kept: Arrays = {}
        self._ended = ""

    def push(self, chunk: Inputs, timeout: float | None = 0) -> Result:
        """Run the next steps of the sequence, and wait for what the model makes of them.

        Args:
            chunk: as for `Stream.push`, of batch 1 and any number of steps.
            timeout: seconds to wait for a place in a full queue; 0 waits for none, None as long as it takes.

        Returns:
            The outputs, as `Stream.push` of a stream alone gives them, which later pushes leave alone. The arrays are
            rows of the batch's, which live as long as one of them: copy what you keep for long.

        Raises:
            InputError: the chunk does not fit; nothing was queued.
            QueueFull: there was no place in the queue in time; nothing was queued.
            StreamClosed: the stream or its pool has ended, before or while the chunk waited.
            Error: ONNX Runtime fails; the state stays as it was.

        Interrupted by Ctrl-C, a chunk that has been queued may run all the same; then only its result is lost.
        """
        if threading.get_ident() == self._pool._worker.ident and threading.current_thread() is self._pool._worker:
            raise Error(
                "the pool's own thread cannot wait for itself: use submit in on_idle and in a future's callback"
            )
        if timeout != 0:
            _require_timeout(timeout)
        reply = Waiter()
        queued = self._pool._submit(self, chunk, reply, timeout, lead=True)
        if queued.place is not None:
            try:
                queued.place.result(timeout)
            except TimeoutError:
                self._pool._give_up(queued)
            except BaseException:  # Ctrl-C
                self._pool._take_back(queued)
                raise
        return reply.wait()

    async def push_async(self, chunk: Inputs, timeout: float | None = 0) -> Result:
        """`push` for asyncio: the event loop runs on while the chunk waits and runs.

        Cancelled before its batch starts, a chunk is taken back, as if it had not been pushed; later, it runs and the
        state moves on, and only the result is lost.
        """
        if timeout != 0:
            _require_timeout(timeout)
        reply = Task()
        queued = self._pool._submit(self, chunk, reply, timeout)
        if queued.place is not None:
            try:
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(queued.place)), timeout)
            except TimeoutError:
                self._pool._give_up(queued)
            except asyncio.CancelledError:
                self._pool._take_back(queued)
                reply.cancel()  # it may have got a place meanwhile
                raise
        return await reply.wait()

    def submit(self, chunk: Inputs) -> Future[Result]:
        """`push` without waiting: a future that has the result, or the error, when the chunk has run.

        For one thread that feeds many streams. The chunk is copied, so its memory may be used again at once. A future
        that is cancelled before its batch starts takes the chunk back.

        Raises:
            InputError, QueueFull, StreamClosed: as `push`, at once.
        """
        future = Promise(self._pool._lead)
        self._pool._submit(self, chunk, future, 0)
        return future

    @property
    def state(self) -> Arrays:
        """The state after the last chunk that has run, by input name: copies, as `Stream.state` of batch 1.

        It can be read after the stream has ended. To set it takes its place among the pushes: chunks pushed before
        run from the old state, chunks after from the new one.
        """
        self._pool._require_process()
        with self._pool._lock, self._pool._care:
            return self._state()

    @state.setter
    def state(self, value: Mapping[str, ArrayLike]) -> None:
        self._put(self._pool._rows.checked(value))

    def reset(self) -> None:
        """Start again from zeros, for the chunks pushed after this."""
        self._put(_ZEROS)

    def close(self) -> None:
        """End the stream and free its slot at once. Chunks of it that wait are not run: pushes get StreamClosed."""
        if self._pool._made != _fork.generation:
            return
        try:
            with self._pool._lock, self._pool._care:
                if self._queue.slot is not None and not self._pool._care.broken:
                    self._pool._end(self._queue, "it was closed")
        finally:
            self._pool._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _state(self) -> Arrays:
        if self._queue.slot is None:
            return {name: array.copy() for name, array in self._kept.items()}
        self._pool._care.require()
        if self._queue.start is not None and not self._queue.busy:  # set while the last chunk ran
            self._pool._rows.set_state(self._queue.slot, self._queue.start or None)
            self._queue.start = None
        return self._pool._rows.state(self._queue.slot)

    def _put(self, state: Arrays) -> None:
        self._pool._require_process()
        with self._pool._lock, self._pool._care:
            if self._queue.slot is None:
                raise StreamClosed(self._ended)
            self._pool._care.require()
            self._queue.start = state
            self._state()  # in place at once where nothing is under way

    def _tell_idle(self) -> None:
        if self._on_idle is None:
            return
        try:
            self._on_idle(self)
        except BaseException:  # SystemExit too: the pool's thread serves everyone else, and goes on
            logging.getLogger("rnn_runtime").exception("on_idle of a stream failed")


def _failed(error: BaseException) -> Error:
    return Error(f"the batch failed ({error!r}): the state is as it was")


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; expected 1 or more")


def _require_time(name: str, value: object, unit: str, zero: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    if not number or (value == 0 and not zero):
        raise InputError(f"{name} is {value!r}; expected {unit}")


def _require_timeout(timeout: object) -> None:
    if timeout is not None:
        _require_time("timeout", timeout, "seconds, 0 or more, or None", zero=True)
