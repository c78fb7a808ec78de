"""Every example runs as a user runs it, and gives what the model gives for a whole sequence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

EXAMPLES = Path(__file__).parent.parent / "examples"
CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,!?'"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `build`, with what the examples' first lines say to export."""
    import rnn_export
    import rnn_models

    folder = tmp_path_factory.mktemp("examples") / "build"
    for name in ("charlm", "gru"):
        arguments = rnn_models.get(name).export_arguments()
        rnn_export.export(path=folder / name, **arguments | {"formats": ["onnx"]})
    return folder


def run(name: str, folder: Path, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def written(model, prompt: str, characters: int) -> str:
    """Greedy text, from a run over all of it for each character."""
    text = prompt
    for _ in range(characters):
        ids = np.array([[CHARACTERS.index(c) for c in text]])
        text += CHARACTERS[model.run(ids)["logits"][0, -1].argmax()]
    return text


def test_a_plain_loop(build: Path) -> None:
    import rnn_runtime

    model = rnn_runtime.load(build / "charlm")
    assert run("loop.py", build) == run("loop.py", build, build / "charlm") == [written(model, "hello", 40)]


def test_a_pool_of_threads(build: Path) -> None:
    import rnn_runtime

    model = rnn_runtime.load(build / "charlm")
    lines = run("threads.py", build)
    assert len(lines) == 10
    for line in lines:
        assert line == written(model, line[:-40], 40)


def test_microphones(build: Path) -> None:
    import rnn_runtime

    model = rnn_runtime.load(build / "gru")
    lines = run("microphone.py", build)
    assert len(lines) == 4
    for seed, line in enumerate(lines):
        random = np.random.default_rng(seed)
        samples = np.concatenate(
            [random.standard_normal(random.integers(10, 40)).astype(np.float32) for _ in range(30)]
        )
        whole = samples[: len(samples) // 8 * 8].reshape(-1, 1, 8)
        loudest = np.abs(model.run(whole)["output"]).max()
        assert float(re.fullmatch(rf"microphone {seed}: (.*)", line)[1]) == pytest.approx(loudest, abs=1e-4)


def test_a_decoder_in_two_parts(tmp_path: Path) -> None:
    """Against the modules of the example itself, run by PyTorch one row and one step at a time."""
    import torch

    lines = run("decoder.py", tmp_path / "build")
    text = (EXAMPLES / "decoder.py").read_text(encoding="utf-8")
    scope: dict = {}
    exec(text[: text.index("source = torch.randint")], scope)
    assert len(lines) == 2
    for line, source in zip(lines, ([5, 9, 4, 4, 17], [3, 2, 8, 11, 6]), strict=True):
        memory = scope["encoder"](torch.tensor([source]))
        word, h, words = torch.tensor([scope["BEGIN"]]), torch.zeros(1, 24), []
        while len(words) < 12:
            scores, h = scope["step"](word, memory, h)
            word = scores.argmax(-1)
            if word.item() == scope["END"]:
                break
            words.append(str(word.item()))
        assert line.split() == words


def test_every_example_is_short_and_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60
        assert f'run("{path.name}"' in here
        assert f"python examples/{path.name}" in text
