"""Streams: chunks with the state carried equal the whole, and nothing that fails changes the state."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_runtime import Error, InputError, Model, Signature, Stream
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
    np.testing.assert_allclose(np.concatenate([first["output"], second["output"]]), want, rtol=0, atol=1e-6)


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
        (np.zeros((1, 2, 4), np.float32), "axis 'batch' has size 2 in 'x' but 1 in 'h_0'"),
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


def test_a_failure_of_onnx_runtime_leaves_the_state(rnn: Model, make_numbers: Callable, monkeypatch) -> None:
    x = make_numbers(STEPS, 1, 4, seed=1)
    stream = rnn.stream()
    stream.push(x[:1])
    (plan,) = stream._plans.values()

    def fail(_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(Error, match="the state is as it was"):
        patch.setattr(plan, "_session", fail)
        stream.push(x[1:2])
    np.testing.assert_allclose(stream.push(x[1:])["output"], rnn.run(x)["output"][1:], rtol=0, atol=1e-6)


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


def test_states_of_two_axes_have_no_one_batch(rnn: Model) -> None:
    from rnn_runtime import StateSpec, TensorSpec

    specs = (TensorSpec("a", "float32", ("rows",)), TensorSpec("b", "float32", ("columns",)))
    outs = (TensorSpec("c", "float32", ("rows",)), TensorSpec("d", "float32", ("columns",)))
    signature = Signature(specs, outs, (StateSpec("a", "c"), StateSpec("b", "d")))
    model = Model(signature, "cpu", Path(), None, None)
    with pytest.raises(InputError, match=r"the states have the axes \['columns', 'rows'\]"):
        Stream(model, None, 1)
