"""float16 for CUDA: held by noise and decisions as it rounds there, what hurts left alone, the rest refused."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import rnn_runtime
from rnn_export import _inspect, export, verify
from rnn_export._tune import tune
from rnn_export.cli import main
from rnn_runtime._device import CUDA, cuda_problem, providers

AXES = {"x": {0: "batch", 1: "sequence"}}
HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def snr(got, want):
    return 10 * np.log10((want**2).sum() / ((got - want) ** 2).sum())


def graph(bundle):
    return onnx.load(bundle.path / "model.onnx").graph


@pytest.mark.parametrize("lowering", ["fused", "scan"])
@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM, nn.GRU])
def test_every_cell_in_both_lowerings_keeps_50_decibels(tmp_path, eager64, cell, lowering):
    torch.manual_seed(0)
    model = cell(24, 40, num_layers=2, bidirectional=True)
    example = torch.randn(5, 3, 24)
    bundle = export(model, example, tmp_path / "bundle", precision="float16", lowering=lowering)
    found = bundle.quantized
    assert (found.precision, found.layers, found.kept) == ("float16", (cell.__name__,), ())
    assert found.snr > 50
    assert found.size[1] < 0.6 * found.size[0]
    weights = [tensor for tensor in graph(bundle).initializer if len(tensor.dims) >= 2 and np.prod(tensor.dims) > 500]
    assert {tensor.data_type for tensor in weights} == {HALF}
    assert _inspect.operators(graph(bundle))[cell.__name__ if lowering == "fused" else "Scan"] == (
        2 if lowering == "fused" else 4
    )
    assert {spec.dtype for spec in (*bundle.signature.inputs, *bundle.signature.outputs)} == {"float32"}
    x = torch.randn(29, 4, 24)
    loaded = rnn_runtime.load(bundle)
    assert snr(loaded.run(x.numpy())["output"], eager64(model, x)[0]) > 50
    loaded.check()
    assert verify(model, bundle, level="quick").passed
    assert not verify(cell(24, 40, num_layers=2, bidirectional=True), bundle, level="quick").passed


def test_the_state_of_a_scan_stays_in_float32(tmp_path):
    bundle = export(nn.GRU(6, 12), torch.randn(5, 3, 6), tmp_path / "b", precision="float16", lowering="scan")
    (scan,) = (node for node in graph(bundle).node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    assert {value.type.tensor_type.elem_type for value in (*body.input, *body.output)} == {SINGLE}
    assert [node.op_type for node in body.node].count("Cast") == 2  # around the one product


@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_stream_carries_its_state_in_float32(tmp_path, eager64, cell):
    torch.manual_seed(0)
    model = cell(6, 12, num_layers=2)
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", precision="float16")
    x = torch.randn(29, 4, 6)
    stream = rnn_runtime.load(bundle).stream(batch=4)
    parts = np.concatenate([stream.push(part)["output"] for part in np.split(x.numpy(), [1, 10])])
    assert snr(parts, eager64(model, x)[0]) > 50
    assert {array.dtype for array in stream.state.values()} == {np.dtype("float32")}


class Skip(nn.Module):
    """A GRU beside a linear layer with a large weight, or large inputs."""

    def __init__(self, weight=1.0, scale=1.0):
        super().__init__()
        self.gru, self.skip, self.scale = nn.GRU(6, 12, batch_first=True), nn.Linear(6, 12), scale
        with torch.no_grad():
            self.skip.weight[0, 0] = weight
            self.skip.weight /= scale

    def forward(self, x):
        return self.gru(x)[0] + self.skip(x * self.scale)


@pytest.mark.parametrize(("weight", "scale"), [(1e5, 1.0), (-65505.0, 1.0), (1.0, 1e6)])
def test_a_layer_that_float16_cannot_hold_is_left_in_float32(tmp_path, eager64, weight, scale):
    torch.manual_seed(0)
    model = Skip(weight, scale)
    bundle = export(model, torch.randn(3, 5, 6), tmp_path / "b", axes=AXES, precision="float16")
    assert (bundle.quantized.layers, bundle.quantized.kept) == (("GRU gru",), ("Linear skip",))
    assert "left in float32, since it hurts: Linear skip" in str(bundle.quantized)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["precision"] == "float16"
    assert manifest["quantized"]["kept"] == ["Linear skip"]
    assert np.isfinite(manifest["verified"]["largest_error"]["onnxruntime-cpu-float16"])
    x = torch.randn(2, 31, 6)
    assert snr(rnn_runtime.load(bundle).run(x.numpy())["output"], eager64(model, x)[0]) > 50


def large(weight):
    model = nn.GRU(4, 4)
    with torch.no_grad():
        model.bias_ih_l0[0] = weight  # a gate that it opens for good
    return model


def test_the_largest_weight_that_it_holds(tmp_path):
    bundle = export(Skip(65504.0), torch.randn(3, 5, 6) / 100, tmp_path / "b", axes=AXES, precision="float16")
    assert bundle.quantized.layers == ("GRU gru", "Linear skip")


class Offset(nn.Module):
    """A GRU whose input lies around a number, which takes bits from it."""

    def __init__(self, offset):
        super().__init__()
        self.gru, self.offset = nn.GRU(6, 12, batch_first=True), offset
        with torch.no_grad():
            self.gru.bias_ih_l0 -= offset * self.gru.weight_ih_l0.sum(1)

    def forward(self, x):
        return self.gru(x + self.offset)[0]


@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_both_sides_of_the_bound(tmp_path, offset):
    torch.manual_seed(0)
    arguments = Offset(offset), torch.randn(3, 5, 6), tmp_path / "b"
    if offset == 1.0:
        assert 50 < export(*arguments, axes=AXES, precision="float16").quantized.snr < 70
        return
    text = r"precision='float16' keeps too little of the results.*SNR [1-4]\d\.\d dB, 50.0 wanted"
    with pytest.raises(rnn_runtime.Error, match=text):
        export(*arguments, axes=AXES, precision="float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.GRU(4, 4).double(), "precision='float16', but the graph has no layer with float32 weights"),
        (large(1e6), "precision='float16' holds 65504 at most, and every layer has a larger weight"),
    ],
)
def test_a_model_without_weights_for_it_is_refused(tmp_path, model, text):
    example = torch.randn(5, 3, 4, dtype=next(model.parameters()).dtype)
    with pytest.raises(rnn_runtime.Error, match=text):
        export(model, example, tmp_path / "b", precision="float16")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"formats": ["onnx", "torchscript"]}, "precision='float16' is for ONNX"),
        ({"target": "openvino"}, "precision='float16' is for CUDA on today's ONNX Runtime, and target is 'openvino'"),
    ],
)
def test_what_cannot_hold_it_is_refused(tmp_path, options, text):
    with pytest.raises(rnn_runtime.InputError, match=text):
        export(nn.GRU(4, 4), torch.randn(5, 3, 4), tmp_path / "b", precision="float16", **options)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["rnn-export", *map(str, words)])
    main()


def test_the_commands_show_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "b"
    command(monkeypatch, "export", "tagger", "-o", path, "--precision", "float16")
    printed = capsys.readouterr().out
    assert "float16: Embedding embedding, LSTM lstm, Linear linear" in printed
    assert "onnxruntime-cpu-float16" in printed
    assert "µs on the CPU, which computes it in float32: float16 is for CUDA" in printed
    command(monkeypatch, "inspect", path)
    assert "precision float16, signal to noise" in capsys.readouterr().out
    command(monkeypatch, "verify", path)
    assert "passed" in capsys.readouterr().out
    with pytest.raises(rnn_runtime.InputError, match="is float16, for CUDA, and what is fast is measured on the CPU"):
        tune(path)


class Image(nn.Module):
    """A convolution before an LSTM over packed lengths."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.out = (
            nn.Conv1d(6, 8, 3, padding=1),
            nn.LSTM(8, 12, batch_first=True),
            nn.Linear(12, 4),
        )

    def forward(self, x, lengths):
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False)
        return self.out(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


def test_convolutions_and_lengths(tmp_path, eager64):
    torch.manual_seed(0)
    model = Image()
    example = (torch.randn(3, 5, 6), torch.tensor([5, 3, 1]))
    bundle = export(model, example, tmp_path / "b", axes=AXES, precision="float16")
    assert bundle.quantized.layers == ("Conv1d conv", "LSTM lstm", "Linear out")
    x, lengths = torch.randn(2, 11, 6), torch.tensor([7, 11])
    got = rnn_runtime.load(bundle).run({"x": x.numpy(), "lengths": lengths.numpy()})
    assert snr(next(iter(got.values())), eager64(model, x, lengths)[0]) > 50


class Upsampled(nn.Module):
    """Twice as many steps by a transposed convolution, before a GRU."""

    def __init__(self):
        super().__init__()
        self.up, self.gru = nn.ConvTranspose1d(6, 8, 2, stride=2), nn.GRU(8, 12, batch_first=True)

    def forward(self, x):
        return self.gru(self.up(x.transpose(1, 2)).transpose(1, 2))[0]


class Cell(nn.Module):
    """A loop of a cell of one's own, which becomes a Scan."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 12), nn.Linear(12, 12)

    def forward(self, x):
        h, outputs = x.new_zeros(x.shape[0], 12), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.inner(x[:, t]) + self.outer(h)) + h / 2
            outputs.append(h)
        return torch.stack(outputs, 1)


@pytest.mark.parametrize("make", [Upsampled, Cell])
def test_other_layers(tmp_path, eager64, make):
    torch.manual_seed(0)
    model = make()
    bundle = export(model, torch.randn(3, 5, 6), tmp_path / "b", axes=AXES, precision="float16")
    assert bundle.quantized.kept == bundle.quantized.others == ()
    assert len(bundle.quantized.layers) == 2
    weights = [tensor for tensor in graph(bundle).initializer if len(tensor.dims) >= 2 and np.prod(tensor.dims) > 40]
    assert {tensor.data_type for tensor in weights} == {HALF}
    x = torch.randn(2, 31, 6)
    assert snr(rnn_runtime.load(bundle).run(x.numpy())["output"], eager64(model, x)[0]) > 50


@pytest.mark.parametrize(
    ("options", "operators"),
    [
        ({"sizes": {"batch": 2, "sequence": 7}}, {"LSTM": 1}),
        ({"sizes": {"sequence": 7}, "lowering": "decomposed"}, {"LSTM": 0, "Scan": 0, "Sigmoid": 3 * 7 * 2}),
        ({"split_directions": True}, {"LSTM": 2}),
        ({"opset": 20}, {"LSTM": 1}),
    ],
)
def test_options_of_the_graph(tmp_path, eager64, options, operators):
    torch.manual_seed(0)
    model = nn.LSTM(6, 12, bidirectional=True)
    bundle = export(model, torch.randn(7, 2, 6), tmp_path / "b", precision="float16", **options)
    found = _inspect.operators(graph(bundle))
    assert {name: found.get(name, 0) for name in operators} == operators
    assert bundle.quantized.layers == ("LSTM",)
    x = torch.randn(7, 2, 6)
    loaded = rnn_runtime.load(bundle)
    assert snr(loaded.run(x.numpy())["output"], eager64(model, x)[0]) > 50
    loaded.check()


def test_an_rnn_that_a_cpu_runs_as_a_scan_is_an_operator(tmp_path):
    options = {"precision": "float16"}, {}
    found = [export(nn.RNN(4, 64), torch.randn(5, 3, 4), tmp_path / str(len(o)), **o) for o in options]
    assert [_inspect.operators(graph(bundle)).get("Scan", 0) for bundle in found] == [0, 1]


def test_a_pool_of_streams(tmp_path, eager64):
    torch.manual_seed(0)
    model = nn.GRU(6, 12)
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", precision="float16")
    x = torch.randn(9, 2, 6)
    with rnn_runtime.StreamPool(rnn_runtime.load(bundle), capacity=2) as pool:
        streams = [pool.open() for _ in range(2)]
        parts = [
            [stream.push(x.numpy()[t : t + 1, k : k + 1])["output"] for t in range(9)]
            for k, stream in enumerate(streams)
        ]
    got = np.concatenate([np.concatenate(part) for part in parts], 1)
    assert snr(got, eager64(model, x)[0]) > 50


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_weights_beside_a_large_graph_go(tmp_path, monkeypatch, precision):
    monkeypatch.setattr("rnn_export._lower.onnx.LARGEST", 1000)
    bundle = export(nn.GRU(24, 40), torch.randn(5, 3, 24), tmp_path / "b", precision=precision)
    steps = ["step.onnx"] if precision == "int8" else []
    assert sorted(file.name for file in bundle.path.iterdir()) == ["golden.npz", "manifest.json", "model.onnx", *steps]
    assert bundle.quantized.size[0] > 4 * 3 * 40 * (24 + 40)
    rnn_runtime.load(bundle).check()


@pytest.mark.cuda
@pytest.mark.skipif(
    CUDA not in providers() or cuda_problem() is not None, reason="needs an NVIDIA GPU and onnxruntime-gpu"
)
@pytest.mark.parametrize("lowering", ["fused", "scan"])
@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM, nn.GRU])
def test_cuda_keeps_50_decibels(tmp_path, eager64, cell, lowering):
    torch.manual_seed(0)
    model = cell(24, 40, num_layers=2, bidirectional=True)
    bundle = export(model, torch.randn(5, 3, 24), tmp_path / "b", precision="float16", lowering=lowering)
    x = torch.randn(200, 4, 24)
    loaded = rnn_runtime.load(bundle, device="cuda")
    assert snr(loaded.run(x.numpy())["output"], eager64(model, x)[0]) > 50
    loaded.check()


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_results_without_noise_are_sealed(tmp_path, monkeypatch, capsys, precision):
    model = nn.RNN(4, 4)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    bundle = export(model, torch.randn(5, 3, 4), tmp_path / "b", precision=precision)
    assert bundle.quantized.snr == float("inf")
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert manifest["quantized"]["snr"] is None
    command(monkeypatch, "inspect", tmp_path / "b")
    assert f"precision {precision}, no noise" in capsys.readouterr().out
