"""Requests to a model without state that come while others run are joined, and each has what it would have alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnn_runtime
from rnn_runtime import Error, InputError, LimitSpec, Model, Signature, TensorSpec
from rnn_runtime.serve._batcher import Batcher


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of x that the model is run on; -1 in it makes the run fail."""
    shapes: list[tuple[int, ...]] = []
    run = Model.run

    def spy(self: Model, inputs: Any) -> Any:
        shapes.append(inputs["x"].shape)
        if (inputs["x"] == -1).any():
            raise Error("a value is out of range")
        return run(self, inputs)

    monkeypatch.setattr(Model, "run", spy)
    return shapes


def features(count: int, shape: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(count)
    return [
        {"x": random.random(shape, np.float32), "s": random.random((shape[0], 1), np.float32)} for _ in range(count)
    ]


def ask(batcher: Batcher, requests: list[dict[str, np.ndarray]]) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*map(batcher.run, requests), return_exceptions=True)

    return asyncio.run(all_at_once())


def test_what_comes_while_one_runs_is_joined(files: Path, runs: list[tuple[int, ...]]) -> None:
    model = rnn_runtime.load(files / "features.onnx")
    requests = [*features(20, (2, 3, 4)), *features(15, (1, 5, 4)), *features(2, (70, 3, 4))]
    answers = ask(Batcher(model, workers=1), requests)
    # The first alone, as nothing ran yet; then 64 rows at most, but for what is larger by itself.
    assert runs == [(2, 3, 4), (38, 3, 4), (15, 5, 4), (70, 3, 4), (70, 3, 4)]
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer["s_next"], model.run(request)["s_next"], rtol=1e-6)


def test_what_is_joined_is_never_more_than_the_model_takes(files: Path, runs: list[tuple[int, ...]]) -> None:
    model = rnn_runtime.load(files / "features.onnx")
    limits = (LimitSpec("batch", 1, 7),)
    model = replace(model, signature=replace(model.signature, limits=limits))
    *answers, refused = ask(Batcher(model, workers=1), [*features(8, (2, 3, 4)), *features(1, (8, 3, 4))])
    assert runs == [(2, 3, 4), (6, 3, 4), (6, 3, 4), (2, 3, 4)]
    assert all(answer["s_next"].shape[0] == 2 for answer in answers)
    assert isinstance(refused, InputError)
    assert "'x', 's' have size 8 along 'batch'; the model was exported for 1 to 7" in str(refused)


def test_one_that_fails_fails_alone(files: Path, runs: list[tuple[int, ...]]) -> None:
    model = rnn_runtime.load(files / "features.onnx")
    requests = features(6, (1, 3, 4))
    requests[3]["x"][0, 0, 0] = -1
    requests[4] = {"x": requests[4]["x"]}
    answers = ask(Batcher(model, workers=1), requests)
    assert isinstance(answers[3], Error) and "out of range" in str(answers[3])
    assert isinstance(answers[4], InputError) and "the input 's' is missing" in str(answers[4])
    for k in (0, 1, 2, 5):
        np.testing.assert_allclose(answers[k]["s_next"], model.run(requests[k])["s_next"], rtol=1e-6)
    assert len(runs) == 1 + 1 + 4 + 4  # the first, the rest joined, those one by one, and the comparisons


def test_a_model_that_mixes_rows_gets_each_request_by_itself(
    tmp_path: Path, files: Path, reseal: Callable[..., Path], runs: list[tuple[int, ...]]
) -> None:
    data = (files / "features.onnx").read_bytes()
    signature = rnn_runtime.load(files / "features.onnx").signature
    eight_bits = {"operators": {"DynamicQuantizeLSTM": 1, "Add": 2}}
    mixed = {"verified": {"lacking": {"rows": "row 1 changes row 0"}}}
    for k, (says, joined) in enumerate([({}, True), (mixed, False), (eight_bits, False)]):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "model.onnx").write_bytes(data)
        reseal(folder, signature=signature, **says)
        runs.clear()
        ask(Batcher(rnn_runtime.load(folder), workers=1), features(8, (1, 3, 4)))
        assert len(runs) == (2 if joined else 8)


@pytest.mark.parametrize("name", ["ids.onnx", "two_inputs.onnx", "turned.onnx", "echo.onnx"])
def test_outputs_whose_size_depends_on_others_are_not_joined(name: str, files: Path) -> None:
    assert Batcher(rnn_runtime.load(files / name), workers=1)._axis is None


def test_as_many_run_at_once_as_there_are_workers(files: Path, runs: list[tuple[int, ...]]) -> None:
    ask(Batcher(rnn_runtime.load(files / "features.onnx"), workers=3), features(9, (1, 3, 4)))
    assert sorted(runs) == [(1, 3, 4)] * 3 + [(6, 3, 4)]


def test_steps_are_no_rows_where_the_batch_is_of_a_fixed_size(
    tmp_path: Path, files: Path, reseal: Callable[..., Path]
) -> None:
    x, output = (TensorSpec(name, "float32", ("steps", 1, 4)) for name in ("x", "output"))
    bare = rnn_runtime.load(files / "features.onnx")
    assert Batcher(replace(bare, signature=Signature((x,), (output,))), workers=1)._axis is None
    (tmp_path / "model.onnx").write_bytes((files / "features.onnx").read_bytes())
    for over in ("steps", "steps - 2", "2*steps"):
        reseal(tmp_path, signature=bare.signature, layers=[{"axis": over}])
        bundle = replace(rnn_runtime.load(tmp_path), signature=Signature((x,), (output,)))
        assert Batcher(bundle, workers=1)._axis is None, over
