"""Files of other people: no signature in them, states and constants told by the caller."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rnn_runtime import InputError, Model
from rnn_runtime._golden import Case, pack
from rnn_runtime._model import load

STATES = {"state": "stateN"}


@pytest.fixture(scope="module")
def voice(files: Path) -> Model:
    return load(files / "voice.onnx", states=STATES, constants={"sr": 2})


def test_the_signature_holds_what_was_told(voice: Model) -> None:
    assert [str(spec) for spec in voice.signature.inputs] == [
        "input: float32[axis_0, axis_1]",
        "state: float32[2, batch, 3]",
    ]
    assert [spec.name for spec in voice.signature.data_inputs] == ["input"]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_stream_carries_the_state_and_binds_the_constant(voice: Model, files: Path, make_numbers, batch: int) -> None:
    x = make_numbers(batch, 20, seed=1)
    bare = load(files / "voice.onnx")
    state, want = np.zeros((2, batch, 3), np.float32), []
    for t in range(0, 20, 4):
        result = bare.run({"input": x[:, t : t + 4], "state": state, "sr": np.array(2)})
        state = result["stateN"]
        want.append(result["output"])
    stream = voice.stream(batch=batch)
    got = [stream.push(x[:, t : t + 4])["output"] for t in range(0, 20, 4)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stream.state["state"], state, rtol=0, atol=1e-6)


def test_a_context_is_put_before_each_chunk(files: Path, voice: Model, make_numbers: Callable) -> None:
    x = make_numbers(2, 40, seed=1)
    stream = load(files / "voice.onnx", states=STATES, constants={"sr": 2}, context={"input": {1: 2}}).stream(batch=2)
    by_hand = voice.stream(batch=2)
    padded = np.pad(x, ((0, 0), (2, 0)))
    middle = {}
    for t in range(0, 40, 4):
        want = by_hand.push(padded[:, t : t + 6])["output"]
        np.testing.assert_array_equal(stream.push(x[:, t : t + 4])["output"], want)
        if t == 20:
            middle, fork = stream.state, stream.fork()
    assert middle.keys() == {"state", "input"}
    np.testing.assert_array_equal(middle["input"], x[:, 22:24])
    stream.state = middle
    for t in range(24, 40, 4):
        want = fork.push({"input": x[:, t : t + 4]})["output"]
        np.testing.assert_array_equal(stream.push(x[:, t : t + 4])["output"], want)
    stream.reset([1])
    assert not stream.state["input"][1].any()
    np.testing.assert_array_equal(stream.state["input"][0], x[0, -2:])
    stream.reset()
    assert not any(array.any() for array in stream.state.values())


@pytest.mark.parametrize("chunk", [np.zeros((2, 0), np.float32), np.zeros((3, 4), np.float32)])
def test_a_chunk_that_does_not_fit_its_context_is_refused(files: Path, chunk: np.ndarray) -> None:
    model = load(files / "voice.onnx", states=STATES, constants={"sr": 2}, context={"input": {1: 2}})
    stream = model.stream(batch=2)
    stream.push(np.ones((2, 4), np.float32))
    before = stream.state
    with pytest.raises(InputError, match="this stream takes"):
        stream.push(chunk)
    np.testing.assert_equal(stream.state, before)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"states": {"h": "stateN"}}, "no input 'h' to be a state: the inputs are input, state, sr"),
        ({"states": {"state": "h"}}, "no output 'h' to be the next 'state': the outputs are output, stateN"),
        ({"states": {"sr": "stateN"}}, "'sr' is int64, and 'stateN' is float32"),
        ({"states": {"state": "stateN", "input": "stateN"}}, "two states have the same output"),
        ({"constants": {"rate": 1}}, "no input 'rate' to hold constant"),
        ({"constants": {"sr": "fast"}}, "the constant 'sr' cannot be a sr: int64"),
        ({"constants": {"sr": np.float32(1)}}, "'sr' has dtype float32; the model takes int64"),
        ({"constants": {"sr": 2.9}}, "the constant 'sr' is 2.9, which sr: int64"),
        ({"constants": {"sr": [1, 2]}}, "'sr' has 1 dimensions"),
        (
            {"states": STATES, "constants": {"sr": 1, "input": np.zeros((1, 2), np.float32)}},
            "every input is held constant",
        ),
        ({"context": {"x": {1: 2}}}, "no input 'x' to keep a context of"),
        ({"context": {"input": 64}}, r"the context of 'input' is 64; expected {dimension: steps}"),
        ({"context": {"input": {2: 1}}}, "for one of its 2 dimensions"),
        ({"context": {"input": {1: 0}}}, "expected {dimension: steps}"),
        ({"nan": "ignore"}, "nan is 'ignore'; expected 'propagate' or 'raise'"),
        ({"cuda_graph": True}, 'cuda_graph is for device="cuda"'),
    ],
)
def test_what_the_file_does_not_have_is_refused(files: Path, options: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        load(files / "voice.onnx", **options)


def test_states_are_told_once(files: Path, bundle: Path) -> None:
    for path, text in ((files / "rnn.onnx", "its own metadata|own metadata tells"), (bundle, "tells its own states")):
        with pytest.raises(InputError, match=text):
            load(path, states={"h_0": "h_n"})


def test_a_context_with_more_open_sizes_is_refused(files: Path) -> None:
    model = load(files / "features.onnx", states={"s": "s_next"}, context={"x": {1: 2}})
    with pytest.raises(InputError, match="leaves more open than the batch"):
        model.stream()


def test_a_tuple_with_a_chunk_too_many_is_refused(files: Path) -> None:
    model = load(files / "voice.onnx", states=STATES, constants={"sr": 2}, context={"input": {1: 2}})
    x = np.ones((1, 4), np.float32)
    with pytest.raises(InputError, match="2 inputs were given; the model takes 1"):
        model.stream().push((x, x))


def test_a_bundle_is_checked_with_its_constants(files: Path, tmp_path: Path, reseal: Callable) -> None:
    a, b = np.ones((3, 2), np.float32), np.full((3, 2), 4)
    (tmp_path / "model.onnx").write_bytes((files / "two_inputs.onnx").read_bytes())
    (tmp_path / "golden.npz").write_bytes(pack([Case({"a": a, "b": b}, {"difference": a - np.float32(4)})]))
    reseal(tmp_path, signature=load(files / "two_inputs.onnx").signature)
    model = load(tmp_path, constants={"b": b})
    assert model.check().passed
    assert model.example().keys() == {"a"}
    with pytest.raises(InputError, match="records 'b' with another value"):
        load(tmp_path, constants={"b": b + 1}).check()


def test_lengths_leave_no_room_for_a_context(files: Path) -> None:
    with pytest.raises(InputError, match="a model that takes lengths cannot keep a context"):
        load(files / "packed.onnx", context={"x": {0: 2}})
