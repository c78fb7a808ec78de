"""tune: each way of writing the layers measured, the fastest in the bundle, and nothing lost where it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rnn_runtime
from rnn_export import ExportError, MismatchError, _tune, export
from rnn_export._tune import Candidate, tune
from rnn_runtime import BundleError, InputError
from rnn_runtime._bundle import Bundle

MODELS = """
import torch
from torch import nn

def made(seed, layer):
    torch.manual_seed(seed)
    return layer()

def right(): return made(0, lambda: nn.RNN(4, 64))
def other(): return made(1, lambda: nn.RNN(4, 64))
def wider(): return made(0, lambda: nn.RNN(5, 64))
"""


@pytest.fixture
def rnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle of an RNN that is a Scan, whose model is tuned_models:right."""
    (tmp_path / "tuned_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tuned_models", raising=False)
    torch.manual_seed(0)
    return export(nn.RNN(4, 64), torch.randn(5, 3, 4), tmp_path / "b", formats=("onnx",)).path


def _measure(**ratios: float) -> Callable[..., tuple[Candidate, ...]]:
    """What stands for the measurement: each lowering's ratio, and 0.9 of the rounds won where it is below 1."""

    def measured(_sealed: Any, folders: Any, *_: Any) -> tuple[Candidate, ...]:
        known = {name: ratios.get(name, 1.0) for name in folders}
        return tuple(Candidate(n, r * 1e-5, (r * 1e-5, r * 1e-5), r, 0.9 if r < 1 else 0.0) for n, r in known.items())

    return measured


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("sequence", "what"), [(1, "push"), (7, "run")])
def test_each_way_is_measured_and_noted(rnn: Path, sequence: int, what: str) -> None:
    found = tune(rnn, "tuned_models:right", sizes={"batch": 1, "sequence": sequence}, rounds=2, seconds=0.001)
    assert (found.what, found.sizes, found.before) == (what, {"sequence": sequence, "batch": 1}, "auto")
    assert [one.lowering for one in found.candidates] == ["auto", "fused"]
    assert found.candidates[0].ratio == 1.0
    assert all(0 < one.spread[0] <= one.p50 <= one.spread[1] for one in found.candidates)
    noted = Bundle.open(rnn).manifest["tuned"]
    assert noted == json.loads(found.to_json())
    assert noted["about"]["versions"]["onnxruntime"]
    assert noted["about"]["hardware"]
    Bundle.open(rnn).verify_files()
    assert rnn_runtime.load(rnn).check().passed


@pytest.mark.parametrize(
    ("ratio", "won", "winner"),
    [(0.96, 0.9, "fused"), (0.97, 0.9, "fused"), (0.98, 1.0, "auto"), (0.5, 0.85, "auto"), (1.2, 0.0, "auto")],
)
def test_another_way_wins_by_more_than_the_noise(
    rnn: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, won: float, winner: str
) -> None:
    present = Candidate("auto", 1e-5, (1e-5, 1e-5), 1.0, 0.0)
    other = Candidate("fused", ratio * 1e-5, (1e-5, 1e-5), ratio, won)
    monkeypatch.setattr(_tune, "_measured", lambda *_: (present, other))
    before = _contents(rnn)
    found = tune(rnn, "tuned_models:right")
    assert found.lowering == winner
    sealed, after = Bundle.open(rnn), _contents(rnn)
    assert sealed.manifest["options"]["lowering"] == winner
    assert (after["model.onnx"] == before["model.onnx"]) is (winner == "auto")
    assert set(sealed.files) == {"model.onnx", "golden.npz"} | ({"step.onnx"} if winner == "auto" else set())
    assert sealed.manifest["verified"]["shapes"] == json.loads(before["manifest.json"])["verified"]["shapes"]
    assert rnn_runtime.load(rnn).check().passed


def test_a_tuned_bundle_is_tuned_again(rnn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tune, "_measured", _measure(fused=0.5))
    assert tune(rnn, "tuned_models:right").lowering == "fused"
    monkeypatch.setattr(_tune, "_measured", _measure(auto=0.5))
    found = tune(rnn, "tuned_models:right")
    assert (found.before, found.lowering) == ("fused", "auto")
    assert str(found).endswith("written with lowering='auto' in place of 'fused', and verified again")


@pytest.mark.parametrize(
    ("target", "sizes", "message"),
    [
        (None, {}, "name the TARGET that it was exported from"),
        ("tuned_models:other", {}, "is not the model in .*'output' differs by"),
        ("tuned_models:wider", {}, "its inputs and outputs are others"),
        ("tuned_models:none", {}, "no function 'none'"),
        ("tuned_models:right", {"time": 3}, "the model has no axis 'time'"),
        ("tuned_models:right", {"batch": 0}, "expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_bundle_is_as_it_was(
    rnn: Path, target: str | None, sizes: dict[str, int], message: str
) -> None:
    before = _contents(rnn)
    with pytest.raises(InputError, match=message):
        tune(rnn, target, sizes=sizes)
    assert _contents(rnn) == before
    assert sorted(file.name for file in rnn.parent.iterdir() if file.name != "__pycache__") == ["b", "tuned_models.py"]


def test_what_fails_half_way_leaves_the_bundle_as_it_was(rnn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(*_: Any) -> None:
        raise MismatchError("they differ", None)

    before = _contents(rnn)
    monkeypatch.setattr(_tune, "require_equal", differ)
    with pytest.raises(MismatchError):
        tune(rnn, "tuned_models:right", rounds=1, seconds=0.001)
    assert _contents(rnn) == before
    assert sorted(file.name for file in rnn.parent.iterdir() if file.name != "__pycache__") == ["b", "tuned_models.py"]


@pytest.mark.parametrize("error", [MismatchError("the export leaves eager PyTorch:\na table", None), ExportError("no")])
def test_a_way_that_cannot_be_exported_is_said_and_the_present_one_kept(
    rnn: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(_tune, "export", fail)
    before = _contents(rnn)
    found = tune(rnn, "tuned_models:right", rounds=1, seconds=0.001)
    assert (found.candidates, found.lowering) == ((), "auto")
    assert found.refused == {"fused": str(error).partition("\n")[0].removesuffix(":")}
    assert f"not fused: {found.refused['fused']}" in str(found)
    after = _contents(rnn)
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}


def test_where_there_is_one_way_no_model_is_needed(tmp_path: Path) -> None:
    export(nn.GRU(4, 3).double(), torch.randn(5, 3, 4).double(), tmp_path / "b", formats=("onnx",))
    found = tune(tmp_path / "b")
    assert (found.candidates, found.lowering) == ((), "auto")
    assert found.refused == {
        "fused": "lowering='fused', but the GRU is float64, and ONNX Runtime has no operator for that"
    }
    assert Bundle.open(tmp_path / "b").manifest["tuned"]["lowering"] == "auto"


def test_graphs_that_were_written_for_others_or_are_not_there_are_refused(tmp_path: Path, rnn: Path) -> None:
    export(nn.GRU(4, 3), torch.randn(5, 3, 4), tmp_path / "d", lowering="decomposed", sizes={"sequence": 5})
    with pytest.raises(InputError, match="is decomposed"):
        tune(tmp_path / "d")
    export(nn.GRU(4, 3), torch.randn(5, 3, 4), tmp_path / "o", target="openvino")
    with pytest.raises(InputError, match="is for openvino"):
        tune(tmp_path / "o")
    export(nn.GRU(4, 3), torch.randn(5, 3, 4), tmp_path / "t", formats=("torchscript",))
    with pytest.raises(InputError, match="export the model again, with 'onnx'"):
        tune(tmp_path / "t")
    with pytest.raises(BundleError, match="there is no folder"):
        tune(tmp_path / "none")
    manifest = json.loads((rnn / "manifest.json").read_text())
    del manifest["options"]  # as older versions wrote it
    (rnn / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="does not say how its graph was written"):
        tune(rnn, "tuned_models:right")


def test_the_command_prints_json_and_says_what_is_wrong(rnn: Path) -> None:
    command = [sys.executable, "-c", "from rnn_export.cli import main; main()", "tune", str(rnn)]
    done = subprocess.run(
        [
            *command,
            "tuned_models:right",
            "--batch",
            "1",
            "--sequence",
            "2",
            "--rounds",
            "1",
            "--seconds",
            "0.001",
            "--json",
        ],
        cwd=rnn.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    shown = subprocess.run([*command[:3], "inspect", str(rnn)], capture_output=True, text=True, check=True).stdout
    assert ("a graph of its own for one step of sequence" in shown) is (found["lowering"] != "fused")
    assert "tuned at sequence=2 batch=1, threads 1, on " in shown
    assert (found["version"], found["sizes"], len(found["candidates"])) == (1, {"sequence": 2, "batch": 1}, 2)
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: ") and "name the TARGET" in wrong.stderr
