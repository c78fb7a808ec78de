"""Outputs that are fed back, against the same loop by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_runtime import InputError, LengthsSpec, Result, Signature, StateSpec, TensorSpec, load
from rnn_runtime._feedback import feedback, greedy


class Counter:
    """Stands for a stream: the state adds up what it is given, and each step scores the sum modulo five."""

    def __init__(self, inputs, outputs):
        states = (StateSpec("h", "h_n"),)
        state = TensorSpec("h", "float32", ("batch",)), TensorSpec("h_n", "float32", ("batch",))
        self._signature = Signature((*inputs, state[0]), (*outputs, state[1]), states)
        self.pushed = []
        self.sum = 0

    def push(self, inputs):
        ids = np.asarray(inputs["ids"])
        self.pushed.append({name: np.array(value) for name, value in inputs.items()})
        sums = self.sum + np.cumsum(ids, 1)
        self.sum = sums[:, -1:]
        return Result(self._signature, {"scores": np.eye(5, dtype=np.float32)[sums % 5], "h_n": self.sum[:, 0]})


IDS, SCORES = TensorSpec("ids", "int64", ("batch", "time")), TensorSpec("scores", "float32", ("batch", "time", 5))
MEMORY = TensorSpec("memory", "float32", ("batch", "text", 2))


def best(scores):
    return scores.argmax(-1)


def test_the_last_step_is_fed_back_and_the_rest_stays():
    stream, memory = Counter((IDS, MEMORY), (SCORES,)), np.ones((2, 7, 2), np.float32)
    inputs = {"ids": np.array([[1, 1], [2, 1]]), "memory": memory}
    steps = list(feedback(stream, inputs, 4, ("ids", "scores"), best, "batch"))
    assert [value.tolist() for value, _ in steps] == [[[2], [3]], [[4], [1]], [[3], [2]], [[1], [4]]]
    assert steps[0][1]["scores"].shape == (2, 2, 5) and steps[1][1]["scores"].shape == (2, 1, 5)
    assert len(stream.pushed) == 4  # the last value is given, and not pushed
    assert all(np.array_equal(one["memory"], memory) for one in stream.pushed)
    assert inputs["ids"].shape == (2, 2)  # what was given is left alone


def test_leaving_the_loop_stops_it():
    stream = Counter((IDS,), (SCORES,))
    for value, _ in feedback(stream, np.array([[1]]), 100, None, best, "batch"):
        if value[0, 0] == 4:
            break
    assert len(stream.pushed) == 3


def test_rows_end_by_themselves_and_at_the_most():
    def tokens(most):
        stream = Counter((IDS,), (SCORES,))
        steps = feedback(stream, np.array([[1], [2], [0]]), most, None, best, "batch")
        return [row.tolist() for row in greedy(steps, 3, 4)], len(stream.pushed)

    # 1, 2, 4: the end; 2, 4; and zeros for ever
    assert tokens(5) == ([[1, 2], [2], [0] * 5], 5)
    assert tokens(1) == ([[1], [2], [0]], 1)
    stream = Counter((IDS,), (SCORES,))
    rows = greedy(feedback(stream, np.array([[1], [2]]), 50, None, best, "batch"), 2, 4)
    assert [row.tolist() for row in rows] == [[1, 2], [2]] and len(stream.pushed) == 3
    assert all(row.dtype == np.int64 for row in rows)


def test_an_output_without_steps_gets_their_axis():
    class Last(Counter):
        def push(self, inputs):
            found = super().push(inputs)
            return Result(self._signature, {"scores": found["scores"][:, -1], "h_n": found["h_n"]})

    stream = Last((IDS,), (TensorSpec("scores", "float32", ("batch", 5)),))
    values = [value.tolist() for value, _ in feedback(stream, np.array([[1, 1]]), 2, None, best, "batch")]
    assert values == [[[2]], [[4]]]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_steps_are_a_number_of_them(steps):
    with pytest.raises(InputError, match=r"steps is .*; expected 1 or more"):
        feedback(Counter((IDS,), (SCORES,)), np.array([[1]]), steps, None, None, "batch")


@pytest.mark.parametrize("back", [None, ("ids", "h_n"), ("h", "scores"), ("memory", "none"), ("ids",), "ids", 2])
def test_the_pair_is_an_input_and_an_output(back):
    with pytest.raises(InputError, match="the inputs are ids, memory; the outputs scores"):
        feedback(Counter((IDS, MEMORY), (SCORES,)), {}, 1, back, None, "batch")


def test_what_goes_along_with_a_history_is_refused_after_it():
    other = TensorSpec("weather", "float32", ("batch", "time"))
    inputs = {"ids": np.array([[1, 1]]), "weather": np.ones((1, 2), np.float32)}
    steps = feedback(Counter((IDS, other), (SCORES,)), inputs, 3, ("ids", "scores"), best, "batch")
    assert next(steps)[0].tolist() == [[2]]
    with pytest.raises(InputError, match="'weather' has the steps of the history"):
        next(steps)
    one = {"ids": np.array([[1]]), "weather": np.ones((1, 1), np.float32)}
    assert len(list(feedback(Counter((IDS, other), (SCORES,)), one, 3, ("ids", "scores"), best, "batch"))) == 3


def test_scores_of_another_form_are_refused():
    steps = feedback(Counter((IDS,), (SCORES,)), np.array([[1]]), 1, None, lambda scores: scores, "batch")
    with pytest.raises(InputError, match=r"a step gave \(1, 1, 5\) tokens for 1 rows"):
        greedy(steps, 1, 0)


def test_a_real_stream(files):
    """The fixtures' network has four inputs and three outputs: one is added by `choose`."""
    stream = load(files / "rnn.onnx").stream(batch=2)
    by_hand = load(files / "rnn.onnx").stream(batch=2)
    first = np.ones((6, 2, 4), np.float32)
    name = stream._signature.data_inputs[0].name

    def widened(y):
        return np.concatenate([y, y[..., :1]], -1)

    got = [value for value, _ in stream.feedback(first, 5, back=(name, "output"), choose=widened)]
    want = [widened(by_hand.push(first)["output"][-1:])]
    while len(want) < 5:
        want.append(widened(by_hand.push(want[-1])["output"]))
    np.testing.assert_array_equal(got, want)
    with pytest.raises(InputError, match="size 3 in dimension 2; the model takes 4"):
        next(iter(stream.feedback(first[..., :3], 1)))


def test_lengths_are_no_input_to_feed_back():
    stream = Counter((IDS,), (SCORES,))
    spec = TensorSpec("lengths", "int64", ("batch",))
    old = stream._signature
    stream._signature = Signature((*old.inputs, spec), old.outputs, old.states, LengthsSpec("lengths", "time"))
    with pytest.raises(InputError, match="the inputs are ids;"):
        feedback(stream, np.array([[1]]), 1, ("lengths", "scores"), None, "batch")


def test_values_are_refused_before_anything_is_pushed(files):
    import onnxruntime

    stream = load(files / "rnn.onnx").stream()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((1, 1, 4), np.float32))
    for inputs in (value, {"x": value}):
        with pytest.raises(InputError, match="give NumPy arrays, and no OrtValues"):
            stream.feedback(inputs, 3, back=("x", "output"))
    assert not stream.state["h_0"].any()
