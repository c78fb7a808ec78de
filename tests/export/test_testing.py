"""assert_parity, and the pytest plugin in the example that the documentation points to."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rnn_export import DeviceError, InputError
from rnn_export.testing import assert_parity

EXAMPLE = Path(__file__).parents[2] / "examples" / "parity"
AXES = {"x": {0: "batch", 1: "sequence"}}


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def test_a_model_that_keeps_its_parity_gives_the_report(tmp_path):
    report = assert_parity(Plain(), torch.randn(2, 5, 3), axes=AXES, path=tmp_path / "kept", formats=["onnx"])
    assert report.passed
    assert {"values", "rows", "determinism"} <= {check.property for check in report.checks}
    assert (tmp_path / "kept" / "manifest.json").is_file()


@pytest.mark.parametrize("where", ["export", "verify"])
def test_a_model_that_does_not_is_an_assertion_with_the_report(monkeypatch, where):
    if where == "export":
        with pytest.raises(AssertionError, match=r"(?s)the export leaves eager PyTorch.*FAILED"):
            assert_parity(Plain(), torch.randn(2, 5, 3), axes=AXES, formats=["onnx"], tolerance=1e-12)
        return
    from rnn_export._properties import Values
    from rnn_runtime._properties._subject import failed

    monkeypatch.setattr(Values, "check", lambda self, subject, trial: [("y", failed("wrong"))])
    with pytest.raises(AssertionError, match=r"(?s)Plain does not keep its parity on cpu:.*values fails on"):
        assert_parity(Plain(), torch.randn(2, 5, 3), axes=AXES, formats=["onnx"])


def test_what_cannot_be_exported_or_run_says_so_itself():
    with pytest.raises(InputError, match="the example inputs hold no tensor"):
        assert_parity(nn.Sequential(), "nothing")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            assert_parity(Plain(), torch.randn(2, 5, 3), axes=AXES, formats=["onnx"], device="cuda")


def run(*arguments):
    installed = {entry.value for entry in importlib.metadata.entry_points(group="pytest11")}
    plugin = [] if "rnn_export._pytest_plugin" in installed else ["-p", "rnn_export._pytest_plugin"]
    options = ["-p", "no:cacheprovider", "-q", "--rootdir", ".", "-c", os.devnull, *plugin]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_passes_as_it_stands():
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_each_device_is_a_test_and_one_that_cannot_be_had_fails():
    done = run("--parity-device", "cpu", "--parity-device", "cuda", "-k", "parity and not stream")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "DeviceError" in done.stdout
