"""How many threads a model gets."""

from pathlib import Path

import numpy as np
import pytest

from rnn_runtime import _threads
from rnn_runtime._model import load


@pytest.mark.parametrize(("weights", "expected"), [(0, 1), (_threads.LARGE - 1, 1), (_threads.LARGE, 3)])
def test_large_models_get_more(monkeypatch: pytest.MonkeyPatch, weights: int, expected: int) -> None:
    monkeypatch.setattr(_threads, "usable", lambda _: 3)
    assert _threads.choose(weights) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("nonsense", 8), (None, 8)],
)
def test_a_container_s_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert _threads.usable(tmp_path) == expected
    assert _threads.choose(_threads.LARGE, tmp_path) == min(expected, 4)


@pytest.mark.parametrize("name", ["rnn.onnx", "bundle"])
def test_threads_spin_where_they_are_told_to(files: Path, bundle: Path, name: str) -> None:
    x = np.zeros((3, 2, 4), np.float32)
    outputs = []
    for spin in (False, True):
        model = load(bundle if name == "bundle" else files / name, threads=2, spin=spin)
        options = model._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "01"[spin]
        outputs.append(model.run(x)[0])
    np.testing.assert_array_equal(*outputs)


def test_a_small_model_runs_on_one(files: Path) -> None:
    options = load(files / "rnn.onnx")._session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
