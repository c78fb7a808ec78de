"""Backends side by side: equal before they are timed."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import nn

from rnn_export import _bench, export
from rnn_export.cli import main
from rnn_runtime import Error, InputError, MismatchError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bench") / "gru"
    export(nn.GRU(3, 5), torch.randn(4, 2, 3), path, formats=["onnx", "torchscript", "pt2"])
    return path


def test_every_backend_is_timed_at_every_size(bundle):
    sizes = {"batch": [1, 3], "sequence": [1, 7]}
    found = _bench.bench(bundle, sizes=sizes, rounds=2, seconds=0.01)
    assert [(row.backend, row.sizes) for row in found.timings] == [
        (name, {"sequence": sequence, "batch": batch})
        for sequence in (1, 7)
        for batch in (1, 3)
        for name in ("onnxruntime", "torchscript", "torch.export")
    ]
    for row in found.timings:
        assert 0 < row.spread[0] <= row.p50 <= row.spread[1]
        assert row.p50 <= row.p99
        assert row.throughput == pytest.approx(row.sizes["batch"] * row.sizes["sequence"] / row.p50)
    assert found.load.keys() == found.memory.keys() == found.size.keys()
    # A backend's memory is its own: ONNX Runtime's process holds no PyTorch.
    assert found.memory["onnxruntime"] < found.memory["torchscript"]
    assert found.size["onnxruntime"] == (bundle / "model.onnx").stat().st_size
    assert json.loads(found.to_json())["version"] == 1
    assert str(found).count("torchscript") == 5


def test_a_backend_that_differs_stops_it_before_anything_is_timed(bundle, tmp_path):
    torch.manual_seed(1)
    other = tmp_path / "other"
    export(nn.GRU(3, 5), torch.randn(4, 2, 3), other)
    data = (bundle / "model.pt").read_bytes()
    (other / "model.pt").write_bytes(data)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"]["model.pt"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MismatchError, match=r"torchscript and onnxruntime differ on 'output' at .*: nothing was timed"):
        _bench.bench(other, rounds=1, seconds=0.01)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sizes": {"time": [1]}}, "no axis 'time': its axes are sequence, batch"),
        ({"sizes": {"batch": [0]}}, r"the sizes of 'batch' are \[0\]"),
        ({"sizes": {"batch": []}}, r"the sizes of 'batch' are \[\]"),
        ({"threads": 0}, "threads is 0; expected 1 or more"),
        ({"rounds": 0}, "rounds is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
    ],
)
def test_what_cannot_be_measured_is_refused(bundle, options, text):
    with pytest.raises(InputError, match=text):
        _bench.bench(bundle, **options)


def test_a_backend_that_fails_is_named(bundle):
    with pytest.raises(Error, match=r"eager fails: InputError: .*nothing"):
        _bench.bench(bundle, "nothing", rounds=1, seconds=0.01)


def test_the_command_has_eager_beside_them_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (
        "export charlm -o charlm --format onnx",
        "bench charlm charlm --size batch=1,2 --size sequence=3 --rounds 1 --seconds 0.01 --plot plot.svg",
        "bench charlm --rounds 1 --seconds 0.01 --json",
    ):
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["rnn-export", *words.split()])
        main()
        printed = capsys.readouterr().out
        if "--plot" in words:
            assert "eager" in printed
            assert "batch=2 sequence=3" in printed
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    assert [row["backend"] for row in json.loads(printed)["timings"]] == ["onnxruntime"]


LOOP = """
import torch
from torch import nn


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 5)
        steps = []
        for t in range(x.shape[1]):
            h = torch.relu(self.cell(x[:, t], h))
            steps.append(h)
        return torch.stack(steps, 1)


def make():
    torch.manual_seed(0)
    return {"model": Loop(), "example_inputs": torch.randn(2, 4, 3), "axes": {"x": {0: "batch", 1: "sequence"}},
            "state": "lift", "formats": ["onnx"]}
"""


def test_a_model_that_cannot_be_given_its_lifted_state_is_not_timed_as_eager(tmp_path, monkeypatch):
    (tmp_path / "looped.py").write_text(LOOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rnn-export", "export", "looped:make", "-o", "loop"])
    main()
    with pytest.raises(Error, match="eager fails: InputError: the state of its Python loops is lifted"):
        _bench.bench(tmp_path / "loop", "looped:make", rounds=1, seconds=0.01)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("bench gru --size batch", "is not of the form sequence=1,100"),
        ("bench gru --plot plot.gif", "none of .svg, .png and .pdf"),
        ("bench gru --weights w.pt", "--weights are TARGET's"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, capsys, words, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["rnn-export", *words.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert text in capsys.readouterr().err
