"""The graph for single steps: taken by runs of one step, read at the first of them, and checked as every file is."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_runtime import BundleError, Signature, StreamPool, _session, load


@pytest.fixture
def stepping(tmp_path: Path, files: Path, rnn_signature: Signature, reseal: Any, make_numbers: Any) -> Path:
    """A bundle whose graph for single steps has no biases, so that it tells by what it gives."""
    folder = tmp_path / "stepping"
    folder.mkdir()
    shutil.copy(files / "rnn.onnx", folder / "model.onnx")
    biases = make_numbers(2, 3, seed=23).tobytes()
    before, found, after = (files / "rnn.onnx").read_bytes().rpartition(biases)
    assert found  # the last weight in the file
    (folder / "step.onnx").write_bytes(before + bytes(len(biases)) + after)
    return Path(reseal(folder, signature=rnn_signature, step={"axis": "sequence"}))


@pytest.fixture
def close(expected: Callable[..., Any], make_numbers: Any) -> Callable[..., bool]:
    """Whether (output, h_n) is what the network gives for x from a state, with its biases or without."""
    bias = make_numbers(2, 3, seed=23).astype(np.float64).sum(axis=0)

    def check(result: Any, x: np.ndarray, h_0: np.ndarray | None, *, biases: bool) -> bool:
        if biases:
            want = expected(x, h_0)[0]
        else:
            w, r = (make_numbers(3, n, seed=s).astype(np.float64) for n, s in ((4, 3), (3, 11)))
            want = np.tanh(x.astype(np.float64) @ w.T + (np.zeros((1, x.shape[1], 3)) if h_0 is None else h_0) @ r.T)
        assert np.abs(bias).max() > 0.1
        return bool(np.abs(result["output"] - want).max() < 1e-6)

    return check


@pytest.mark.parametrize("batch", [1, 3])
def test_one_step_takes_the_graph_for_single_steps(stepping: Path, close: Any, make_numbers: Any, batch: int) -> None:
    model = load(stepping)
    for steps in (1, 2, 1, 5):
        x = make_numbers(steps, batch, 4)
        assert close(model.run(x), x, None, biases=steps > 1)


def test_a_stream_takes_it_push_by_push_also_where_buffers_are_bound(
    stepping: Path, close: Any, make_numbers: Any
) -> None:
    stream = load(stepping).stream(batch=2)
    for k, steps in enumerate([1, 1, 1, 1, 2, 2, 2, 1, 2, 1]):  # the third of a shape is bound
        before, x = stream.state["h_0"], make_numbers(steps, 2, 4, seed=k)
        assert close(stream.push(x), x, before, biases=steps > 1), k


def test_values_and_pools_take_it_too(stepping: Path, close: Any, make_numbers: Any) -> None:
    import onnxruntime

    model, x = load(stepping), make_numbers(1, 1, 4)
    given = model.run(onnxruntime.OrtValue.ortvalue_from_numpy(x))
    assert close({"output": given["output"].numpy()}, x, None, biases=False)
    with StreamPool(model, capacity=2) as pool, pool.open() as stream:
        assert close(stream.push(x), x, None, biases=False)
        h = stream.state["h_0"]
        assert close(stream.push(make_numbers(2, 1, 4)), make_numbers(2, 1, 4), h, biases=True)


def test_it_is_read_at_the_first_single_step_and_not_before(stepping: Path, close: Any, make_numbers: Any) -> None:
    (stepping / "step.onnx").write_bytes(b"x" * (stepping / "step.onnx").stat().st_size)
    model, two = load(stepping), make_numbers(2, 1, 4)
    stream = model.stream()
    assert close(stream.push(two), two, None, biases=True)
    before = stream.state["h_0"]
    with pytest.raises(BundleError, match=r"step\.onnx has the SHA-256"):
        stream.push(two[:1])
    np.testing.assert_array_equal(stream.state["h_0"], before)
    assert close(stream.push(two), two, before, biases=True)
    with pytest.raises(BundleError, match=r"step\.onnx has the SHA-256"):
        model.run(two[:1])


def test_a_graph_of_another_model_is_refused(stepping: Path, files: Path, reseal: Any, rnn_signature: Any) -> None:
    shutil.copy(files / "packed.onnx", stepping / "step.onnx")
    reseal(stepping, signature=rnn_signature, step={"axis": "sequence"})
    with pytest.raises(BundleError, match="does not fit its signature"):
        load(stepping).run(np.zeros((1, 1, 4), np.float32))


@pytest.mark.parametrize(
    "step", ["sequence", None, {}, {"axis": "steps"}, {"axis": 1}, {"axis": None}, ["axis", "sequence"]], ids=str
)
def test_a_damaged_entry_is_refused(stepping: Path, step: Any) -> None:
    manifest = json.loads((stepping / "manifest.json").read_text())
    (stepping / "manifest.json").write_text(json.dumps(manifest | {"step": step}))
    with pytest.raises(BundleError, match="its step is"):
        load(stepping)


def test_an_entry_without_the_file_is_refused(stepping: Path) -> None:
    manifest = json.loads((stepping / "manifest.json").read_text())
    del manifest["files"]["step.onnx"]
    (stepping / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="its step is"):
        load(stepping)


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_who_has_loaded_a_bundle_goes_on_with_it_when_it_is_replaced(
    stepping: Path, close: Any, make_numbers: Any, reseal: Any, rnn_signature: Any, how: str
) -> None:
    model, one = load(stepping), make_numbers(1, 2, 4)
    if how == "replaced":
        (stepping / "step.onnx").write_bytes(b"another model's")
        reseal(stepping, signature=rnn_signature, step={"axis": "sequence"}, name="another")
    else:
        shutil.rmtree(stepping)
    assert close(model.run(one), one, None, biases=True)  # the first graph takes single steps too
    stream = model.stream(batch=2)
    for _ in range(4):
        before = stream.state["h_0"]
        assert close(stream.push(one), one, before, biases=True)


def test_a_bundle_that_is_replaced_while_its_weights_are_read_is_not_mixed_with_the_other(
    stepping: Path, close: Any, make_numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, one, create = load(stepping), make_numbers(1, 1, 4), _session.create

    def slow(*arguments: Any, **options: Any) -> Any:
        made = create(*arguments, **options)
        shutil.rmtree(stepping)
        return made

    monkeypatch.setattr(_session, "create", slow)
    assert close(model.run(one), one, None, biases=True)


def test_threads_that_make_the_first_single_step_at_once_share_one_session(
    stepping: Path, close: Any, make_numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, create = [], _session.create

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(create(*arguments, **options))
        return made[-1]

    model, one, start = load(stepping), make_numbers(1, 1, 4), threading.Barrier(8)
    monkeypatch.setattr(_session, "create", counted)

    def step(_: int) -> Any:
        start.wait()
        return model.run(one)

    with ThreadPoolExecutor(8) as pool:
        assert all(close(result, one, None, biases=False) for result in pool.map(step, range(8)))
    assert len(made) == 1
