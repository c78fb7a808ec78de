"""PyTorch's recurrent layers in all their options, on every backend, against float64."""

from __future__ import annotations

import itertools
import json
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

import rnn_runtime
from rnn_export import export

CELLS = {
    "rnn_tanh": lambda *a, **k: nn.RNN(*a, nonlinearity="tanh", **k),
    "rnn_relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
OPTIONS = list(itertools.product(CELLS, (1, 2, 3), (False, True), (False, True), (False, True), ("auto", "none")))
SLICE = random.Random(os.environ["RNN_EXPORT_SEED"]).sample(OPTIONS, 24)


@pytest.mark.parametrize(("cell", "layers", "both", "batch_first", "bias", "state"), SLICE)
def test_a_layer_with_these_options_is_right(tmp_path, eager64, cell, layers, both, batch_first, bias, state):
    torch.manual_seed(0)
    model = CELLS[cell](5, 4, layers, bidirectional=both, batch_first=batch_first, bias=bias)
    bundle = export(model, torch.randn(3, 6, 5), tmp_path / "bundle", state=state)
    runtime = rnn_runtime.load(bundle)
    script = torch.jit.load(bundle.path / "model.pt")
    for batch, sequence in ((1, 1), (2, 13), (7, 64)):
        x = torch.randn((batch, sequence, 5) if batch_first else (sequence, batch, 5))
        count = layers * (2 if both else 1)
        states = tuple(torch.randn(count, batch, 4) for _ in range(2 if cell == "lstm" else 1))
        states = states if state == "auto" else ()
        hx = (states if cell == "lstm" else states[0]) if states else None
        want = eager64(model, x, hx) if hx is not None else eager64(model, x)
        arrays = dict(zip(("input", "h_0", "c_0"), (x.numpy(), *(s.numpy() for s in states)), strict=False))
        got = list(runtime.run(arrays).values())
        traced = [tensor.detach().numpy() for tensor in script(x, *states)]
        for a, b, c in zip(got, traced, want, strict=True):
            np.testing.assert_allclose(a, c, rtol=0, atol=1e-5)
            np.testing.assert_allclose(b, c, rtol=0, atol=1e-5)


class Packed(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn = nn.RNN(4, hidden)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0]


class Step(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn = nn.RNN(4, hidden)

    def forward(self, x, h):
        y, h = self.rnn(x[None], h)
        return y[0], h


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (nn.RNN(4, 63), "RNN"),
        (nn.RNN(4, 64), "Scan"),
        (nn.RNN(4, 64, 2, bidirectional=True), "Scan"),
        (nn.GRU(4, 64), "GRU"),
        (nn.LSTM(4, 64), "LSTM"),
        (Packed(64), "RNN"),
        (Step(64), "RNN"),
    ],
)
def test_auto_writes_a_large_rnn_as_a_scan(tmp_path, model, operator):
    inputs, options = torch.randn(5, 3, 4), {}
    if isinstance(model, Packed):
        inputs = (inputs, torch.tensor([5, 2, 3]))
        options = {"axes": {"x": {0: "sequence", 1: "batch"}, "lengths": {0: "batch"}}}
    if isinstance(model, Step):
        inputs = (torch.randn(3, 4), torch.zeros(1, 3, 64))
        options = {"axes": {"x": {0: "batch"}, "h": {1: "batch"}}}
    bundle = export(model, inputs, tmp_path / "bundle", formats=["onnx"], **options)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    found = {"RNN", "GRU", "LSTM", "Scan"} & manifest["operators"].keys()
    assert found == {operator}
