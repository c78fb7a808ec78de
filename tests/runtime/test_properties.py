"""The properties that need no reference: each holds for a small model in NumPy, and each is seen to fail."""

from __future__ import annotations

import time

import numpy as np
import pytest

import rnn_runtime
from rnn_runtime import InputError, LengthsSpec, Signature, StateSpec, TensorSpec
from rnn_runtime._properties import (
    ALONE,
    EFFORTS,
    Draw,
    Effort,
    OutOfDomain,
    Subject,
    _search,
    broken,
    empties,
    examine,
)
from rnn_runtime._properties._draw import VALUES
from rnn_runtime._properties._search import search, smallest
from rnn_runtime._properties.empties import Empties

BY_NAME = {prop.name: prop for prop in ALONE}
WEIGHT = np.array([[0.3, -0.2, 0.5], [0.1, 0.4, -0.6]], np.float32)
RECURRENT = np.array([[0.2, 0.1, -0.3], [0.4, -0.2, 0.1], [-0.1, 0.3, 0.2]], np.float32)
SIGNATURE = Signature(
    inputs=(
        TensorSpec("x", "float32", ("batch", "sequence", 2)),
        TensorSpec("h", "float32", ("batch", 3)),
        TensorSpec("lengths", "int64", ("batch",)),
    ),
    outputs=(TensorSpec("y", "float32", ("batch", "sequence", 3)), TensorSpec("h_n", "float32", ("batch", 3))),
    states=(StateSpec("h", "h_n"),),
    lengths=LengthsSpec("lengths", "sequence"),
)
EXAMPLE = {
    "x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 3, 2),
    "h": np.zeros((2, 3), np.float32),
    "lengths": np.array([3, 2]),
}


def model(inputs, *, mix=0.0, position=0.0, ignore_lengths=False, ignore_state=False, omitted=0.0, bias=0.0):
    """A recurrent layer, with faults to choose from."""
    x = inputs["x"]
    rows, steps, _ = x.shape
    h = inputs.get("h", np.full((rows, 3), omitted, np.float32))
    h = np.zeros_like(h) if ignore_state else h
    y = np.zeros((rows, steps, 3), np.float32)
    for t in range(steps):
        new = np.tanh(x[:, t] @ WEIGHT + h @ RECURRENT + np.float32(position * t + mix * x[:, t].mean() + bias))
        inside = np.full((rows, 1), True) if ignore_lengths else (t < inputs["lengths"])[:, None]
        h = np.where(inside, new, h)
        y[:, t] = np.where(inside, new, 0)
    return {"y": y, "h_n": h}


def subject(run=model, **more):
    return Subject(
        backend="numpy",
        signature=SIGNATURE,
        run=run,
        omit=run,
        shared=True,
        draw=Draw(SIGNATURE, EXAMPLE),
        tolerance={"y": 1e-5, "h_n": 1e-5},
        sequences=("sequence",),
        **more,
    )


def faulty(**faults):
    return subject(lambda inputs: model(inputs, **faults))


@pytest.fixture(params=["hypothesis", "without hypothesis"])
def searched(request, monkeypatch):
    """Both ways of looking for what fails."""
    if request.param == "without hypothesis":
        monkeypatch.setattr(_search, "_hypothesis", lambda: None)


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "empties"])
def test_each_holds_for_a_model_that_is_right(name, searched):
    check = examine(BY_NAME[name], subject(), EFFORTS["default"])
    assert (check.verdict, check.note) == ("passed", "")
    assert check.trials > 5
    assert check.error <= check.bound or check.error == 0


@pytest.mark.parametrize(
    ("name", "faults", "trial"),
    [
        # A row alone has another mean. The simplest input: two rows of one step, a single one among zeros.
        ("rows", {"mix": 0.5}, {"batch": 2, "sequence": 1, "values": 1}),
        # The second piece counts its steps from zero again; inputs do not matter.
        ("split", {"position": 0.1}, {"batch": 1, "sequence": 2, "cut": 1, "values": 0}),
        ("split", {"ignore_state": True}, {"batch": 1, "sequence": 2, "cut": 1}),
        ("padding", {"ignore_lengths": True}, {"batch": 1, "sequence": 2, "extra": 0}),
        ("state", {"omitted": 0.5}, {"batch": 1, "sequence": 1, "values": 0}),
        ("state", {"ignore_state": True}, {"batch": 1, "sequence": 1}),
    ],
)
def test_each_fails_where_it_does_not_hold_with_the_smallest_input(name, faults, trial, searched):
    check = examine(BY_NAME[name], faulty(**faults), EFFORTS["default"], command="rnn-export verify DIR")
    assert check.verdict == "failed"
    assert check.error > check.bound or check.note
    assert check.trial is not None
    found = {key: check.trial[key] for key in trial}
    if name == "padding":  # an extra step that is read does the same as a row that is too short
        assert check.trial["sequence"] + check.trial["extra"] <= 3
    else:
        assert found == trial
    # The command makes the very trial again, and it fails again.
    written = ",".join(f"{key}={value}" for key, value in check.trial.items())
    assert check.command == f"rnn-export verify DIR --property {name} --backend numpy --trial {written}"
    again = examine(BY_NAME[name], faulty(**faults), EFFORTS["quick"], only=check.trial)
    assert (again.verdict, again.trial, again.error, again.where) == ("failed", check.trial, check.error, check.where)
    # Inputs as small as these are shown.
    assert check.inputs is not None
    assert np.shape(check.inputs["x"]) == (check.trial["batch"], check.trial["sequence"], 2)


def test_what_fails_at_one_size_alone_is_found_by_the_search(searched):
    def run(inputs):
        wrong = inputs["x"].shape[0] >= 4 and inputs["x"].shape[1] >= 6
        return model(inputs, mix=0.5 if wrong else 0.0)

    assert examine(BY_NAME["rows"], subject(run), Effort(0, 1.0)).verdict == "passed"  # no corner is so large
    check = examine(BY_NAME["rows"], subject(run), Effort(200, 10.0))
    assert check.verdict == "failed"
    assert (check.trial["batch"], check.trial["sequence"], check.trial["values"]) == (4, 6, 1)


def test_determinism_sees_runs_that_differ():
    count = iter(range(10**6))
    check = examine(
        BY_NAME["determinism"], subject(lambda inputs: model(inputs, bias=1e-7 * next(count))), Effort(0, 1)
    )
    assert check.verdict == "failed"
    assert "again" in check.where or "from a thread" in check.where


def test_determinism_sees_what_threads_do_to_each_other():
    kept = {}

    def run(inputs):
        kept["x"] = inputs["x"]
        time.sleep(0.002)  # another thread may come here
        return model({**inputs, "x": kept["x"]})

    check = examine(BY_NAME["determinism"], subject(run), Effort(0, 1.0))
    assert check.verdict == "failed"
    assert "from a thread" in check.where or "run" in check.where


def test_determinism_allows_another_number_of_threads_the_tolerance_alone():
    def one(faults):
        threaded = lambda inputs: model(inputs, **faults)  # noqa: E731
        return examine(BY_NAME["determinism"], subject(threaded=threaded), Effort(0, 1.0)).verdict

    assert one({"bias": 5e-6}) == "passed"
    assert one({"bias": 5e-4}) == "failed"


def test_determinism_sees_a_zero_of_another_sign():
    signs = iter([1.0, -1.0] * 10**5)

    def run(inputs):
        return {"y": np.zeros((1, 1, 3), np.float32) * np.float32(next(signs)), "h_n": np.zeros((1, 3), np.float32)}

    check = examine(BY_NAME["determinism"], subject(run), Effort(0, 1.0))
    assert (check.verdict, check.note) == ("failed", "zeros of another sign")


def test_a_backend_that_fails_is_a_failure_and_says_how():
    def run(inputs):
        if inputs["x"].shape[0] == 1:
            raise RuntimeError("batch is 2 in here\nand more")
        return model(inputs)

    check = examine(BY_NAME["rows"], subject(run), Effort(0, 1.0))
    assert check.verdict == "failed"
    assert check.text().endswith("RuntimeError: batch is 2 in here")


def test_what_the_model_itself_does_not_take_is_no_failure():
    def picky(inputs):
        if inputs["x"].shape[1] < 3:
            raise OutOfDomain("three steps at least")
        return model(inputs)

    def run(inputs):
        if inputs["x"].shape[1] < 3:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return model(inputs)

    assert examine(BY_NAME["rows"], subject(run, reference=picky), EFFORTS["default"]).verdict == "passed"
    assert examine(BY_NAME["rows"], subject(run), EFFORTS["default"]).verdict == "failed"
    assert examine(BY_NAME["rows"], subject(run, limited=True), EFFORTS["default"]).verdict == "passed"

    def never(inputs):
        raise OutOfDomain("not even one step")

    check = examine(BY_NAME["rows"], subject(never), EFFORTS["default"])
    assert (check.verdict, check.note) == (
        "skipped",
        "the model itself takes none of the inputs that were tried: not even one step",
    )


@pytest.mark.parametrize(("name", "faults"), [("rows", {"mix": 0.5}), ("split", {"position": 0.1})])
def test_what_the_model_itself_lacks_is_not_asked_of_a_backend(name, faults):
    live = faulty(**faults)
    check = examine(BY_NAME[name], faulty(**faults), EFFORTS["default"], live=live)
    assert check.verdict == "skipped"
    assert check.note.startswith("eager PyTorch itself does not have it: ")
    assert broken(BY_NAME[name], live) == check.note
    assert broken(BY_NAME[name], subject()) is None
    # A backend that lacks it though the model has it is at fault.
    assert examine(BY_NAME[name], faulty(**faults), EFFORTS["default"], live=subject()).verdict == "failed"
    assert examine(BY_NAME[name], faulty(**faults), EFFORTS["quick"], excuse="recorded").note == "recorded"


def test_a_property_that_says_nothing_of_a_model_says_why():
    bare = Signature((TensorSpec("x", "float32", ("n", "m")),), (TensorSpec("y", "float32", (3,)),))
    none = Subject("numpy", bare, model, Draw(bare, {}), {"y": 1e-5})
    reasons = {prop.name: prop.unfit(none) for prop in ALONE}
    assert reasons == {
        "rows": "the inputs have no one axis of rows",
        "split": "the model has no state to carry",
        "padding": "the model takes no lengths",
        "state": "the model has no state",
        "determinism": None,
        "empties": "not run by rnn_runtime, whose work the refusal is",
    }


# --- empty inputs, in a child process


def empty(code):
    prop = Empties()
    if code is not None:
        prop.code = code
    return examine(prop, subject(folder="nowhere"), Effort(0, 1.0))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", r"batch=0 takes the process down \(SIGABRT\)"),
        ("import sys; sys.exit(3)", "batch=0 ends the process with 3: nothing said"),
        ("raise ValueError('what')", "batch=0 ends the process with 1: ValueError: what"),
        ("print('it returns y')", "batch=0 is not refused: it returns y"),
        ("pass", "batch=0 ends the process with 0: nothing said"),
        (None, "batch=0 ends the process with 1: .*BundleError: there is no nowhere"),
    ],
)
def test_an_empty_input_that_is_not_refused_is_a_failure(code, said):
    check = empty(code)
    assert check.verdict == "failed"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(check.note)


def test_an_empty_input_that_hangs_is_a_failure(monkeypatch):
    monkeypatch.setattr(empties, "SECONDS", 0.5)
    assert empty("import time; time.sleep(30)").note == "batch=0 hangs"


def test_refusing_every_empty_input_passes():
    check = empty("print('refused: x has no rows')")
    assert (check.verdict, check.trials) == ("passed", len(SIGNATURE.axis_names))


# --- the search


def test_the_search_looks_at_as_many_trials_as_it_may(searched):
    seen = []
    assert search({"n": (0, 10**6)}, lambda trial: bool(seen.append(trial)), 40, 60, 0) is None
    assert 20 <= len(seen) <= 40
    assert all(0 <= trial["n"] <= 10**6 for trial in seen)
    assert search({"n": (0, 9)}, lambda trial: True, 0, 60, 0) is None


def test_the_search_ends_with_its_time(searched):
    start = time.monotonic()
    assert search({"n": (0, 10**6)}, lambda trial: time.sleep(0.01) is not None, 10**5, 0.2, 0) is None
    assert time.monotonic() - start < 30


def test_one_seed_gives_one_search(searched):
    def seen(seed):
        trials = []
        search({"n": (0, 10**6)}, lambda trial: bool(trials.append(trial["n"])), 20, 60, seed)
        return trials

    assert seen(1) == seen(1)
    assert seen(1) != seen(2)


def test_the_smallest_cannot_be_lowered():
    space = {"a": (1, 100), "b": (0, 100), "seed": (0, 9)}

    def fails(trial):
        return trial["a"] >= 7 and trial["b"] % 5 == 3 and trial["seed"] in (2, 9)

    assert smallest({"a": 90, "b": 88, "seed": 9}, space, fails, 10) == {"a": 7, "b": 3, "seed": 2}


def test_a_smaller_size_may_need_another_seed():
    def fails(trial):
        return trial["n"] >= 2 and trial["seed"] == (5 if trial["n"] > 10 else 1)

    assert smallest({"n": 40, "seed": 5}, {"n": (1, 50), "seed": (0, 9)}, fails, 10) == {"n": 2, "seed": 1}


# --- drawing


def test_values_get_simpler_towards_zero():
    draw = Draw(SIGNATURE, EXAMPLE)
    sizes = {"batch": 4, "sequence": 5}
    zeros, one, ones, integers, drawn = (draw(sizes, 3, k)["x"] for k in range(len(VALUES)))
    assert not zeros.any()
    assert (one.sum(), np.count_nonzero(one)) == (1, 1)
    assert (ones == 1).all()
    assert set(np.unique(integers)) <= {-2, -1, 0, 1, 2}
    assert np.isin(drawn, EXAMPLE["x"]).all()
    assert all(array.shape == (4, 5, 2) and array.dtype == np.float32 for array in (zeros, one, ones, integers, drawn))


def test_lengths_are_of_the_kind_that_the_model_takes():
    sizes = {"batch": 50, "sequence": 6}
    plain = Draw(SIGNATURE, EXAMPLE)(sizes, 0)["lengths"]
    assert plain.min() == 1
    assert plain.max() == 6
    falling = Draw(SIGNATURE, EXAMPLE, sorted_lengths=True)(sizes, 0)["lengths"]
    assert (np.diff(falling) <= 0).all()
    assert (Draw(SIGNATURE, EXAMPLE, full_lengths=True)(sizes, 0)["lengths"] == 6).all()


# --- rnn_runtime.verify


def test_a_level_a_property_and_a_trial_are_checked(files):
    path = files / "rnn.onnx"
    with pytest.raises(InputError, match="level is 'fast'; expected 'quick', 'default', 'full'"):
        rnn_runtime.verify(path, level="fast")
    with pytest.raises(InputError, match="there is no property 'drift' here: rows, split, padding, state"):
        rnn_runtime.verify(path, only="drift")
    with pytest.raises(InputError, match="a trial is one of a property: name that too"):
        rnn_runtime.verify(path, trial={"batch": 1})
    with pytest.raises(InputError, match=r"the trial is .*; expected numbers by name"):
        rnn_runtime.verify(path, only="rows", trial={"batch": -1})


def test_a_bare_file_is_verified_too(files):
    told = []
    report = rnn_runtime.verify(files / "rnn.onnx", level="quick", progress=lambda *now: told.append(now))
    assert report.passed, str(report)
    assert not report.rows
    assert {check.property for check in report.checks} == set(BY_NAME)
    assert told == [(name, k, len(BY_NAME)) for k, name in enumerate(BY_NAME)]
    assert report.about["level"] == "quick"
    assert report.about["versions"].keys() == {"python", "numpy", "onnxruntime"}
