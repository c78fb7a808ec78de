"""docs/coming-from.md and docs/policies.md: every block runs, and does what the text says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import rnn_runtime

DOCS = Path(__file__).parent.parent.parent / "docs"
RECURRENT = {"RNN", "LSTM", "GRU", "Scan", "Loop", "If"}


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def operators(bundle):
    return {node.op_type for node in onnx.load(Path(bundle) / "model.onnx").graph.node}


def test_coming_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "guide"}
    for block in blocks("coming-from.md"):
        exec(compile(block, "coming-from.md", "exec"), scope)
        assert len([line for line in block.splitlines() if line.strip()]) <= 16
    said = capsys.readouterr().out
    assert "onnxruntime-cpu" in said
    assert "it draws random numbers, which a graph does not. Take them as an argument" in said
    assert not Path("build/noisy").exists()
    assert scope["rows"]["output"].shape == (2, 7, 8)
    assert "Scan" in operators("build/own")
    assert scope["action"].shape == (1, 2)
    assert "1_h_0" in said
    assert "MatMulInteger" in operators("build/int8")
    assert float(re.search(r"signal to noise (.*) dB", said)[1]) >= 30
    assert not operators("build/chip") & RECURRENT
    nodes = [n for n in onnx.load("build/forward/model.onnx").graph.node if n.op_type == "LSTM"]
    assert len(nodes) == 2
    assert np.concatenate(scope["forecast"], 1).shape == (1, 12, 1)
    assert len(scope["tokens"]) == 2 and all(0 not in row and len(row) <= 20 for row in scope["tokens"])


def test_there_is_an_answer_to_each_of_the_twelve_wishes():
    text = (DOCS / "coming-from.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d+)\. ", text, re.MULTILINE) == [str(k) for k in range(1, 13)]
    assert (
        len(re.split(r"^## \d+\. ", text, flags=re.MULTILINE)) - 1
        == sum("```python" in s for s in text.split("\n## ")) - 1
    )


@pytest.mark.parametrize("name", ["coming-from.md", "targets.md"])
def test_what_a_guide_links_to_is_there(name):
    for link in re.findall(r"\]\(([^)#]+)\)", (DOCS / name).read_text(encoding="utf-8")):
        assert (DOCS / link).exists(), link


class Contrib(nn.Module):
    """What the recipe uses of sb3-contrib's RecurrentActorCriticPolicy."""

    def __init__(self):
        super().__init__()
        self.pi_features_extractor = nn.Flatten()
        self.lstm_actor, self.lstm_critic = nn.LSTM(12, 32, num_layers=2), nn.LSTM(12, 32)
        self.mlp_extractor = nn.Module()
        self.mlp_extractor.policy_net = nn.Sequential(nn.Linear(32, 16), nn.Tanh())
        self.action_net = nn.Linear(16, 4)

    def act(self, obs, states, episode_starts):
        """Step by step over the batch, as the package does it where an episode may begin."""
        keep = (1.0 - episode_starts).view(1, -1, 1)
        y, states = self.lstm_actor(self.pi_features_extractor(obs)[None], tuple(keep * s for s in states))
        return self.action_net(self.mlp_extractor.policy_net(y[0])), states


class Rsl(nn.Module):
    """What the recipe uses of rsl_rl's ActorCriticRecurrent."""

    def __init__(self, cell):
        super().__init__()
        self.memory_a = nn.Module()
        self.memory_a.rnn, self.memory_a.hidden_state = cell(12, 32), None
        self.actor = nn.Sequential(nn.Linear(32, 16), nn.ELU(), nn.Linear(16, 4))

    def act(self, obs, dones):
        memory = self.memory_a
        if memory.hidden_state is not None:
            parts = memory.hidden_state if isinstance(memory.hidden_state, tuple) else (memory.hidden_state,)
            for part in parts:
                part[..., dones.bool(), :] = 0.0
        y, memory.hidden_state = memory.rnn(obs.unsqueeze(0), memory.hidden_state)
        return self.actor(y.squeeze(0))


@pytest.mark.reported("S3", "F")
@pytest.mark.reported("S4", "F")
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_policies(tmp_path, monkeypatch, cell):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    contrib, rsl = Contrib().eval(), Rsl(cell).eval()
    scope = {
        "__name__": "guide",
        "model": SimpleNamespace(policy=contrib),
        "runner": SimpleNamespace(alg=SimpleNamespace(policy=rsl)),
    }
    for block in blocks("policies.md"):
        exec(compile(block, "policies.md", "exec"), scope)
    for name, states in (("lstm-policy", 2), ("gru-policy", 1), ("ppo", 2), ("rsl", 2 if cell is nn.LSTM else 1)):
        manifest = json.loads(Path("build", name, "manifest.json").read_text())
        assert len(manifest["signature"]["states"]) == states
    obs = torch.randn(6, 3, 12)
    starts = torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]])
    got = {name: rnn_runtime.load(f"build/{name}").stream(batch=3) for name in ("ppo", "rsl")}
    contrib, rsl = contrib.double(), rsl.double()
    state = tuple(torch.zeros(2, 3, 32).double() for _ in range(2))
    for x, start in zip(obs, starts, strict=True):
        with torch.no_grad():
            want, state = contrib.act(x.double(), state, start.double())
            other = rsl.act(x.double(), start)
        feeds = {"obs": x.numpy(), "episode_start": start.numpy()}
        np.testing.assert_allclose(got["ppo"].push(feeds)["output"], want.numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(got["rsl"].push(feeds)["output"], other.numpy(), rtol=0, atol=1e-6)
