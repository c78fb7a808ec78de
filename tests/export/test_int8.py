"""Weights in 8 bits: held by noise and by decisions, what hurts left alone, the rest refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import rnn_runtime
from rnn_export import _inspect, _int8, _quantize, export, verify

AXES = {"x": {0: "batch", 1: "sequence"}}


def snr(got, want):
    return 10 * np.log10((want**2).sum() / ((got - want) ** 2).sum())


def operators(bundle):
    return _inspect.operators(onnx.load(bundle.path / "model.onnx").graph)


@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("both", [False, True])
def test_every_cell_keeps_30_decibels(tmp_path, eager64, cell, both):
    torch.manual_seed(0)
    model = cell(24, 40, num_layers=2, bidirectional=both)
    bundle = export(model, torch.randn(5, 3, 24), tmp_path / "bundle", precision="int8")
    assert bundle.quantized.kept == ()
    assert bundle.quantized.layers == (cell.__name__,)
    assert bundle.quantized.snr > 30
    assert bundle.quantized.size[1] < 0.6 * bundle.quantized.size[0]
    assert {"DynamicQuantizeLSTM"} <= operators(bundle).keys() if cell is nn.LSTM else True
    assert cell.__name__ not in operators(bundle)
    assert not [node for node in operators(bundle) if node == "MatMul"]
    x = torch.randn(29, 4, 24)
    got = rnn_runtime.load(bundle).run(x.numpy())["output"]
    assert snr(got, eager64(model, x)[0]) > 30
    rnn_runtime.load(bundle).check()
    if not both:
        assert verify(model, bundle, level="quick").passed
    stream = rnn_runtime.load(bundle).stream(batch=4) if not both else None
    if stream:
        parts = np.concatenate([stream.push(part)["output"] for part in np.split(x.numpy(), [1, 10])])
        assert snr(parts, eager64(model, x)[0]) > 30


def test_another_model_is_told_from_a_quantised_one(tmp_path):
    torch.manual_seed(0)
    bundle = export(nn.GRU(8, 16), torch.randn(5, 3, 8), tmp_path / "bundle", precision="int8")
    assert not verify(nn.GRU(8, 16), bundle, level="quick").passed


class Skip(nn.Module):
    """A GRU beside a linear layer whose inputs are of such different sizes that 8 bits cannot hold them together."""

    def __init__(self):
        super().__init__()
        self.gru, self.skip = nn.GRU(6, 12, batch_first=True), nn.Linear(6, 12)
        self.register_buffer("scale", torch.tensor([3e4, 1, 1, 1, 1, 1]))
        with torch.no_grad():
            self.skip.weight[:, 0] /= 3e4

    def forward(self, x):
        return self.gru(x)[0] + self.skip(x * self.scale)


def test_a_layer_that_hurts_is_left_in_float32(tmp_path, eager64):
    torch.manual_seed(0)
    model = Skip()
    bundle = export(model, torch.randn(3, 5, 6), tmp_path / "bundle", axes=AXES, precision="int8")
    assert (bundle.quantized.layers, bundle.quantized.kept) == (("GRU gru",), ("Linear skip",))
    assert "left in float32, since it hurts: Linear skip" in str(bundle.quantized)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["quantized"]["kept"] == ["Linear skip"]
    x = torch.randn(2, 31, 6)
    assert snr(rnn_runtime.load(bundle).run(x.numpy())["output"], eager64(model, x)[0]) > 30


class Hurt(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 12, batch_first=True)
        self.register_buffer("scale", torch.tensor([3e4, 1, 1, 1, 1, 1]))
        with torch.no_grad():
            self.gru.weight_ih_l0[:, 0] /= 3e4

    def forward(self, x):
        return self.gru(x * self.scale)[0]


def test_a_model_that_cannot_bear_it_is_refused(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(Exception, match=r"precision='int8' keeps too little of the results.*SNR .* dB, 30.0 wanted"):
        export(Hurt(), torch.randn(3, 5, 6), tmp_path / "bundle", axes=AXES, precision="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "int4"}, r"precision is 'int4'; give one of \['fp32', 'int8', 'float16'\]"),
        ({"precision": "int8", "formats": ["onnx", "torchscript"]}, "precision='int8' is for ONNX"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, options, text):
    with pytest.raises(rnn_runtime.InputError, match=text):
        export(nn.GRU(4, 4), torch.randn(5, 3, 4), tmp_path / "bundle", **options)


def test_float64_has_no_weights_for_it(tmp_path):
    with pytest.raises(rnn_runtime.Error, match="no layer with float32 weights"):
        export(nn.GRU(4, 4).double(), torch.randn(5, 3, 4).double(), tmp_path / "bundle", precision="int8")


def test_the_command_says_what_it_did(tmp_path, monkeypatch, capsys):
    from rnn_export.cli import main

    monkeypatch.setattr("sys.argv", ["x", "export", "tagger", "-o", str(tmp_path / "b"), "--precision", "int8"])
    main()
    printed = capsys.readouterr().out
    assert "int8: Embedding embedding, LSTM lstm, Linear linear" in printed
    assert "signal to noise" in printed
    assert "size" in printed


class Cell(nn.Module):
    """A loop of a cell, whose products are Gemm nodes, before a linear layer that bears 8 bits well."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(4, 24), nn.Linear(24, 6)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], 24)
        outputs = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            h = torch.tanh(h * 3)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


def test_what_is_kept_is_left_alone_whatever_the_quantiser_calls_it(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "bundle"
    export(Cell(), torch.randn(2, 5, 4), path, axes=AXES, formats=["onnx"])
    model = onnx.load(path / "model.onnx")
    layers = _quantize._layers(model.graph, _int8.OPERATORS)
    nodes = [node for layer in layers.values() for node in layer.nodes]
    assert any("/Gemm/" in node for node in nodes)
    _int8.write(model, path / "kept.onnx", nodes)
    assert not [node for node in _inspect.operators(onnx.load(path / "kept.onnx").graph) if "Integer" in node]
    x = torch.randn(3, 9, 4).numpy()
    want, got = (rnn_runtime.load(path / name).run(x)["output"] for name in ("model.onnx", "kept.onnx"))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
