"""Every example in the README runs, and prints what the README says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
GUIDE = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
STREAMING = (Path(__file__).parent.parent / "docs" / "streaming.md").read_text(encoding="utf-8")
FIXTURES = Path(__file__).parent / "runtime" / "fixtures"
MAKEFILE = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", README, re.DOTALL)


def commands(block):
    """(command, output) for each line that starts with $."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def masked(text):
    """Errors in the last digit differ from processor to processor; where they are largest does too."""
    lines = [
        re.sub(r"\d\.?\d*e-\d\d +\w+\[[\d, ]+\] at batch=\d+ sequence=\d+ +|\d\.?\d*e-\d\d", "#", line)
        for line in text.splitlines()
    ]
    # Some processors take the sums of a row alone in the order in which they take them among others: nothing differs.
    lines = [re.sub(r"^(\w+ +passed +\d+ +)(?:0|#) ", r"\1# ", line) for line in lines]
    return "\n".join(re.sub(r" +", " ", re.sub(r"-{3,}", "---", line)) for line in lines).strip()


def run(arguments):
    from rnn_export.cli import main

    out = io.StringIO()
    sys.argv = arguments
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
    return out.getvalue()


def test_the_examples_run_in_the_order_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    seen = []
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
            seen.append("python")
            continue
        for command, expected in commands(block):
            if command == "make demo":
                command = re.search(r"^demo:.*\n\t\$\(VENV\)/bin/(.*)", MAKEFILE, re.MULTILINE)[1]
            arguments = shlex.split(command)
            assert arguments[0] == "rnn-export", command
            printed = run(arguments)
            if expected:
                assert masked(printed) == masked(expected), command
            seen.append(arguments[1])
    assert seen == ["export", "python", "python", "python", "python", "export", "run", "verify"]
    assert "torch" not in capsys.readouterr().err


def test_the_examples_of_the_guide_run_in_its_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 8
    scope = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, "models.md", "exec"), scope)
    # The chunks of the second, put together, are the whole.
    detector = scope["rnn_runtime"].load("build/detector")
    whole = detector.run(scope["x"])["output"]
    np.testing.assert_allclose(np.concatenate(scope["outputs"], 1), whole, atol=1e-6)


def test_the_examples_of_the_streaming_guide_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(["rnn-export", "export", "hello", "-o", "build/hello", "--format", "onnx"])
    shutil.copy(FIXTURES / "voice.onnx", "vad.onnx")
    blocks = re.findall(r"```python\n(.*?)```", STREAMING, re.DOTALL)
    assert len(blocks) >= 3
    scope = {"__name__": "streaming", "samples": np.zeros((1, 512), np.float32)}
    for block in blocks:
        exec(compile(block, "streaming.md", "exec"), scope)
    assert scope["probability"].shape == (1, 1)
    (script,) = (block for block in blocks if "ProcessPoolExecutor" in block)
    Path("script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "(5, 1, 2)\n", done.stderr


def test_the_mask_hides_errors_and_nothing_else():
    assert masked("eager 13 6.6e-08  output[49, 1, 1] at batch=7 sequence=64  passed") == masked(
        "eager 13 1e-07 h_n[0, 1] at batch=1 sequence=1 passed"
    )
    assert masked("-0.7497 passed") != masked("-0.7498 passed")
    assert masked("1e-07 passed") != masked("1e-07 FAILED")
    assert masked("rows  passed  1  0  2e-05") == masked("rows  passed  1  1.2e-07  2e-05")
    assert masked("rows  passed  1  0.5  2e-05") != masked("rows  passed  1  0  2e-05")


def test_every_command_is_in_the_readme():
    from rnn_export.cli import group

    for name in group.commands:
        assert f"`rnn-export {name} " in README or f"`rnn-export {name}`" in README, name


def test_the_two_examples_are_short():
    for kind, block in BLOCKS:
        if kind == "python":
            assert len([line for line in block.splitlines() if line.strip()]) <= 12
