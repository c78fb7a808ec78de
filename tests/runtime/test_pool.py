"""Pools: every stream has what it would have alone, whoever else is there, and whatever fails, ends or waits."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_runtime import (
    Error,
    InputError,
    Model,
    PoolFull,
    QueueFull,
    Result,
    StreamClosed,
    StreamPool,
    TensorSpec,
    _pool,
)
from rnn_runtime._model import load
from rnn_runtime._rows import Rows

SECONDS = 30  # until a test that would hang fails
NAMES = ("rnn", "packed", "words", "peeks")


@pytest.fixture(scope="module")
def models(files: Path) -> dict[str, Model]:
    return {name: load(files / f"{name}.onnx", threads=1) for name in NAMES}


@pytest.fixture(scope="module")
def rnn(models: dict[str, Model]) -> Model:
    return models["rnn"]


@pytest.fixture(scope="module")
def words(models: dict[str, Model]) -> Model:
    return models["words"]


def chunk_of(name: str, steps: int, seed: int) -> Any:
    """What one stream of the fixture of this name pushes: `steps` steps, another for each seed."""
    random = np.random.default_rng(seed)
    if name == "words":
        return {"ids": random.integers(0, 5, (1, steps)), "gain": random.standard_normal(1).astype(np.float32)}
    return random.standard_normal((steps, 1, 4)).astype(np.float32)


def equal(name: str, got: Result, want: Result) -> None:
    assert list(got) == list(want)
    for output in want:
        assert got[output].shape == want[output].shape
        # The LSTM operator gives the same bits in any batch; the vanilla RNN is a rounding off.
        np.testing.assert_allclose(got[output], want[output], rtol=0, atol=0 if name == "words" else 1e-6)


class Alone:
    """A stream that has the model to itself: `Model.run`, the state carried by hand."""

    def __init__(self, model: Model) -> None:
        self._model = model
        shapes = {state.input: model.signature.input(state.input) for state in model.signature.states}
        self._zeros = {name: np.zeros((1, 1, 3), spec.dtype) for name, spec in shapes.items()}
        self.state = self._zeros

    def push(self, chunk: Any) -> Result:
        result = self._model.run(chunk, state=self.state)
        self.state = result.state
        return result

    def reset(self) -> None:
        self.state = self._zeros


class Gate:
    """Stands before ONNX Runtime: runs wait while it is shut, and say when they are there."""

    def __init__(self, pool: StreamPool) -> None:
        self._run, pool._rows._run = pool._rows._run, self.run
        self._open, self._there = threading.Event(), threading.Semaphore(0)
        self._open.set()
        self.sizes: list[int] = []
        self.fail: Callable[[dict[str, np.ndarray]], bool] = lambda feeds: False

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._there.release()
        assert self._open.wait(SECONDS)
        self.sizes.append(next(iter(feeds.values())).shape[0 if "ids" in feeds else 1])
        if self.fail(feeds):
            raise RuntimeError("out of memory")
        return self._run(feeds)

    def shut(self) -> None:
        self._open.clear()
        while self._there.acquire(blocking=False):
            pass

    def until_there(self) -> None:
        assert self._there.acquire(timeout=SECONDS)

    def open(self) -> None:
        self._open.set()


@contextmanager
def gated(model: Model, capacity: int = 4, **options: Any) -> Iterator[tuple[StreamPool, Gate]]:
    with StreamPool(model, capacity, **{"max_wait_ms": 0, **options}) as pool:
        gate = Gate(pool)
        try:
            yield pool, gate
        finally:
            gate.open()


def result(future: Future[Result]) -> Result:
    return future.result(SECONDS)


# Alone or together


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_opened_pushed_and_closed_each_stream_is_as_if_alone(models: dict[str, Model], name: str) -> None:
    model = models[name]
    actions = st.one_of(
        st.tuples(st.just("push"), st.integers(0, 3), st.integers(1, 5)),
        st.tuples(st.just("push"), st.integers(0, 3), st.just(1)),
        st.tuples(st.sampled_from(["open", "close", "reset", "set", "wait"]), st.integers(0, 3), st.just(0)),
    )

    @settings(max_examples=60)
    @given(st.lists(actions, max_size=40), st.integers(1, 4), st.sampled_from([0, 1]))
    def check(actions: list[tuple[str, int, int]], max_batch: int, max_wait_ms: float) -> None:
        with StreamPool(model, 4, max_wait_ms=max_wait_ms, max_batch=max_batch, max_queue=400) as pool:
            pairs: dict[int, tuple[Any, Alone]] = {}
            promised: list[tuple[Future[Result], Result]] = []
            for seed, (what, who, steps) in enumerate(actions):
                if what == "open" or who not in pairs:
                    if who in pairs:
                        wait_for_all([future for future, _ in promised])
                        pairs[who][0].close()
                    pairs[who] = pool.open(), Alone(model)
                stream, alone = pairs[who]
                if what == "push":
                    chunk = chunk_of(name, steps, seed)
                    promised.append((stream.submit(chunk), alone.push(chunk)))
                elif what == "reset":
                    stream.reset()
                    alone.reset()
                elif what == "set":
                    state = {key: np.full_like(array, seed / 64) for key, array in alone.state.items()}
                    stream.state = alone.state = state
                elif what == "wait":
                    wait_for_all([future for future, _ in promised])
                elif what == "close":
                    wait_for_all([future for future, _ in promised])
                    stream.close()
                    del pairs[who]
            for future, want in promised:
                equal(name, result(future), want)
            for stream, alone in pairs.values():
                for key, array in alone.state.items():
                    np.testing.assert_allclose(stream.state[key], array, rtol=0, atol=1e-6)

    check()


def test_the_test_above_can_fail(rnn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "store", lambda self, piece: None)
    with StreamPool(rnn, 1) as pool, pool.open() as stream:
        alone = Alone(rnn)
        for seed in range(2):
            got, want = (s.push(chunk_of("rnn", 2, seed)) for s in (stream, alone))
        with pytest.raises(AssertionError):
            equal("rnn", got, want)


def together(pool: StreamPool, gate: Gate, name: str, lengths: list[int], seed: int = 0) -> list[Future[Result]]:
    """One chunk of each stream, which all wait when the pool's thread comes to look."""
    streams = list(pool._streams.values())
    gate.shut()
    first = streams[0].submit(chunk_of(name, 1, 1000 + seed))
    gate.until_there()
    futures = [s.submit(chunk_of(name, n, seed + k)) for k, (s, n) in enumerate(zip(streams, lengths, strict=True))]
    gate.sizes.clear()
    gate.open()
    return [first, *futures]


@pytest.mark.parametrize(
    ("name", "lengths", "sizes"),
    [
        ("rnn", [2, 2, 2, 2], [4]),
        ("rnn", [2, 1, 2, 1], [2, 2]),  # no lengths in this graph: one batch for each shape
        ("packed", [2, 1, 3, 1], [4]),
        ("words", [2, 1, 3, 1], [4]),
        ("packed", [40, 1, 1, 1], [4]),  # 160 steps where 43 were pushed: 4 times as many at most
    ],
)
def test_what_has_arrived_is_one_batch(
    models: dict[str, Model], name: str, lengths: list[int], sizes: list[int]
) -> None:
    with gated(models[name]) as (pool, gate):
        pool._rows._trials = 0  # padding is trusted
        alone = [(pool.open(), Alone(models[name]))[1] for _ in lengths]
        futures = together(pool, gate, name, lengths)
        want = [alone[0].push(chunk_of(name, 1, 1000))]
        want += [s.push(chunk_of(name, n, k)) for k, (s, n) in enumerate(zip(alone, lengths, strict=True))]
        for future, one in zip(futures, want, strict=True):
            equal(name, result(future), one)
        assert gate.sizes == [1, *sizes]


def test_a_long_chunk_is_not_padded_onto_many_short_ones(models: dict[str, Model]) -> None:
    with gated(models["packed"], 8) as (pool, gate):
        pool._rows._trials = 0
        for _ in range(8):
            pool.open()
        wait_for_all(together(pool, gate, "packed", [1, 100, *[1] * 6]))
        assert gate.sizes == [1, 4, 4]


@pytest.mark.parametrize(("name", "neutral"), [("packed", True), ("words", True), ("peeks", False)])
def test_padding_is_tried_before_it_is_trusted(models: dict[str, Model], name: str, neutral: bool) -> None:
    with gated(models[name], 3) as (pool, gate):
        alone = [(pool.open(), Alone(models[name]))[1] for _ in range(3)]
        for seed in range(0, 60, 10):
            futures = together(pool, gate, name, [3, 1, 2], seed)
            want = [alone[0].push(chunk_of(name, 1, 1000 + seed))]
            want += [s.push(chunk_of(name, n, seed + k)) for k, (s, n) in enumerate(zip(alone, [3, 1, 2], strict=True))]
            for future, one in zip(futures, want, strict=True):
                equal(name, result(future), one)
        assert gate.sizes == ([1, 3] if neutral else [1, 1, 1, 1])


def test_padding_that_is_not_neutral_would_be_wrong(models: dict[str, Model]) -> None:
    with gated(models["peeks"], 2) as (pool, gate):
        pool._rows._trials = 0  # what the trials keep from happening
        pool.open(), pool.open()
        futures = together(pool, gate, "peeks", [3, 1])
        alone = Alone(models["peeks"])
        with pytest.raises(AssertionError):
            equal("peeks", result(futures[2]), alone.push(chunk_of("peeks", 1, 1)))


def test_an_output_as_long_as_the_longest_row_is_cut_to_its_own(models: dict[str, Model]) -> None:
    model, signature = models["packed"], models["packed"].signature
    output = TensorSpec("output", "float32", ("max(lengths)", "batch", 3))
    model = dataclasses.replace(model, signature=dataclasses.replace(signature, outputs=(output, signature.outputs[1])))
    with gated(model, 2) as (pool, gate):
        pool._rows._trials = 0
        pool.open(), pool.open()
        futures = together(pool, gate, "packed", [4, 2])
        assert [result(future)["output"].shape for future in futures] == [(1, 1, 3), (4, 1, 3), (2, 1, 3)]
        assert gate.sizes == [1, 2]


@pytest.mark.parametrize("axis", ["2*sequence", "found"])
def test_an_output_whose_end_is_unknown_is_not_padded(models: dict[str, Model], axis: str) -> None:
    model, signature = models["packed"], models["packed"].signature
    output = TensorSpec("output", "float32", (axis, "batch", 3))
    model = dataclasses.replace(model, signature=dataclasses.replace(signature, outputs=(output, signature.outputs[1])))
    with gated(model, 2) as (pool, gate):
        pool.open(), pool.open()
        wait_for_all(together(pool, gate, "packed", [4, 2]))
        assert gate.sizes == [1, 1, 1]


def test_who_says_nothing_keeps_the_state(rnn: Model) -> None:
    with StreamPool(rnn, 2, max_wait_ms=0) as pool:
        talker, listener = pool.open(), pool.open()
        listener.push(chunk_of("rnn", 3, 1))
        before = listener.state
        for seed in range(5):
            talker.push(chunk_of("rnn", 1, seed))
        np.testing.assert_array_equal(listener.state["h_0"], before["h_0"])
        assert before["h_0"].any()


def test_a_result_stays_as_it_was_after_later_pushes_and_is_nobody_elses(rnn: Model) -> None:
    with gated(rnn, 2) as (pool, gate):
        pool.open(), pool.open()
        _, mine, theirs = map(result, together(pool, gate, "rnn", [2, 2]))
        kept = {name: array.copy() for name, array in mine.items()}
        theirs["output"][...] = 7
        wait_for_all(together(pool, gate, "rnn", [2, 2], seed=50))
        for name, array in mine.items():
            np.testing.assert_array_equal(array, kept[name])


def test_a_chunk_may_be_overwritten_once_it_is_submitted(rnn: Model) -> None:
    with gated(rnn, 1) as (pool, gate):
        stream = pool.open()
        gate.shut()
        chunk = chunk_of("rnn", 3, 1)
        future = stream.submit(chunk)
        want = rnn.run(chunk)
        gate.until_there()
        later = stream.submit(chunk)
        chunk[...] = 9
        gate.open()
        equal("rnn", result(future), want)
        equal("rnn", result(later), rnn.run(chunk_of("rnn", 3, 1), state=want.state))


@pytest.mark.parametrize("form", ["dict", "tuple", "list"])
def test_inputs_of_several_names_are_taken_as_run_takes_them(words: Model, form: str) -> None:
    given = [chunk_of("words", steps, steps) for steps in (2, 3, 2)]
    turned = {"dict": dict, "tuple": lambda d: tuple(d.values()), "list": lambda d: [a.tolist() for a in d.values()]}
    if form == "list":
        turned["list"] = lambda d: [d["ids"].tolist(), d["gain"]]
    alone = Alone(words)
    with StreamPool(words, 1) as pool, pool.open() as stream:
        for chunk in given:
            equal("words", stream.push(turned[form](chunk)), alone.push(chunk))


def test_a_chunk_of_any_layout_in_memory_is_taken(rnn: Model) -> None:
    x = np.random.default_rng(0).standard_normal((8, 6, 4)).astype(np.float32)
    with StreamPool(rnn, 1) as pool, pool.open() as stream:
        alone = Alone(rnn)
        for chunk in (x[:, :1], x[::2, 1:2], np.asfortranarray(x[:, 2:3]), x[:, 3:4].tolist() and x[::-1, 3:4]):
            equal("rnn", stream.push(chunk), alone.push(np.ascontiguousarray(chunk)))


# From threads and from asyncio


@pytest.mark.parametrize("name", NAMES)
def test_threads_mix_up_nothing(models: dict[str, Model], name: str) -> None:
    lengths = [1, 1, 1, 2, 1, 4, 1, 3] * 8

    def talk(seed: int) -> None:
        alone = Alone(models[name])
        with pool.open() as stream:
            for k, steps in enumerate(lengths):
                chunk = chunk_of(name, steps, 1000 * seed + k)
                equal(name, stream.push(chunk), alone.push(chunk))

    with StreamPool(models[name], 8, max_wait_ms=0.5) as pool, ThreadPoolExecutor(8) as threads:
        list(threads.map(talk, range(16)))
        assert pool.metrics().chunks == 16 * len(lengths)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_of_asyncio_mix_up_nothing(models: dict[str, Model], name: str) -> None:
    lengths = [1, 1, 1, 2, 1, 4, 1, 3] * 4

    async def talk(pool: StreamPool, seed: int) -> None:
        alone = Alone(models[name])
        with pool.open() as stream:
            for k, steps in enumerate(lengths):
                chunk = chunk_of(name, steps, 1000 * seed + k)
                equal(name, await stream.push_async(chunk), alone.push(chunk))

    async def main() -> None:
        with StreamPool(models[name], 8, max_wait_ms=0.5) as pool:
            await asyncio.wait_for(asyncio.gather(*(talk(pool, seed) for seed in range(8))), SECONDS)

    asyncio.run(main())


def test_the_event_loop_runs_on_while_a_batch_runs(rnn: Model) -> None:
    async def main() -> None:
        with gated(rnn, 1) as (pool, gate):
            gate.shut()
            task = asyncio.create_task(pool.open().push_async(chunk_of("rnn", 1, 0)))
            await asyncio.to_thread(gate.until_there)
            for _ in range(10):  # turns of the loop
                await asyncio.sleep(0)
            assert not task.done()
            gate.open()
            equal("rnn", await asyncio.wait_for(task, SECONDS), rnn.run(chunk_of("rnn", 1, 0)))

    asyncio.run(main())


def test_a_cancelled_task_takes_its_chunk_back(rnn: Model) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        with gated(rnn, 2) as (pool, gate):
            stream, alone = pool.open(), Alone(rnn)
            gate.shut()
            running = asyncio.create_task(stream.push_async(chunk_of("rnn", 1, 0)))
            await asyncio.to_thread(gate.until_there)
            waiting = asyncio.create_task(stream.push_async(chunk_of("rnn", 1, 1)))
            await asyncio.sleep(0)
            running.cancel()  # too late: it runs, and only the result is lost
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.open()
            alone.push(chunk_of("rnn", 1, 0))
            got = await asyncio.wait_for(stream.push_async(chunk_of("rnn", 1, 2)), SECONDS)
            equal("rnn", got, alone.push(chunk_of("rnn", 1, 2)))

    wrong: list[object] = []
    asyncio.run(main())
    assert wrong == []


def test_a_cancelled_future_takes_its_chunk_back_and_leaves_a_reset(rnn: Model) -> None:
    with gated(rnn, 1) as (pool, gate):
        stream = pool.open()
        gate.shut()
        stream.submit(chunk_of("rnn", 1, 0))
        gate.until_there()
        stream.reset()
        assert stream.submit(chunk_of("rnn", 1, 1)).cancel()
        last = stream.submit(chunk_of("rnn", 1, 2))
        gate.open()
        equal("rnn", result(last), rnn.run(chunk_of("rnn", 1, 2)))


def test_a_loop_that_is_gone_hinders_nobody(rnn: Model) -> None:
    with gated(rnn, 2) as (pool, gate):
        gate.shut()
        gone, stays = pool.open(), pool.open()
        loop = asyncio.new_event_loop()
        task = loop.create_task(gone.push_async(chunk_of("rnn", 1, 0)))
        loop.call_later(0, loop.stop)
        loop.run_forever()
        gate.until_there()
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        future = stays.submit(chunk_of("rnn", 1, 1))
        gate.open()
        equal("rnn", result(future), rnn.run(chunk_of("rnn", 1, 1)))


# Whose turn it is, and how long one waits


def schedule(streams: int, **options: Any) -> tuple[Any, list[Any]]:
    from rnn_runtime._schedule import Queue, Schedule

    known = {"max_batch": 8, "max_wait": 10.0, "max_queue": 100, "share": 100, "unequal": lambda: False}
    made = Schedule(**(known | options))
    made.streams = streams
    return made, [Queue(slot) for slot in range(streams)]


def push(plan: Any, queue: Any, now: float, key: str = "a", steps: int = 1) -> Any:
    from rnn_runtime._schedule import Chunk

    chunk = Chunk(queue, (), key, steps, now)
    assert plan.add(chunk)
    return chunk


def slots(batch: list[Any]) -> list[int]:
    return [chunk.owner.slot for chunk in batch]


@pytest.mark.parametrize(("now", "batch"), [(109.99, []), (110.0, [0, 2]), (200.0, [0, 2])])
def test_nobody_waits_longer_than_the_maximum(now: float, batch: list[int]) -> None:
    plan, queues = schedule(3)
    push(plan, queues[0], 100.0)
    push(plan, queues[2], 105.0)
    assert slots(plan.take(now)) == batch


def test_when_every_stream_has_spoken_nobody_waits() -> None:
    plan, queues = schedule(3)
    for queue in queues[:2]:
        push(plan, queue, 0.0)
    assert plan.take(0.0) == []
    push(plan, queues[2], 0.0, key="b")
    assert slots(plan.take(0.0)) == [0, 1]
    assert slots(plan.take(0.0)) == [2]  # nor does the rest of them, though the first are free again


def test_a_stream_that_ends_is_not_waited_for() -> None:
    plan, queues = schedule(2)
    push(plan, queues[0], 0.0)
    assert plan.take(0.0) == []
    plan.drop(queues[1])
    plan.streams -= 1
    assert slots(plan.take(0.0)) == [0]


def test_a_full_batch_does_not_wait() -> None:
    plan, queues = schedule(4, max_batch=2)
    push(plan, queues[1], 0.0)
    assert plan.take(0.0) == []
    push(plan, queues[3], 0.0, key="b")
    assert plan.take(0.0) == []  # two, but of two shapes
    push(plan, queues[0], 0.0)
    assert slots(plan.take(0.0)) == [1, 0]


def test_a_full_queue_does_not_wait() -> None:
    plan, queues = schedule(4, max_queue=2)
    push(plan, queues[1], 0.0)
    push(plan, queues[1], 0.0)
    assert slots(plan.take(0.0)) == [1]


def test_a_stream_has_one_chunk_in_a_batch_and_then_goes_to_the_back() -> None:
    plan, queues = schedule(2, max_batch=1)
    for _ in range(5):
        push(plan, queues[0], 0.0)
    order = []
    for turn in range(6):
        if turn == 2:
            push(plan, queues[1], 50.0)
        batch = plan.take(100.0)
        order += slots(batch)
        plan.finished(batch)
    assert order == [0, 0, 0, 1, 0, 0]


def test_a_shape_that_is_pushed_without_pause_shuts_out_no_other() -> None:
    plan, queues = schedule(3)
    for queue in queues:
        push(plan, queue, 0.0, key="b" if queue is queues[2] else "a")
    batch = plan.take(0.0)
    assert slots(batch) == [0, 1]
    push(plan, queues[0], 1.0)
    push(plan, queues[1], 1.0)
    plan.finished(batch)
    assert slots(plan.take(1.0)) == [2]


def test_a_stream_that_pushes_without_pause_does_not_hold_up_another(rnn: Model) -> None:
    order: list[str] = []
    with gated(rnn, 2, max_batch=1, max_queue=400) as (pool, gate):
        greedy, other = pool.open(), pool.open()
        gate.shut()
        futures = [greedy.submit(chunk_of("rnn", 1, k)) for k in range(100)]
        gate.until_there()
        futures.append(other.submit(chunk_of("rnn", 1, 0)))
        for k, future in enumerate(futures):
            future.add_done_callback(lambda _, k=k: order.append("other" if k == 100 else "greedy"))
        gate.open()
        wait_for_all(futures, SECONDS)
    assert order.index("other") == 1  # after the one that ran


# A full queue


def test_a_full_queue_says_so_and_takes_nothing(rnn: Model) -> None:
    with gated(rnn, 2, max_queue=4) as (pool, gate):
        stream, other, alone = pool.open(), pool.open(), Alone(rnn)
        gate.shut()
        futures = [stream.submit(chunk_of("rnn", 1, 0))]
        gate.until_there()
        futures += [stream.submit(chunk_of("rnn", 1, k)) for k in (1, 2)]
        with pytest.raises(
            QueueFull, match="2 chunks wait, 2 of them this stream's; the chunk was not taken"
        ) as caught:
            stream.push(chunk_of("rnn", 1, 9))
        assert caught.value.exit_code == 4
        theirs = other.submit(chunk_of("rnn", 1, 5))  # its share is its own
        gate.open()
        for k, future in enumerate(futures):
            equal("rnn", result(future), alone.push(chunk_of("rnn", 1, k)))
        equal("rnn", result(theirs), rnn.run(chunk_of("rnn", 1, 5)))
        assert pool.metrics().rejected == 1


def test_all_streams_together_have_no_more_than_the_queue_holds(rnn: Model) -> None:
    with gated(rnn, 4, max_queue=2) as (pool, gate):
        streams = [pool.open() for _ in range(4)]
        gate.shut()
        first = streams[0].submit(chunk_of("rnn", 1, 0))
        gate.until_there()
        waiting = [stream.submit(chunk_of("rnn", 1, 0)) for stream in streams[1:3]]
        with pytest.raises(QueueFull):
            streams[3].submit(chunk_of("rnn", 1, 0))
        gate.open()
        wait_for_all([first, *waiting])
        streams[3].push(chunk_of("rnn", 1, 0))


def test_a_push_may_wait_for_a_place(rnn: Model) -> None:
    with gated(rnn, 1, max_queue=1) as (pool, gate), ThreadPoolExecutor(1) as thread:
        stream, alone = pool.open(), Alone(rnn)
        gate.shut()
        futures = [stream.submit(chunk_of("rnn", 1, 0))]
        gate.until_there()
        futures.append(stream.submit(chunk_of("rnn", 1, 1)))
        with pytest.raises(QueueFull):
            stream.push(chunk_of("rnn", 1, 9), timeout=0.001)
        futures.append(thread.submit(stream.push, chunk_of("rnn", 1, 2), None))
        while not stream._queue.waiting:
            pass
        gate.open()
        for k, future in enumerate(futures):
            equal("rnn", result(future), alone.push(chunk_of("rnn", 1, k)))


def test_a_task_may_wait_for_a_place(rnn: Model) -> None:
    async def main() -> None:
        with gated(rnn, 1, max_queue=1) as (pool, gate):
            stream, alone = pool.open(), Alone(rnn)
            gate.shut()
            tasks = [asyncio.create_task(stream.push_async(chunk_of("rnn", 1, 0)))]
            await asyncio.to_thread(gate.until_there)
            tasks.append(asyncio.create_task(stream.push_async(chunk_of("rnn", 1, 1))))
            await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                await stream.push_async(chunk_of("rnn", 1, 9))
            with pytest.raises(QueueFull):
                await stream.push_async(chunk_of("rnn", 1, 9), timeout=0.001)
            left = asyncio.create_task(stream.push_async(chunk_of("rnn", 1, 9), timeout=None))
            tasks.append(asyncio.create_task(stream.push_async(chunk_of("rnn", 1, 2), timeout=SECONDS)))
            await asyncio.sleep(0)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            gate.open()
            for k, task in enumerate(tasks):
                equal("rnn", await asyncio.wait_for(task, SECONDS), alone.push(chunk_of("rnn", 1, k)))

    asyncio.run(main())


def test_a_reset_before_a_chunk_that_gave_up_is_for_the_next(rnn: Model) -> None:
    with gated(rnn, 1, max_queue=1) as (pool, gate):
        stream = pool.open()
        gate.shut()
        stream.submit(chunk_of("rnn", 1, 0))
        gate.until_there()
        queued = stream.submit(chunk_of("rnn", 1, 1))
        stream.reset()
        for timeout in (0, 0.001):
            with pytest.raises(QueueFull):
                stream.push(chunk_of("rnn", 1, 2), timeout)
        gate.open()
        result(queued)
        equal("rnn", stream.push(chunk_of("rnn", 1, 3)), rnn.run(chunk_of("rnn", 1, 3)))


# Errors


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (np.zeros((1, 1, 5), np.float32), "the model takes 4"),
        (np.zeros((1, 1, 4)), "has dtype float64"),
        (np.zeros((0, 1, 4), np.float32), "size 0 along 'sequence'"),
        (np.zeros((1, 2, 4), np.float32), "the chunk has 2 rows along 'batch'; chunks of a pool have batch 1"),
        (np.zeros(4, np.float32), "has 1 dimensions"),
        ({"y": np.zeros((1, 1, 4), np.float32)}, "there is no input 'y'"),
        ({"x": np.zeros((1, 1, 4), np.float32), "h_0": np.zeros((1, 1, 3), np.float32)}, "'h_0' cannot be pushed"),
        ("x", "the inputs are a str"),
    ],
)
def test_a_chunk_that_does_not_fit_is_its_owners_alone(rnn: Model, chunk: Any, text: str) -> None:
    with gated(rnn, 2) as (pool, gate):
        bad, good = pool.open(), pool.open()
        bad.push(chunk_of("rnn", 2, 0))
        before = bad.state
        gate.shut()
        future = good.submit(chunk_of("rnn", 2, 1))
        for _ in range(2):  # what was refused once is refused again
            with pytest.raises(InputError, match=text):
                bad.submit(chunk)
        gate.open()
        equal("rnn", result(future), rnn.run(chunk_of("rnn", 2, 1)))
        np.testing.assert_array_equal(bad.state["h_0"], before["h_0"])
        assert pool.metrics().chunks == 2


@pytest.mark.parametrize(("steps", "fits"), [(1, False), (2, True)])
def test_a_chunk_shorter_than_the_model_takes_is_refused(models: dict[str, Model], steps: int, fits: bool) -> None:
    signature = models["packed"].signature
    lengths = dataclasses.replace(signature.lengths, minimum=2)
    model = dataclasses.replace(models["packed"], signature=dataclasses.replace(signature, lengths=lengths))
    with StreamPool(model, 1) as pool, pool.open() as stream:
        if fits:
            stream.push(chunk_of("packed", steps, 0))
        else:
            with pytest.raises(InputError, match="the model takes lengths of 2 or more"):
                stream.push(chunk_of("packed", steps, 0))


def test_lengths_are_not_pushed(words: Model) -> None:
    text = "'lengths' cannot be pushed: a chunk is as long as its arrays"
    with StreamPool(words, 1) as pool, pytest.raises(InputError, match=text):
        pool.open().push(chunk_of("words", 3, 0) | {"lengths": [2]})


def test_a_run_that_fails_is_the_fault_of_one(words: Model) -> None:
    with gated(words, 3) as (pool, gate):
        streams = [pool.open() for _ in range(3)]
        alone = [Alone(words) for _ in range(3)]
        gate.shut()
        streams[2].submit(chunk_of("words", 2, 5))
        gate.until_there()
        alone[2].push(chunk_of("words", 2, 5))
        bad = chunk_of("words", 2, 0) | {"ids": np.array([[1, 77]])}
        futures = [s.submit(bad if k == 1 else chunk_of("words", 2, k)) for k, s in enumerate(streams)]
        gate.open()
        with pytest.raises(Error, match=r"such as an unknown id.*the state is as it was"):
            result(futures[1])
        for k in (0, 2):
            equal("words", result(futures[k]), alone[k].push(chunk_of("words", 2, k)))
        for k, stream in enumerate(streams):
            equal("words", stream.push(chunk_of("words", 2, 9)), alone[k].push(chunk_of("words", 2, 9)))
        assert pool.metrics().errors == 1


def test_a_failure_of_onnx_runtime_reaches_those_in_the_batch_and_leaves_their_states(rnn: Model) -> None:
    with gated(rnn, 3) as (pool, gate):
        streams = [pool.open() for _ in range(3)]
        for k, stream in enumerate(streams):
            stream.push(chunk_of("rnn", 2, k))
        before = [stream.state["h_0"] for stream in streams]
        gate.fail = lambda feeds: True
        futures = [stream.submit(chunk_of("rnn", 1, 7)) for stream in streams[:2]]
        for future in futures:
            with pytest.raises(Error, match=r"out of memory.*the state is as it was"):
                result(future)
        gate.fail = lambda feeds: False
        for stream, state in zip(streams, before, strict=True):
            np.testing.assert_array_equal(stream.state["h_0"], state)
            equal("rnn", stream.push(chunk_of("rnn", 1, 7)), rnn.run(chunk_of("rnn", 1, 7), state={"h_0": state}))


def test_no_memory_for_the_results_ends_nothing_but_the_batch(rnn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Rows, piece: object) -> None:
        raise MemoryError("no memory")

    with StreamPool(rnn, 1) as pool, pool.open() as stream:
        with monkeypatch.context() as patch, pytest.raises(Error, match="the batch failed"):
            patch.setattr(Rows, "results", fail)
            stream.push(chunk_of("rnn", 1, 0))
        equal("rnn", stream.push(chunk_of("rnn", 1, 0)), rnn.run(chunk_of("rnn", 1, 0)))


def test_a_graph_that_loses_rows_is_found_out(rnn: Model) -> None:
    with gated(rnn, 2) as (pool, gate):
        run = gate._run
        gate._run = lambda feeds: {name: array[:, :0] for name, array in run(feeds).items()}
        with pytest.raises(Error, match="the output 'output' has 0 rows for 1 streams"):
            pool.open().push(chunk_of("rnn", 1, 0))


def test_a_state_that_changes_its_shape_is_found_out(rnn: Model) -> None:
    with gated(rnn, 2) as (pool, gate):
        run, stream = gate._run, pool.open()
        gate._run = lambda feeds: {name: array[..., :2] for name, array in run(feeds).items()}
        with pytest.raises(Error, match=r"'h_0' went in with shape \(1, 1, 3\) and came out with \(1, 1, 2\)"):
            stream.push(chunk_of("rnn", 1, 0))
        gate._run = run
        equal("rnn", stream.push(chunk_of("rnn", 1, 0)), rnn.run(chunk_of("rnn", 1, 0)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"outputs": [("output", ("sequence", 1, 3)), ("h_n", (1, "batch", 3))]}, "the output 'output' has the axes"),
        ({"inputs": [("x", ("sequence", 1, 4)), ("h_0", (1, "batch", 3))]}, "the input 'x' has the axes"),
        ({"inputs": [("x", ("sequence", "batch", 4)), ("h_0", (1, 1, 3))]}, "the model's states are of a fixed size"),
        ({"outputs": [("output", ("sequence", "batch", 3)), ("h_n", (1, "rows", 3))]}, "the output 'h_n' has the axes"),
    ],
)
def test_a_tensor_without_a_batch_axis_is_refused(rnn: Model, changes: dict[str, Any], text: str) -> None:
    specs = {side: tuple(TensorSpec(n, "float32", axes) for n, axes in given) for side, given in changes.items()}
    model = dataclasses.replace(rnn, signature=dataclasses.replace(rnn.signature, **specs))
    before = threading.active_count()
    with pytest.raises(InputError, match=text):
        StreamPool(model, 2)
    assert threading.active_count() == before


def test_a_context_is_refused(rnn: Model) -> None:
    model = dataclasses.replace(rnn, _options=dataclasses.replace(rnn._options, context={"x": (0, 2)}))
    with pytest.raises(InputError, match="a pool keeps no context of an input"):
        StreamPool(model, 2)


def test_nan_is_refused_where_the_model_was_loaded_so(files: Path) -> None:
    model = load(files / "rnn.onnx", constants={}, nan="raise", threads=1)
    with StreamPool(model, 2, max_wait_ms=0) as pool, pool.open() as stream:
        chunk = chunk_of("rnn", 2, 0)
        want = Alone(model).push(chunk)
        equal("rnn", stream.push(chunk), want)
        chunk[1, 0, 2] = np.nan
        for form in (chunk, {"x": chunk}, {"x": chunk}):
            with pytest.raises(InputError, match=r"x\[1, 0, 2\] is NaN"):
                stream.push(form)
        with pytest.raises(InputError, match="is NaN"):
            stream.state = {"h_0": np.full((1, 1, 3), np.nan, np.float32)}
        np.testing.assert_array_equal(stream.state["h_0"], want["h_n"])


def test_a_model_without_state_has_no_pool(files: Path) -> None:
    with pytest.raises(InputError, match="the model has no state to carry"):
        StreamPool(load(files / "two_inputs.onnx"), 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"capacity": 0}, "capacity is 0; expected 1 or more"),
        ({"capacity": True}, "capacity is True"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"max_queue": 1.5}, "max_queue is 1.5"),
        ({"max_wait_ms": -1}, "max_wait_ms is -1; expected milliseconds, 0 or more"),
        ({"max_wait_ms": float("inf")}, "max_wait_ms is inf"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms is nan"),
        ({"idle_timeout": 0}, "idle_timeout is 0; expected seconds above 0, or None"),
        ({"idle_timeout": "1"}, "idle_timeout is '1'"),
    ],
)
def test_numbers_out_of_range_are_refused(rnn: Model, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        StreamPool(rnn, **{"capacity": 2, **options})


@pytest.mark.parametrize("timeout", [-1, "1", float("nan")])
def test_a_timeout_that_is_none_is_refused(rnn: Model, timeout: Any) -> None:
    with StreamPool(rnn, 1) as pool, pytest.raises(InputError, match="timeout is"):
        pool.open().push(chunk_of("rnn", 1, 0), timeout)


# States


def test_a_stream_goes_on_from_a_state_that_was_kept(rnn: Model) -> None:
    with StreamPool(rnn, 1) as pool:
        with pool.open() as first:
            one = first.push(chunk_of("rnn", 3, 0))
        with pool.open(state=first.state) as second:  # read after it ended
            equal("rnn", second.push(chunk_of("rnn", 3, 1)), rnn.run(chunk_of("rnn", 3, 1), state=one.state))
        with pool.open() as third:  # the slot is as new
            assert not third.state["h_0"].any()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "the state 'h_0' is missing"),
        ({"h": np.zeros((1, 1, 3), np.float32)}, "there is no state 'h': the states are h_0"),
        ({"h_0": np.zeros((1, 2, 3), np.float32)}, "size 2 in dimension 1; the model takes 1"),
        ({"h_0": np.zeros((1, 1, 3))}, "has dtype float64"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(rnn: Model, state: dict[str, Any], text: str) -> None:
    with StreamPool(rnn, 1) as pool:
        with pytest.raises(InputError, match=text):
            pool.open(state=state)
        with pool.open() as stream:  # no slot was lost
            stream.push(chunk_of("rnn", 1, 0))
            before = stream.state["h_0"]
            with pytest.raises(InputError, match=text):
                stream.state = state
            np.testing.assert_array_equal(stream.state["h_0"], before)


def test_a_reset_takes_its_place_among_the_pushes(rnn: Model) -> None:
    with gated(rnn, 1) as (pool, gate):
        stream, alone = pool.open(), Alone(rnn)
        gate.shut()
        futures = [stream.submit(chunk_of("rnn", 1, k)) for k in range(2)]
        gate.until_there()
        stream.reset()
        futures += [stream.submit(chunk_of("rnn", 1, k)) for k in range(2)]
        stream.reset()
        gate.open()
        want = [alone.push(chunk_of("rnn", 1, k)) for k in range(2)] * 2
        for future, one in zip(futures, want, strict=True):
            equal("rnn", result(future), one)
        while stream._queue.busy:
            pass
        assert not stream.state["h_0"].any()


# The end


def test_a_pool_that_is_full_says_so(rnn: Model) -> None:
    with StreamPool(rnn, 2) as pool:
        first, _ = pool.open(), pool.open()
        with pytest.raises(PoolFull, match="2 streams are open, the pool's capacity") as caught:
            pool.open()
        assert caught.value.exit_code == 4
        first.close()
        first.close()
        pool.open()
        with pytest.raises(PoolFull):
            pool.open()


def test_a_stream_that_ends_answers_those_who_wait(rnn: Model) -> None:
    with gated(rnn, 2) as (pool, gate), ThreadPoolExecutor(1) as thread:
        stream = pool.open()
        gate.shut()
        running = stream.submit(chunk_of("rnn", 1, 0))
        gate.until_there()
        pushed = thread.submit(stream.push, chunk_of("rnn", 1, 1))
        while not stream._queue.chunks:
            pass
        stream.close()
        with pytest.raises(StreamClosed, match="the stream has ended: it was closed"):
            pushed.result(SECONDS)
        with pytest.raises(StreamClosed):
            stream.push(chunk_of("rnn", 1, 2))
        with pytest.raises(StreamClosed):
            stream.reset()
        heir = pool.open()  # in the same slot, while the batch of the first still runs
        gate.open()
        equal("rnn", result(running), rnn.run(chunk_of("rnn", 1, 0)))
        assert not heir.state["h_0"].any()
        equal("rnn", heir.push(chunk_of("rnn", 1, 3)), rnn.run(chunk_of("rnn", 1, 3)))


def test_a_stream_that_ends_while_its_batch_runs_takes_no_other_along(rnn: Model) -> None:
    with StreamPool(rnn, 3, max_wait_ms=60_000) as pool:  # only when all have spoken
        gate = Gate(pool)
        streams = [pool.open() for _ in range(3)]
        gate.shut()
        futures = [stream.submit(chunk_of("rnn", 2, k)) for k, stream in enumerate(streams)]
        gate.until_there()
        streams[1].close()
        heir = pool.open()
        gate.open()
        for k, future in enumerate(futures):
            equal("rnn", result(future), rnn.run(chunk_of("rnn", 2, k)))
        assert gate.sizes == [3]
        for k in (0, 2):
            np.testing.assert_array_equal(streams[k].state["h_0"], result(futures[k])["h_n"])
        assert not heir.state["h_0"].any()


def test_closing_answers_everyone_and_leaves_no_thread(rnn: Model) -> None:
    before = set(threading.enumerate())
    pool = StreamPool(rnn, 2, max_wait_ms=0, max_queue=2)
    gate = Gate(pool)
    streams = [pool.open(), pool.open()]
    gate.shut()
    with ThreadPoolExecutor(4) as threads:
        running = streams[0].submit(chunk_of("rnn", 1, 0))
        gate.until_there()
        waiting = [threads.submit(stream.push, chunk_of("rnn", 1, 1)) for stream in streams]
        while pool.metrics().queued < 2:
            pass
        waiting.append(threads.submit(streams[0].push, chunk_of("rnn", 1, 2), None))  # for a place
        while not streams[0]._queue.waiting:
            pass
        closing = threads.submit(pool.close)
        for future in waiting:
            with pytest.raises(StreamClosed, match="its pool was closed"):
                future.result(SECONDS)
        gate.open()
        closing.result(SECONDS)
    equal("rnn", result(running), rnn.run(chunk_of("rnn", 1, 0)))
    assert set(threading.enumerate()) == before
    pool.close()
    with pytest.raises(StreamClosed, match="the pool is closed"):
        pool.open()
    with pytest.raises(StreamClosed, match="its pool was closed"):
        streams[1].push(chunk_of("rnn", 1, 0))
    assert repr(pool) == "StreamPool(0 of 2 streams, closed)"


def test_closing_answers_tasks(rnn: Model) -> None:
    async def main() -> None:
        with gated(rnn, 1, max_queue=1) as (pool, gate):
            stream = pool.open()
            gate.shut()
            running = asyncio.create_task(stream.push_async(chunk_of("rnn", 1, 0)))
            await asyncio.to_thread(gate.until_there)
            waiting = [asyncio.create_task(stream.push_async(chunk_of("rnn", 1, k), timeout=None)) for k in (1, 2)]
            await asyncio.sleep(0)
            stream.close()
            for task in waiting:
                with pytest.raises(StreamClosed):
                    await asyncio.wait_for(task, SECONDS)
            gate.open()
            await asyncio.wait_for(running, SECONDS)

    asyncio.run(main())


def test_a_callback_may_close_the_pool_but_not_wait_for_it(rnn: Model) -> None:
    found: list[object] = []
    done = threading.Event()
    pool = StreamPool(rnn, 1, max_wait_ms=0)
    gate = Gate(pool)
    stream = pool.open()
    gate.shut()
    future = stream.submit(chunk_of("rnn", 1, 0))

    def callback(_: object) -> None:
        try:
            stream.push(chunk_of("rnn", 1, 0))
        except Error as error:
            found.append(str(error))
        pool.close()
        done.set()

    future.add_done_callback(callback)
    gate.open()
    assert done.wait(SECONDS)
    assert found == ["the pool's own thread cannot wait for itself: use submit in on_idle and in a future's callback"]
    pool._worker.join(SECONDS)
    assert not pool._worker.is_alive()


class Clock:
    """Stands for the module `time`; ticks when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_who_is_idle_is_ended_and_told(rnn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_pool, "time", clock)
    told: list[object] = []
    ended = threading.Event()

    def tell(stream: object) -> None:
        told.append(stream)
        ended.set()

    with StreamPool(rnn, 2, max_wait_ms=0, idle_timeout=10) as pool:
        talker, sleeper = pool.open(on_idle=tell), pool.open(on_idle=tell)
        last = sleeper.push(chunk_of("rnn", 1, 0)).state
        clock.now = 109.9
        talker.push(chunk_of("rnn", 1, 0))
        sleeper.state  # noqa: B018
        assert pool.metrics().streams == 2  # 9.9 s are not yet too long
        clock.now = 110.0
        talker.push(chunk_of("rnn", 1, 1))  # the pool's thread looks around
        assert ended.wait(SECONDS)
        assert told == [sleeper]
        with pytest.raises(StreamClosed, match="there was no push for 10 s: open another"):
            sleeper.push(chunk_of("rnn", 1, 1))
        np.testing.assert_array_equal(sleeper.state["h_0"], last["h_0"])
        assert (pool.metrics().streams, pool.metrics().idle) == (1, 1)
        pool.open()  # the slot is free
        talker.push(chunk_of("rnn", 1, 2))


def test_the_pool_wakes_up_by_itself_for_who_is_idle(rnn: Model) -> None:
    ended = threading.Event()
    with StreamPool(rnn, 1, idle_timeout=0.02) as pool:
        pool.open(on_idle=lambda stream: ended.set())
        assert ended.wait(SECONDS)


def test_a_stream_that_waits_for_its_turn_is_not_idle(rnn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_pool, "time", clock)
    with gated(rnn, 2, idle_timeout=10) as (pool, gate):
        first, second = pool.open(), pool.open()
        gate.shut()
        futures = [first.submit(chunk_of("rnn", 1, 0))]
        gate.until_there()
        futures.append(second.submit(chunk_of("rnn", 1, 0)))
        clock.now = 500.0
        gate.open()
        wait_for_all(futures)
        assert all(future.exception() is None for future in futures)


def test_a_callback_that_fails_ends_nobody_else(rnn: Model, caplog: pytest.LogCaptureFixture) -> None:
    def fail(stream: object) -> None:
        failed.set()
        raise RuntimeError("the callback's own")

    failed = threading.Event()
    with StreamPool(rnn, 2, idle_timeout=0.02) as pool:
        pool.open(on_idle=fail)
        assert failed.wait(SECONDS)
        pool.open().push(chunk_of("rnn", 1, 0))
    assert "on_idle of a stream failed" in caplog.text
    assert "the callback's own" in caplog.text


FORK = """
import os, sys, numpy as np, rnn_runtime
pool = rnn_runtime.StreamPool(rnn_runtime.load(sys.argv[1], threads=1), 2)
stream, x = pool.open(), np.ones((1, 1, 4), np.float32)
stream.push(x)
if os.fork() == 0:
    for call in (pool.open, pool.metrics, stream.reset, lambda: stream.push(x)):
        try:
            call()
        except rnn_runtime.Error as error:
            print(error, flush=True)
    pool.close()
    os._exit(0)
os.wait()
print(stream.push(x)["output"].shape)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork on this system")
def test_a_pool_does_not_go_through_a_fork(files: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(files / "rnn.onnx")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done.stderr
    assert all("the pool was made before this process was forked" in line for line in lines[:4])
    assert lines[4] == "(1, 1, 3)"


FORGOTTEN = """
import atexit, sys, numpy as np, rnn_runtime
atexit.register(lambda: print(stream._pool))
stream = rnn_runtime.StreamPool(rnn_runtime.load(sys.argv[1], threads=1), 2).open()
print(stream.push(np.ones((1, 1, 4), np.float32))["output"].shape)
"""


def test_a_program_ends_though_it_forgot_to_close(files: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN, str(files / "rnn.onnx")], capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 1, 3)\nStreamPool(0 of 2 streams, closed)\n", "")


# Metrics


def test_metrics_count_what_happened(rnn: Model) -> None:
    with gated(rnn, 3) as (pool, gate):
        empty = pool.metrics()
        assert (empty.streams, empty.chunks, empty.batch_size.count, empty.step_ms.p99) == (0, 0, 0, 0.0)
        for _ in range(3):
            pool.open()
        wait_for_all(together(pool, gate, "rnn", [2, 2, 2]))
        pool.close()
        seen = pool.metrics()
        assert (seen.streams, seen.queued, seen.chunks, seen.batches) == (0, 0, 4, 2)
        assert (seen.rejected, seen.errors, seen.idle) == (0, 0, 0)
        assert (seen.batch_size.count, seen.batch_size.mean, seen.batch_size.largest) == (2, 2.0, 3.0)
        assert (seen.queue_ms.count, seen.step_ms.count) == (4, 2)
        assert 0 < seen.step_ms.p50 <= seen.step_ms.p90 <= seen.step_ms.p99 <= seen.step_ms.largest


def test_percentiles_are_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    from rnn_runtime._metrics import WINDOW, Recorder

    recorder = Recorder()
    for k in range(WINDOW + 100):
        recorder.batch([0.001 * k], 0.002)
    seen = recorder.snapshot(1, 2)
    assert seen.chunks == WINDOW + 100
    assert (seen.queue_ms.count, seen.queue_ms.largest) == (WINDOW, pytest.approx(WINDOW + 99))
    assert seen.queue_ms.p50 == pytest.approx(100 + (WINDOW - 1) / 2)
    assert seen.step_ms.p99 == pytest.approx(2.0)


def test_a_pool_has_room_for_32_streams_unless_it_is_told(rnn):
    with StreamPool(rnn) as pool:
        assert pool.capacity == 32


def test_streams_that_would_change_each_other_run_one_by_one(
    bundle: Path, reseal: Callable[..., Path], rnn_signature: Any
) -> None:
    def largest(**options: Any) -> float:
        """Of the batches that four streams make, which push at once."""
        with StreamPool(load(bundle), 4, max_wait_ms=10_000, **options) as pool:
            streams = [pool.open() for _ in range(4)]
            for future in [stream.submit(np.ones((2, 1, 4), np.float32)) for stream in streams]:
                future.result(SECONDS)
            return pool.metrics().batch_size.largest

    assert largest() == 4
    for says in ({"operators": {"DynamicQuantizeLSTM": 1}}, {"verified": {"lacking": {"rows": "row 1 changes row 0"}}}):
        reseal(bundle, signature=rnn_signature, **says)
        assert largest() == 1
        assert largest(max_batch=2) == 2  # who asks for it gets it


def test_a_closed_pool_goes_without_the_collector(rnn: Model) -> None:
    # A server freezes what it has loaded, and the first bundle would stay when a new export has replaced it.
    gc.disable()
    try:
        with StreamPool(rnn, 2) as pool, pool.open() as stream:
            stream.push(chunk_of("rnn", 2, 0))
        left = weakref.ref(pool)
        del pool, stream
        assert left() is None
    finally:
        gc.enable()
