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
    layers, _ = _quantize._layers(model.graph, _quantize.REWRITES["int8"])
    nodes = [node for layer in layers.values() for node in layer.nodes]
    assert any("/Gemm/" in node for node in nodes)
    _int8.write(model, path / "kept.onnx", nodes)
    assert not [node for node in _inspect.operators(onnx.load(path / "kept.onnx").graph) if "Integer" in node]
    x = torch.randn(3, 9, 4).numpy()
    want, got = (rnn_runtime.load(path / name).run(x)["output"] for name in ("model.onnx", "kept.onnx"))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_an_operator_that_has_no_8_bits_is_refused(tmp_path, cell, beside):
    torch.manual_seed(0)
    model = nn.Sequential(cell(4, 8), First(), nn.Linear(8, 8)) if beside else cell(4, 8)
    example, axes = torch.randn(5, 3, 4), {"input": {0: "sequence", 1: "batch"}}
    arguments = {"axes": axes, "precision": "int8", "lowering": "fused"}
    if cell is nn.LSTM:
        assert export(model, example, tmp_path / "b", **arguments).quantized.layers[0].startswith("LSTM")
        return
    text = rf"the graph has {cell.__name__}.* as one operator of ONNX, which has no such form: leave `lowering` out"
    with pytest.raises(rnn_runtime.Error, match=text):
        export(model, example, tmp_path / "b", **arguments)
    assert list(tmp_path.iterdir()) == []


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


class Others(nn.Module):
    """A convolution, a weight that is the first factor, a tied one; a GRU with a first state, a table."""

    def __init__(self):
        super().__init__()
        self.embedding, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.gru, self.mix, self.out = nn.GRU(8, 8, batch_first=True), Mix(), nn.Linear(8, 20, bias=False)
        self.out.weight = self.embedding.weight
        self.h_0, self.table = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, ids):
        x = self.mix(self.conv(self.embedding(ids).transpose(1, 2))).transpose(1, 2) + self.table
        return self.out(self.gru(x, self.h_0.expand(1, len(ids), 8).contiguous())[0])


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x):
        return self.weight @ x


def test_what_has_no_such_form_is_named(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    ids = torch.randint(20, (3, 5))
    bundle = export(Others(), ids, tmp_path / "b", axes={"ids": {0: "batch", 1: "sequence"}}, precision="int8")
    assert bundle.quantized.layers == ("Embedding embedding", "GRU gru", "Linear out")
    assert bundle.quantized.others == ("Conv1d conv", "Mix mix")
    line = "left in float32, of which there is no such form: Conv1d conv, Mix mix"
    assert line in str(bundle.quantized)
    from rnn_export.cli import main

    monkeypatch.setattr("sys.argv", ["x", "inspect", str(tmp_path / "b")])
    main()
    assert line in capsys.readouterr().out


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gru = nn.Conv1d(24, 24, 3, padding=1), nn.GRU(24, 40, batch_first=True)

    def forward(self, x):
        return self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


@pytest.mark.parametrize(
    ("precision", "least"),
    [("int8", 3 * 40 * (24 + 40) + 4 * 24 * 24 * 3), ("float16", 2 * 3 * 40 * (24 + 40) + 2 * 24 * 24 * 3)],
)
def test_a_graph_that_stays_too_large_is_refused(tmp_path, monkeypatch, precision, least):
    torch.manual_seed(0)
    arguments = {
        "model": Convolved(),
        "example_inputs": torch.randn(3, 5, 24),
        "path": tmp_path / "b",
        "axes": AXES,
        "precision": precision,
    }
    monkeypatch.setattr(_quantize, "LARGEST", least + 4000)  # biases, shapes
    export(**arguments)
    monkeypatch.setattr(_quantize, "LARGEST", least)
    with pytest.raises(rnn_runtime.Error, match=f"precision='{precision}', and the weights are still 0.0 GB"):
        export(**arguments, overwrite=True)
    rnn_runtime.load(tmp_path / "b").check()  # what was there stays


def test_a_large_graph_is_not_searched_for_the_layer_that_hurts(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(
        _quantize, "LARGEST", 4 * (3 * 12 * (6 + 12 + 2) + 6 * 12) - 100
    )  # a little less than in float32
    with pytest.raises(rnn_runtime.Error, match=r"precision='int8' keeps too little of the results \(output"):
        export(Skip(), torch.randn(3, 5, 6), tmp_path / "b", axes=AXES, precision="int8")


class Shared(nn.Module):
    """An LSTM over two inputs."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 12, batch_first=True)

    def forward(self, a, b):
        return self.lstm(a)[0] * self.lstm(b)[0]


class Equal(nn.Module):
    """An LSTM whose weights are one tensor."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(12, 12, batch_first=True)
        with torch.no_grad():
            self.lstm.weight_ih_l0.copy_(self.lstm.weight_hh_l0)

    def forward(self, a, b):
        return self.lstm(torch.cat([a, b], -1))[0]


@pytest.mark.parametrize("make", [Shared, Equal])
def test_an_lstm_that_shares_its_weights(tmp_path, eager64, make):
    torch.manual_seed(0)
    model, axes = make(), {"a": AXES["x"], "b": AXES["x"]}
    bundle = export(model, (torch.randn(3, 5, 6), torch.randn(3, 5, 6)), tmp_path / "b", axes=axes, precision="int8")
    assert operators(bundle)["DynamicQuantizeLSTM"] == (2 if make is Shared else 1)
    a, b = torch.randn(2, 31, 6), torch.randn(2, 31, 6)
    got = rnn_runtime.load(bundle).run({"a": a.numpy(), "b": b.numpy()})["output"]
    assert snr(got, eager64(model, a, b)[0]) > 30


class Uneven(nn.Module):
    """A cell of one's own with a state, one of whose products bears no 8 bits."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 12), nn.Linear(12, 12)
        self.register_buffer("scale", torch.tensor([3e4] + [1] * 11))
        with torch.no_grad():
            self.outer.weight[:, 0] /= 3e4

    def forward(self, x, h):
        outputs = []
        for t in range(x.shape[1]):
            h = torch.tanh(self.inner(x[:, t]) + self.outer(h * self.scale))
            outputs.append(h)
        return torch.stack(outputs, 1), h


def test_a_step_with_a_product_in_float32(tmp_path):
    torch.manual_seed(0)
    axes = AXES | {"h": {0: "batch"}}
    bundle = export(Uneven(), (torch.randn(3, 5, 6), torch.zeros(3, 12)), tmp_path / "b", axes=axes, precision="int8")
    assert (bundle.quantized.layers, bundle.quantized.kept) == (("Linear inner",), ("Uneven",))
    assert (tmp_path / "b/step.onnx").exists()
    model, x = rnn_runtime.load(bundle), np.random.default_rng(0).standard_normal((2, 6, 6)).astype(np.float32)
    stream = model.stream(batch=2)
    got = np.concatenate([stream.push(part)[0] for part in np.split(x, 6, 1)], 1)
    assert snr(got, model.run({"x": x, "h": np.zeros((2, 12), np.float32)})[0]) > 30


class Beside(nn.Module):
    """A GRU over the sequence beside one over sixteen fixed steps, made before it or after."""

    def __init__(self, first):
        super().__init__()
        self.first = first
        self.a, self.b = nn.GRU(4, 8), nn.GRU(4, 8)
        self.register_buffer("memory", torch.randn(16, 1, 4))

    def forward(self, x, h):
        def fixed():
            return self.b(self.memory.expand(16, x.shape[1], 4))[1]

        before = fixed() if self.first else None
        y, h = self.a(x, h)
        return y + (before if self.first else fixed()), h


@pytest.mark.parametrize("first", [False, True])
def test_a_step_has_no_scan_over_its_axis_alone(tmp_path, first):
    torch.manual_seed(0)
    example, axes = (torch.randn(5, 3, 4), torch.zeros(1, 3, 8)), {"x": {0: "sequence", 1: "batch"}, "h": {1: "batch"}}
    export(Beside(first), example, tmp_path / "b", axes=axes, precision="int8")
    step = onnx.load(tmp_path / "b/step.onnx", load_external_data=False).graph
    assert _inspect.operators(step)["Scan"] == 1
    model = rnn_runtime.load(tmp_path / "b")
    x = np.random.default_rng(0).standard_normal((6, 2, 4)).astype(np.float32)
    stream = model.stream(batch=2)
    got = np.concatenate([stream.push(part)[0] for part in np.split(x, 6)])
    assert snr(got, model.run({"x": x, "h": np.zeros((1, 2, 8), np.float32)})[0]) > 30
