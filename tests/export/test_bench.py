"""Backends side by side: equal before they are timed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from rnn_export import _bench, export
from rnn_export._bench import _baseline
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
        ({"rounds": 1.5}, "rounds is 1.5; expected 1 or more, a whole number"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": float("inf")}, "seconds is inf; expected 0.001 or more$"),
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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_table_names_another_precision_than_the_models(tmp_path, monkeypatch, capsys, precision):
    monkeypatch.chdir(tmp_path)
    for words in (f"export gru -o gru --format onnx --precision {precision}", "bench gru --rounds 1 --seconds 0.01"):
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["rnn-export", *words.split()])
        main()
    title = capsys.readouterr().out.splitlines()[0]
    assert title.endswith("1 thread" if precision == "fp32" else "1 thread, int8")


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
    with pytest.raises(Error, match="eager fails: InputError: the state of its loops or windows is lifted"):
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


def saved(path, p50=10e-6, spread=(9e-6, 11e-6), sizes=None, backend="onnxruntime", threads=1, **about):
    """A benchmark as --save writes it."""
    row = {"backend": backend, "sizes": sizes or {"batch": 2}, "p50": p50, "p90": p50, "p99": p50, "spread": spread}
    about = {"hardware": "this", "versions": {"onnxruntime": "1.32.0"}, **about}
    files = {name: {backend: 1} for name in ("load", "memory", "size")}
    content = {"version": 1, "timings": [{**row, "throughput": 1.0}], **files, "threads": threads, "about": about}
    path.write_text(json.dumps(content))
    return _baseline.load(path)


@pytest.mark.parametrize(
    ("now", "spread", "slower"),
    [
        (12e-6, (11.5e-6, 12.5e-6), False),  # at the bound itself
        (12.1e-6, (11.5e-6, 12.5e-6), True),
        (12.1e-6, (10.9e-6, 12.5e-6), False),  # a round as fast as one of before
        (8e-6, (7e-6, 9e-6), False),
    ],
)
def test_slower_is_above_the_bound_and_beyond_the_spread(tmp_path, now, spread, slower):
    before, after = saved(tmp_path / "a"), saved(tmp_path / "b", now, spread)
    found = _baseline.compare(after, before, 1.2)
    (change,) = found.changes
    assert change.slower == slower and change.ratio == pytest.approx(now / 10e-6)
    assert change.spread == pytest.approx((spread[0] / 11e-6, spread[1] / 9e-6))
    assert ("SLOWER than 1.2" in str(found)) == slower
    if slower:
        with pytest.raises(
            _baseline.SlowerError, match=r"slower than 1.2 times .* onnxruntime at batch=2 \(1.21\)"
        ) as error:
            found.require()
        assert error.value.exit_code == 5
    else:
        found.require()


def test_what_is_not_the_same_and_what_is_known_of_a_version_is_said(tmp_path):
    before = saved(tmp_path / "a", threads=2, hardware="other", versions={"onnxruntime": "1.21.0", "numpy": "2.4"})
    text = str(_baseline.compare(saved(tmp_path / "b"), before, 1.2))
    assert "hardware: other before, this now" in text and "says nothing of the software" in text
    assert "threads: 2 before, 1 now" in text
    assert "onnxruntime: 1.21.0 before, 1.32.0 now" in text and "numpy: 2.4 before, none now" in text
    assert "note: onnxruntime 1.21.0 has a GRU kernel that was reported as 7 to 21 % slower" in text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read"),
        ("[]", "no benchmark that --save wrote"),
        ("{", "no benchmark"),
        ('{"version": 0}', "another version"),
        ('{"version": 1, "timings": [{}]}', "no benchmark"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path, content, text):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=text):
        _baseline.load(tmp_path / "x.json")


@pytest.mark.parametrize("row", [{"p50": 0}, {"spread": (0, 1e-6)}, {"spread": (1e-6,)}, {"versions": 2}])
def test_a_baseline_that_was_changed_by_hand_is_refused(tmp_path, row):
    with pytest.raises(InputError, match="no benchmark that --save wrote"):
        saved(tmp_path / "a", **row)


def test_sizes_that_were_not_measured_are_named_and_none_in_common_is_refused(tmp_path):
    before = saved(tmp_path / "a", sizes={"batch": 3})
    with pytest.raises(InputError, match="no backend and size in common"):
        _baseline.compare(saved(tmp_path / "b"), before, 1.2)
    with pytest.raises(InputError, match=r"the bound is 0\.9"):
        _baseline.compare(before, before, 0.9)
    both = replace(before, timings=(*before.timings, *saved(tmp_path / "b").timings))
    assert _baseline.compare(before, both, 1.2).missing == ("onnxruntime at batch=2",)


def test_the_command_saves_compares_and_has_an_exit_code_of_its_own(bundle, tmp_path, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(
            "sys.argv", ["rnn-export", "bench", str(bundle), "--rounds", "2", "--seconds", "0.01", *words]
        )
        try:
            main()
        except SystemExit as end:
            return end.code
        return 0

    file = tmp_path / "base.json"
    assert command("--save", str(file)) == 0
    assert command("--baseline", str(file), "--bound", "1000") == 0
    assert "now ÷ before" in capsys.readouterr().out
    fast = json.loads(file.read_text())
    for row in fast["timings"]:
        row["p50"], row["spread"] = row["p50"] / 1e3, [value / 1e3 for value in row["spread"]]
    file.write_text(json.dumps(fast))
    assert command("--baseline", str(file), "--json") == 5
    said = capsys.readouterr()
    assert json.loads(said.out)["version"] == 1 and "SLOWER" in said.err and "error: slower than 1.2 times" in said.err
    for words in (["--save", str(tmp_path / "no" / "x.json")], ["--plot", str(tmp_path / "no" / "x.svg")]):
        assert command(*words) == 2
        said = capsys.readouterr()
        assert "cannot be written: there is no folder" in said.err and said.out == ""  # before anything was timed
