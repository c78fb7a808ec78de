"""Ids that the model's embedding does not have: refused by name and range, before anything runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_runtime import IdsSpec, InputError, Model, StreamPool, UnknownId, load, score

FIVE = (IdsSpec("ids", 5),)
STATES = {"h_0": "h_n"}


@pytest.fixture
def sealed(tmp_path: Path, files: Path, reseal: Callable[..., Path]) -> Callable[[str], Path]:
    """A bundle of a fixture whose input `ids` has five ids."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.onnx").write_bytes((files / f"{name}.onnx").read_bytes())
        bare = load(files / f"{name}.onnx", states=STATES if name == "ids" else None)
        return reseal(folder, signature=replace(bare.signature, ids=FIVE))

    return make


def ids(value: Any, at: int = 2) -> np.ndarray:
    """Three steps of one row, one of which is `value`."""
    found = np.ones((3, 1), np.int64)
    found[at, 0] = value
    return found


BAD = [-1, 5, -5, 2**62, -(2**63)]


@pytest.mark.parametrize("value", BAD)
def test_a_run_names_input_id_and_range(sealed: Callable[[str], Path], value: int) -> None:
    model = load(sealed("ids"))
    assert model.signature.ids == FIVE
    for _ in range(2):  # the second time the form is known
        with pytest.raises(UnknownId) as caught:
            model.run(ids(value))
        assert str(caught.value) == (
            f"ids[2, 0] is {value}; the model has the ids 0 to 4: "
            "give one of them, such as the one that stands for unknown words"
        )
        assert isinstance(caught.value, InputError)
        for good in (0, 4):
            assert model.run(ids(good))["output"].shape == (3, 1, 3)


@pytest.mark.parametrize("pushes", range(6))  # the first of a shape, the second, those after, and the fast path
@pytest.mark.parametrize("value", [-1, 5])
def test_a_push_of_one_leaves_the_state(sealed: Callable[[str], Path], pushes: int, value: int) -> None:
    model = load(sealed("ids"))
    stream = model.stream()
    for k in range(pushes):
        stream.push(ids(4 * (k % 2)))
    before = stream.state
    for _ in range(2):
        with pytest.raises(UnknownId, match=rf"ids\[1, 0\] is {value}; the model has the ids 0 to 4"):
            stream.push(ids(value, 1))
    np.testing.assert_array_equal(stream.state["h_0"], before["h_0"])
    for good in (0, 4):
        want = model.run({"ids": ids(good), **stream.state})["output"]
        np.testing.assert_allclose(stream.push(ids(good))["output"], want, rtol=0, atol=1e-6)


def test_other_problems_come_first(sealed: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="'ids' has dtype int32") as caught:
        load(sealed("ids")).run(ids(5).astype(np.int32))
    assert not isinstance(caught.value, UnknownId)


def of_words(*values: int) -> dict[str, np.ndarray]:
    return {"ids": np.array([values]), "gain": np.ones(1, np.float32)}


@pytest.mark.parametrize("value", [-1, 5])
def test_among_several_inputs_and_in_a_pool(sealed: Callable[[str], Path], value: int) -> None:
    model = load(sealed("words"))
    stream = model.stream()
    with StreamPool(model, 1) as pool, pool.open() as pooled:
        for _ in range(4):
            for take in (model.run, stream.push, pooled.push):
                take(of_words(0, 4))
                with pytest.raises(UnknownId, match=rf"ids\[0, 1\] is {value}; the model has the ids 0 to 4"):
                    take(of_words(1, value))
        assert pool.metrics().errors == 0  # refused before they were queued


def test_a_constant_is_looked_at_once(sealed: Callable[[str], Path]) -> None:
    folder = sealed("words")
    with pytest.raises(UnknownId, match=r"ids\[0, 1\] is 5"):
        load(folder, constants={"ids": np.array([[1, 5]])})
    assert load(folder, constants={"ids": np.array([[1, 4]])}).signature.ids == ()


def test_scoring_names_the_row(sealed: Callable[[str], Path], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [[1, 2], [0, 4], [3, -1]]
    columns = {"ids": pa.array(rows), "gain": pa.array([1.0] * 3, pa.float32())}
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(UnknownId, match=r"row 2: ids\[0, 1\] is -1; the model has the ids 0 to 4"):
        score(sealed("words"), tmp_path / "rows.parquet", tmp_path / "out")


def test_an_ort_value_is_not_looked_at(sealed: Callable[[str], Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model: Model = load(sealed("ids"))
    value = onnxruntime.OrtValue.ortvalue_from_numpy(ids(-1))
    want = model.run(ids(4))["output"]  # as ONNX's Gather has it
    np.testing.assert_array_equal(model.run(value)["output"].numpy(), want)
