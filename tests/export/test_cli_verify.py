"""rnn-export verify, as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import rnn_runtime
from rnn_export import export

_spec = importlib.util.spec_from_file_location("broken_bundles", Path(__file__).parent / "broken.py")
broken = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(broken)

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'rnn-export'; from rnn_export.cli import main; main()"]


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [*COMMAND, "verify", *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def wrong(bundles, tmp_path):
    """A GRU whose reset gate comes too early."""

    def edit(graph):
        (node,) = broken.nodes(graph, "GRU")
        broken.attribute(node, "linear_before_reset").i = 0

    return broken.broken(bundles["gru"], tmp_path, edit)


def test_a_sound_bundle_passes_and_a_pipe_gets_no_progress_bar(bundles, tmp_path):
    done = run(bundles["gru"].path, "gru", "--quick", "--junit", tmp_path / "r.xml", "--html", tmp_path / "r.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nonfinite" in done.stdout
    assert "NaN is swallowed, as documented" in done.stdout
    assert ElementTree.parse(tmp_path / "r.xml").getroot().tag == "testsuites"
    assert "<h1>Passed</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_broken_bundle_is_exit_code_1_and_its_command_makes_it_again(wrong):
    done = run(wrong, "gru", "--quick", "--json")
    assert done.returncode == 1
    assert "does not match" in done.stderr
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["verdict"] == "failed"]
    weights = next(check for check in failed if check["property"] == "weights")
    assert shlex.split(weights["command"])[2:] == [str(wrong), "gru", "--property", "weights"]
    check = next(check for check in failed if check["trial"] is not None)
    assert report["divergences"][0]["reason"].endswith("(linear_before_reset=0)")
    command = shlex.split(check["command"])
    assert command[:4] == ["rnn-export", "verify", str(wrong), "gru"]
    again = run(*command[2:], "--json")
    assert again.returncode == 1
    (found,) = json.loads(again.stdout)["checks"]
    assert (found["trial"], found["error"], found["trials"]) == (check["trial"], check["error"], 1)


def test_without_a_target_the_properties_that_need_none_are_checked(bundles, wrong):
    done = run(bundles["tagger"].path, "--quick", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    verdicts = {check["property"]: check["verdict"] for check in report["checks"]}
    assert verdicts == {
        "rows": "passed", "split": "skipped", "padding": "passed", "state": "skipped", "determinism": "passed",
        "empties": "passed",
    }  # fmt: skip
    assert run(wrong, "--quick").returncode == 1  # what was recorded is another thing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace"], "--trace and --tolerance need TARGET"),
        (["--trial", "batch"], "'batch' is not of the form batch=1,sequence=2,seed=0"),
        (["--trial", "batch=1"], "a trial is one of a property: name that too"),
        (["--property", "speed"], "there is no property 'speed' here"),
        (["--backend", "openvino"], "without TARGET the one backend is onnxruntime-cpu"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(bundles, arguments, said):
    done = run(bundles["hello"].path, "--quick", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_gets_a_progress_bar(bundles):
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, "verify", bundles["hello"].path, "--quick"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    ) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        assert process.stdout is not None
        printed = process.stdout.read()
    os.close(master)
    assert process.returncode == 0
    assert "━" in seen.decode(errors="replace")
    assert "━" not in printed


@pytest.mark.parametrize("option", ["--html", "--junit"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(bundles, tmp_path, option):
    done = run(bundles["gru"].path, "--quick", option, tmp_path / "no" / "r")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot be written: there is no folder {tmp_path / 'no'}" in done.stderr


@pytest.mark.parametrize("option", ["--html", "--junit"])
def test_and_what_was_found_is_told_whatever_becomes_of_the_file(bundles, tmp_path, option, monkeypatch, capsys):
    """A disk that fills up meanwhile."""
    from rnn_export.cli import main

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    words = ["rnn-export", "verify", str(bundles["gru"].path), "--quick", option, str(tmp_path / "r")]
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2 and "No space left" in said.err
    assert "determinism" in said.out


class Unpadded(nn.Module):
    """Three steps make one, so a sequence in pieces has fewer: no stream, and no fault of the bundle's."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru = nn.Conv1d(4, 6, 3), nn.GRU(6, 8, batch_first=True)

    def forward(self, x, h):
        return self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2), h)


def test_a_model_whose_pieces_are_shorter_is_not_asked_to_be_one_from_them(tmp_path):
    torch.manual_seed(0)
    axes = {"x": {0: "batch", 1: "sequence"}, "h": {1: "batch"}}
    export(Unpadded(), (torch.randn(3, 9, 4), torch.zeros(1, 3, 8)), tmp_path / "b", axes=axes, formats=["onnx"])
    lacking = json.loads((tmp_path / "b/manifest.json").read_text())["verified"]["lacking"]
    assert re.match(
        r"eager PyTorch itself does not have it: output shape \(2, \d, 8\), expected \(2, \d, 8\)", lacking["split"]
    )
    done = run(tmp_path / "b", "--quick")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_a_bundle_of_large_results_knows_another_models_graph(tmp_path, precision):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.out = nn.GRU(16, 24), nn.Linear(24, 5)

        def forward(self, x):
            return self.out(self.gru(x)[0]) * 1000

    for seed in (0, 1):
        torch.manual_seed(seed)
        options = {"axes": {"x": {0: "sequence", 1: "batch"}}, "precision": precision}
        bundle = export(Scaled(), torch.randn(5, 3, 16), tmp_path / str(seed), **options)
    assert max(json.loads((bundle.path / "manifest.json").read_text())["tolerance"].values()) < 0.2
    rnn_runtime.load(bundle).check()
    (bundle.path / "model.onnx").write_bytes((tmp_path / "0/model.onnx").read_bytes())
    broken.reseal(bundle.path)
    with pytest.raises(rnn_runtime.MismatchError):
        rnn_runtime.load(bundle).check()
