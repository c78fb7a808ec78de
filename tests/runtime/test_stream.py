"""Streams: chunks with the state carried equal the whole, and nothing that fails changes the state."""

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_runtime import Error, InputError, Model
from rnn_runtime._model import load

STEPS = 12


@pytest.fixture(scope="module")
def rnn(files: Path) -> Model:
    return load(files / "rnn.onnx", threads=1)


@pytest.fixture(scope="module")
def packed(files: Path) -> Model:
    return load(files / "packed.onnx", threads=1)


def test_every_split_of_a_sequence_equals_the_whole(rnn: Model, make_numbers: Callable, expected: Callable) -> None:
    x = make_numbers(STEPS, 2, 4, seed=1)
    want, last = expected(x)

    @given(st.lists(st.integers(1, STEPS - 1), unique=True).map(sorted))
    def check(cuts: list[int]) -> None:
        stream = rnn.stream(batch=2)
        outputs = [stream.push(chunk)["output"] for chunk in np.split(x, cuts)]
        np.testing.assert_allclose(np.concatenate(outputs), want, rtol=0, atol=1e-6)
        np.testing.assert_allclose(stream.state["h_0"], last, rtol=0, atol=1e-6)

    check()


def test_a_result_stays_as_it_was_after_later_pushes(rnn: Model, make_numbers: Callable) -> None:
    stream = rnn.stream()
    first = stream.push(make_numbers(1, 1, 4, seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    for seed in range(2, 5):
        stream.push(make_numbers(1, 1, 4, seed=seed))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


def test_lengths_are_taken(packed: Model, make_numbers: Callable, expected: Callable) -> None:
    x = make_numbers(8, 2, 4, seed=1)
    want, _ = expected(x, None, [8, 6])
    stream = packed.stream(batch=2)
    first = stream.push(x[:4], lengths=[4, 4])
    second = stream.push(x[4:], lengths=[4, 2])
    assert list(second) == ["output", "h_n"]
    np.testing.assert_allclose(np.concatenate([first["output"], second["output"]]), want, rtol=0, atol=1e-6)


def test_lengths_change_from_push_to_push(packed: Model, make_numbers: Callable) -> None:
    x, stream, by_hand = make_numbers(40, 2, 4, seed=1), packed.stream(batch=2), {}
    for k, lengths in enumerate([[4, 4], [4, 2], [1, 1], [3, 4], None, [2, 4], [4, 4], None]):
        chunk = x[4 * k : 4 * k + 4]
        want = packed.run(chunk, state=by_hand, lengths=lengths)
        by_hand = want.state
        got = stream.push(chunk, lengths)
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("rows", [[1], 1, np.array([False, True, False]), (1,)])
def test_rows_are_reset_alone(rnn: Model, make_numbers: Callable, rows: object) -> None:
    stream = rnn.stream(batch=3)
    stream.push(make_numbers(4, 3, 4, seed=1))
    before = stream.state["h_0"]
    stream.reset(rows)
    after = stream.state["h_0"]
    assert not after[:, 1].any()
    np.testing.assert_array_equal(after[:, [0, 2]], before[:, [0, 2]])
    stream.reset()
    assert not stream.state["h_0"].any()


@pytest.mark.parametrize("rows", [[3], [-1], [0.0], [True], [[0]], "all"])
def test_rows_that_are_not_there_are_refused(rnn: Model, make_numbers: Callable, rows: object) -> None:
    stream = rnn.stream(batch=3)
    stream.push(make_numbers(4, 3, 4, seed=1))
    before = stream.state
    with pytest.raises(InputError, match="expected rows from 0 to 2, or 3 booleans"):
        stream.reset(rows)
    np.testing.assert_array_equal(stream.state["h_0"], before["h_0"])


def test_no_rows_reset_nothing(rnn: Model, make_numbers: Callable) -> None:
    stream = rnn.stream()
    stream.push(make_numbers(4, 1, 4, seed=1))
    stream.reset([])
    assert stream.state["h_0"].any()


def test_the_state_can_be_saved_sent_and_set(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(STEPS, 1, 4, seed=1)
    stream, other = rnn.stream(), rnn.stream()
    stream.push(x[:5])
    other.state = pickle.loads(pickle.dumps(stream.state))
    np.testing.assert_array_equal(other.push(x[5:])["output"], stream.push(x[5:])["output"])


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "the state 'h_0' is missing"),
        ({"h": np.zeros((1, 1, 3), np.float32)}, "there is no state 'h': the states are h_0"),
        ({"h_0": np.zeros((1, 2, 3), np.float32)}, "size 2 in dimension 1; the model takes 1"),
        ({"h_0": np.zeros((1, 1, 3))}, "has dtype float64"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(rnn: Model, make_numbers: Callable, state: dict, text: str) -> None:
    stream = rnn.stream()
    stream.push(make_numbers(4, 1, 4, seed=1))
    before = stream.state
    with pytest.raises(InputError, match=text):
        stream.state = state
    np.testing.assert_array_equal(stream.state["h_0"], before["h_0"])


def test_a_fork_goes_its_own_way(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(STEPS, 1, 4, seed=1)
    stream = rnn.stream()
    stream.push(x[:5])
    fork = stream.fork()
    fork.push(-x[5:])
    whole = rnn.run(x)["output"]
    np.testing.assert_allclose(stream.push(x[5:])["output"], whole[5:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (np.zeros((1, 1, 5), np.float32), "the model takes 4"),
        (np.zeros((1, 1, 4)), "has dtype float64"),
        (np.zeros((0, 1, 4), np.float32), "size 0 along 'sequence'"),
        (np.zeros((1, 2, 4), np.float32), r"2 rows along 'batch', and this stream has 1: .* model\.stream\(batch=2\)"),
        (np.zeros(4, np.float32), "has 1 dimensions"),
    ],
)
def test_a_push_that_fails_leaves_the_state(rnn: Model, make_numbers: Callable, chunk: np.ndarray, text: str) -> None:
    x = make_numbers(STEPS, 1, 4, seed=1)
    stream = rnn.stream()
    stream.push(x[:5])
    for _ in range(2):  # what was refused once is refused again
        with pytest.raises(InputError, match=text):
            stream.push(chunk)
    np.testing.assert_allclose(stream.push(x[5:])["output"], rnn.run(x)["output"][5:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("pushes", range(6))  # the first of a shape, the second, those after, and the fast path
def test_a_failure_of_onnx_runtime_leaves_the_state(files: Path, pushes: int) -> None:
    model = load(files / "ids.onnx", states={"h_0": "h_n"})
    ids = np.array([1, 2, 3, 4, 1, 2, 3])[:, None, None]
    stream = model.stream()
    for chunk in ids[:pushes]:
        stream.push(chunk)
    before = stream.state
    for _ in range(2):
        with pytest.raises(Error, match="ONNX Runtime failed"):
            stream.push(np.array([[5]]))
    np.testing.assert_array_equal(stream.state["h_0"], before["h_0"])
    whole = model.run({"ids": ids[:, :, 0], "h_0": np.zeros((1, 1, 3), np.float32)})
    last = stream.push(ids[pushes:, :, 0])["output"]
    np.testing.assert_allclose(last, whole["output"][pushes:], rtol=0, atol=1e-6)


def test_outputs_whose_size_depends_on_values(files: Path) -> None:
    stream = load(files / "ids.onnx", states={"h_0": "h_n"}).stream()
    found = [stream.push(np.array([[k % 2]]))["found"].shape[1] for k in [1, 1, 1, 1, 1, 0, 1, 0, 0, 1]]
    assert found == [1, 1, 1, 1, 1, 0, 1, 0, 0, 1]


def test_a_chunk_of_any_layout_in_memory_is_taken(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(STEPS, 1, 4, seed=1)
    whole, stream = rnn.run(x)["output"], rnn.stream()
    stream.push(x[:1])
    turned = np.asfortranarray(x.repeat(2, axis=2))[1:2, :, ::2]
    assert not turned.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(stream.push(turned)["output"], whole[1:2], rtol=0, atol=1e-6)


def test_streams_of_one_model_do_not_mix(rnn: Model, make_numbers: Callable) -> None:
    sequences = [make_numbers(200, 1, 4, seed=seed) for seed in range(8)]

    def run(x: np.ndarray) -> np.ndarray:
        stream = rnn.stream()
        return np.concatenate([stream.push(x[t : t + 1])["output"] for t in range(len(x))])

    with ThreadPoolExecutor(8) as pool:
        for x, got in zip(sequences, pool.map(run, sequences), strict=True):
            np.testing.assert_allclose(got, rnn.run(x)["output"], rtol=0, atol=1e-6)


def test_a_model_without_state_has_no_stream(files: Path, rnn: Model) -> None:
    with pytest.raises(InputError, match="the model has no state to carry: export it with state='lift'"):
        load(files / "two_inputs.onnx").stream()


@pytest.mark.parametrize("batch", [0, -1, True, 1.0, "1"])
def test_a_batch_that_is_none_is_refused(rnn: Model, batch: object) -> None:
    with pytest.raises(InputError, match="batch is"):
        rnn.stream(batch=batch)


@pytest.fixture(scope="module")
def sums(files: Path) -> Model:
    return load(files / "two_states.onnx", states={"a": "a_next", "b": "b_next"})


def test_states_of_two_axes_have_no_one_batch(sums: Model) -> None:
    with pytest.raises(InputError, match=r"the states have the axes \['columns', 'rows'\]"):
        sums.stream()


def test_states_start_from_what_is_given_and_go_back_to_it(sums: Model) -> None:
    b = np.array([5, 7, 9], np.float32)
    stream = sums.stream(batch=2, initial={"b": b})
    x = np.ones((2, 2), np.float32)
    for _ in range(5):
        stream.push(x)
    np.testing.assert_array_equal(stream.state["a"], 5 * x)
    np.testing.assert_array_equal(stream.state["b"], b + 5)
    stream.reset([0])  # b has no rows
    np.testing.assert_array_equal(stream.state["a"], [[0, 0], [5, 5]])
    np.testing.assert_array_equal(stream.fork().state["b"], b + 5)
    stream.reset()
    np.testing.assert_array_equal(stream.state["b"], b)
    np.testing.assert_array_equal(stream.state["a"], 0 * x)


@pytest.mark.parametrize(
    ("initial", "text"),
    [
        ({"c": np.zeros(2, np.float32)}, "there is no state 'c' to start from: the states are a, b"),
        ({"b": np.zeros(2)}, "has dtype float64"),
        ({"b": np.zeros((2, 2), np.float32)}, "has 2 dimensions"),
        ({"b": np.zeros(0, np.float32)}, "has size 0 along 'columns'"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(sums: Model, initial: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        sums.stream(batch=2, initial=initial)


def test_a_start_of_another_batch_is_refused(rnn: Model) -> None:
    with pytest.raises(InputError, match="'h_0' has size 3 in dimension 1; the model takes 2"):
        rnn.stream(batch=2, initial={"h_0": np.zeros((1, 3, 3), np.float32)})


def test_a_learned_start(rnn: Model, make_numbers: Callable) -> None:
    x, h_0 = make_numbers(STEPS, 2, 4, seed=1), make_numbers(1, 2, 3, seed=2)
    stream = rnn.stream(batch=2, initial={"h_0": h_0})
    want = rnn.run(x, state={"h_0": h_0})["output"]
    for _ in range(2):
        got = np.concatenate([stream.push(chunk)["output"] for chunk in np.split(x, [1, 2, 3, 4])])
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        stream.reset()


def test_many_lengths_in_turn(rnn: Model, make_numbers: Callable) -> None:
    x, lengths = make_numbers(5000, 1, 4, seed=1), np.random.default_rng(0).integers(1, 100, 80)
    whole, stream, at = rnn.run(x)["output"], rnn.stream(), 0
    for steps in lengths:
        np.testing.assert_allclose(stream.push(x[at : at + steps])["output"], whole[at : at + steps], rtol=0, atol=1e-6)
        at += steps


def test_asyncio_pushes_run_in_order_and_the_loop_goes_on(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(200, 1, 4, seed=1)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> list[np.ndarray]:
        stream, ticker = rnn.stream(), asyncio.create_task(tick())
        # All are under way at once.
        results = await asyncio.gather(*(stream.push_async(x[t : t + 1]) for t in range(len(x))))
        ticker.cancel()
        return [result["output"] for result in results]

    got = np.concatenate(asyncio.run(main()))
    np.testing.assert_allclose(got, rnn.run(x)["output"], rtol=0, atol=1e-6)
    assert ticks > 200


def test_an_asyncio_push_that_fails_leaves_the_state(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(4, 1, 4, seed=1)

    async def main() -> np.ndarray:
        stream = rnn.stream()
        await stream.push_async(x[:2])
        with pytest.raises(InputError, match="has dtype float64"):
            await stream.push_async(np.zeros((1, 1, 4)))
        return (await stream.push_async(x[2:]))["output"]

    np.testing.assert_allclose(asyncio.run(main()), rnn.run(x)["output"][2:], rtol=0, atol=1e-6)


def test_ort_values_in_give_ort_values_out(files: Path, make_numbers: Callable) -> None:
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_numpy
    rnn = load(files / "rnn.onnx")
    x = make_numbers(STEPS, 2, 4, seed=1)
    want = rnn.run(x)
    stream = rnn.stream(batch=2)
    first, second = stream.push(value(x[:5])), stream.push({"x": value(x[5:])})
    assert isinstance(first["output"], onnxruntime.OrtValue)
    np.testing.assert_allclose(second["output"].numpy(), want["output"][5:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(stream.state["h_0"], want["h_n"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(stream.push(x[:1])["output"].shape, (1, 2, 3))  # and NumPy's again
    going_on = rnn.run(value(x[5:]), state=first.state)
    np.testing.assert_array_equal(going_on["output"].numpy(), second["output"].numpy())
    if hasattr(onnxruntime.OrtValue, "__dlpack__"):  # not in the oldest
        np.testing.assert_array_equal(np.from_dlpack(going_on["output"]), second["output"].numpy())


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (np.zeros((1, 1, 5), np.float32), "the model takes 4"),
        (np.zeros((1, 1, 4)), "has dtype float64"),
        (np.zeros((1, 3, 4), np.float32), "axis 'batch' has size"),
    ],
)
def test_ort_values_are_checked(rnn: Model, chunk: np.ndarray, text: str) -> None:
    import onnxruntime

    with pytest.raises(InputError, match=text):
        rnn.stream().push(onnxruntime.OrtValue.ortvalue_from_numpy(chunk))


@pytest.mark.parametrize("pushes", [0, 1, 5])
def test_nan_is_refused_where_asked_for(files: Path, make_numbers: Callable, pushes: int) -> None:
    x = make_numbers(1, 1, 4, seed=1)
    model = load(files / "rnn.onnx", nan="raise")
    stream = model.stream()
    for _ in range(pushes):
        stream.push(x)
    before = stream.state
    bad = x.copy()
    bad[0, 0, 2] = np.nan
    with pytest.raises(InputError, match=r"x\[0, 0, 2\] is NaN"):
        stream.push(bad)
    np.testing.assert_array_equal(stream.state["h_0"], before["h_0"])
    with pytest.raises(InputError, match=r"x\[0, 0, 2\] is NaN"):
        model.run(bad)
    with pytest.raises(InputError, match=r"h_0\[0, 0, 1\] is NaN"):
        model.run(x, state={"h_0": np.array([[[0, np.nan, 0]]], np.float32)})
    bad[0, 0, 2] = np.inf
    assert np.isfinite(stream.push(bad)["output"]).all()  # tanh of it


def test_nan_goes_through_where_not(rnn: Model) -> None:
    assert np.isnan(rnn.stream().push(np.full((1, 1, 4), np.nan, np.float32))["output"]).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_loads_after_the_fork(files: Path) -> None:
    probe = f"""
import os, signal, threading, numpy as np, rnn_runtime
x = np.ones((1, 1, 4), np.float32)
model = rnn_runtime.load({str(files / "rnn.onnx")!r})
streams = [model.stream(), model.stream()]
for _ in range(5): streams[0].push(x)
stop = []
def busy():
    while not stop: streams[0].push(x)
thread = threading.Thread(target=busy, daemon=True)
thread.start()
stream = streams[0]
calls = [lambda: model.run(x), lambda: stream.push(x), lambda: streams[1].push(x), lambda: stream.state, stream.reset,
         stream.fork, model.stream]
if os.fork() == 0:
    signal.alarm(20)
    for call in calls:
        try: call()
        except rnn_runtime.Error as error: assert "load after the fork" in str(error); print("refused", flush=True)
    rnn_runtime.load({str(files / "rnn.onnx")!r}).stream().push(x); print("loaded", flush=True)
    os._exit(0)
stop.append(1)
thread.join()
assert os.wait()[1] == 0
streams[0].push(x); print("goes on", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == ["refused"] * 7 + ["loaded", "goes on"]


def test_two_event_loops_one_after_the_other(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(40, 1, 4, seed=1)
    stream = rnn.stream()

    async def push(part: np.ndarray) -> list[np.ndarray]:
        results = await asyncio.gather(*(stream.push_async(part[t : t + 1]) for t in range(len(part))))
        return [result["output"] for result in results]

    got = np.concatenate([*asyncio.run(push(x[:20])), *asyncio.run(push(x[20:]))])
    np.testing.assert_allclose(got, rnn.run(x)["output"], rtol=0, atol=1e-6)


def test_an_asyncio_push_takes_the_chunk_as_it_is_then(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(10, 1, 4, seed=1)

    async def main() -> list[np.ndarray]:
        stream, buffer, tasks = rnn.stream(), np.empty((1, 1, 4), np.float32), []
        for step in x:
            buffer[0] = step
            tasks.append(asyncio.ensure_future(stream.push_async(buffer)))
            await asyncio.sleep(0)  # the task begins, and waits for those before it
        return [result["output"] for result in await asyncio.gather(*tasks)]

    np.testing.assert_allclose(np.concatenate(asyncio.run(main())), rnn.run(x)["output"], rtol=0, atol=1e-6)


def test_a_cancelled_push_lets_the_others_pass(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(1, 1, 4, seed=1)

    async def main() -> None:
        stream = rnn.stream()
        tasks = [asyncio.ensure_future(stream.push_async(x)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False]
        await stream.push_async(x)

    asyncio.run(main())


@pytest.mark.parametrize("failing", ["Plan", "Tails.keep"])
def test_nothing_that_fails_after_the_run_moves_the_state(
    rnn: Model, make_numbers: Callable, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    from rnn_runtime import _stream

    def fail(*_: object) -> None:
        raise MemoryError

    x = make_numbers(4, 1, 4, seed=1)
    stream = rnn.stream()
    stream.push(x[:1])
    before = stream.state
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(*((_stream, "Plan") if failing == "Plan" else (_stream.Tails, "keep")), fail)
        stream.push(x[1:2])
    np.testing.assert_array_equal(stream.state["h_0"], before["h_0"])
    np.testing.assert_allclose(stream.push(x[1:])["output"], rnn.run(x)["output"][1:], rtol=0, atol=1e-6)


def test_an_output_that_is_an_input(files: Path) -> None:
    stream = load(files / "echo.onnx", states={"s": "s_next"}).stream()
    for k in range(1, 7):
        result = stream.push(np.full(2, k, np.float32))
        np.testing.assert_array_equal(result["x"], [k, k])
    np.testing.assert_array_equal(stream.state["s"], [21, 21])


@pytest.mark.parametrize("values", [False, True])
def test_a_state_that_changes_its_shape_is_refused(files: Path, values: bool) -> None:
    import onnxruntime

    stream = load(files / "turned.onnx", states={"s": "s_next"}).stream(batch=2)
    x = np.zeros(1, np.float32)
    with pytest.raises(Error, match=r"went in with shape \(2, 3\) and came out of 's_next' with \(3, 2\)"):
        stream.push(onnxruntime.OrtValue.ortvalue_from_numpy(x) if values else x)
    assert not stream.state["s"].any()


def test_a_shape_that_is_used_again_and_again_keeps_its_buffers(rnn: Model, make_numbers: Callable) -> None:
    x, stream = make_numbers(300, 1, 4, seed=1), rnn.stream()
    for _ in range(3):
        stream.push(x[:1])
    for steps in range(2, 200):
        stream.push(x[:steps])
        stream.push(x[:1])
    assert stream._plans.get(((1, 1, 4),)) is not None


def test_buffers_are_bounded(rnn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from rnn_runtime import _plan, _stream

    for module in (_plan, _stream):
        monkeypatch.setattr(module, "MOST_BYTES", 50_000)
    stream = rnn.stream()
    for steps in (100, 200, 300, 400, 5000):
        for _ in range(3):
            stream.push(np.zeros((steps, 1, 4), np.float32))
    held = [plan.nbytes for plan in stream._plans._plans.values() if plan is not None]
    assert 0 < sum(held) <= 50_000
    assert stream._plans.get(((5000, 1, 4),)) is None  # alone too large


def test_what_is_pushed_as_ort_values_is_as_strict(rnn: Model, packed: Model, make_numbers: Callable) -> None:
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_numpy
    x = value(make_numbers(4, 2, 4, seed=1))
    stream = rnn.stream(batch=2)
    with pytest.raises(InputError, match="'h_0' is given twice"):
        stream.push({"x": x, "h_0": np.zeros((1, 2, 3), np.float32)})
    with pytest.raises(InputError, match="2 inputs were given"):
        stream.push((x, x))
    lengths = np.array([4, 3])
    want = packed.run(make_numbers(4, 2, 4, seed=1), lengths=lengths)
    got = packed.run({"x": x, "lengths": value(lengths)})
    np.testing.assert_array_equal(got["output"].numpy(), want["output"])
    with pytest.raises(InputError, match=r"lengths\[1\] is 5"):
        packed.run({"x": x, "lengths": value(np.array([4, 5]))})
    assert repr(got) == "Result(output: float32[4, 2, 3], h_n: float32[1, 2, 3])"


class Exporter:
    """An array that speaks DLPack, as one of PyTorch or CuPy does, and is no NumPy array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.dtype, self.shape = array, array.dtype, array.shape

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_dlpack_is_taken_without_a_copy_or_refused_in_words() -> None:
    from rnn_runtime._values import as_value

    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    value = as_value("x", Exporter(array))
    assert value.shape() == [3, 4]
    array[0, 0] = 7
    assert value.numpy()[0, 0] == 7
    with pytest.raises(InputError, match=r"'x' cannot be taken by DLPack .*: give it contiguous"):
        as_value("x", Exporter(array[:, ::2]))


def test_nan_is_refused_wherever_it_is_given(files: Path, make_numbers: Callable) -> None:
    import onnxruntime

    bad = np.array([[[0, np.nan, 0]]], np.float32)
    model = load(files / "rnn.onnx", nan="raise")
    stream = model.stream()
    with pytest.raises(InputError, match=r"h_0\[0, 0, 1\] is NaN"):
        stream.state = {"h_0": bad}
    with pytest.raises(InputError, match=r"h_0\[0, 0, 1\] is NaN"):
        model.stream(initial={"h_0": bad})
    with pytest.raises(InputError, match=r"h_0\[0, 0, 1\] is NaN"):
        model.run(onnxruntime.OrtValue.ortvalue_from_numpy(make_numbers(1, 1, 4)), state={"h_0": bad})
    heard = load(
        files / "voice.onnx", states={"state": "stateN"}, constants={"sr": 2}, context={"input": {1: 2}}, nan="raise"
    )
    with pytest.raises(InputError, match=r"input\[0, 1\] is NaN"):
        heard.stream().push(np.array([[0, np.nan]], np.float32))
