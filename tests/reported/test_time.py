"""T: the time axis frozen, loops over cells, cells of one's own."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from settle import BOUND, Case, close, params, right
from torch import nn

import rnn_export
import rnn_runtime
from rnn_export import ExportError, export
from rnn_export.cli import main


class CellLoop(nn.Module):
    """for t in range(T): LSTMCell."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(6, 4)

    def forward(self, x):
        h, c = x.new_zeros(x.shape[1], 4), x.new_zeros(x.shape[1], 4)
        outputs = []
        for t in range(x.shape[0]):
            h, c = self.cell(x[t], (h, c))
            outputs.append(h)
        return torch.stack(outputs), h, c


class OwnCell(nn.Module):
    """A cell that no library has: a residual tanh with a learned decay."""

    def __init__(self):
        super().__init__()
        self.inward, self.hidden = nn.Linear(6, 4), nn.Linear(4, 4, bias=False)
        self.decay = nn.Parameter(torch.rand(4))

    def step(self, h, x):
        h = h * torch.sigmoid(self.decay) + torch.tanh(self.inward(x) + self.hidden(h))
        return h, h

    def forward(self, x, h):
        h, y = rnn_export.scan(self.step, h, x)
        return y, h


class OwnLoop(OwnCell):
    def forward(self, x, h):
        outputs = []
        for t in range(x.shape[0]):
            h, y = self.step(h, x[t])
            outputs.append(y)
        return torch.stack(outputs), h


class Scripted(nn.Module):
    """The loop scripted, as the guides of the older exporter advise."""

    def __init__(self):
        super().__init__()
        self.loop = torch.jit.script(_Scripted())

    def forward(self, x):
        return self.loop(x)


class _Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.size(1), 4)
        outputs = torch.zeros(0, x.size(1), 4)
        for t in range(x.size(0)):
            h = self.cell(x[t], h)
            outputs = torch.cat([outputs, h.unsqueeze(0)])
        return outputs


class Flattens(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 4, num_layers=2, bidirectional=True)

    def forward(self, x):
        self.gru.flatten_parameters()
        return self.gru(x)


class _Old(torch.autograd.Function):
    """An LSTM as an autograd.Function with a symbolic of its own, as quantisation toolkits wrote them."""

    @staticmethod
    def symbolic(g, x, weight, recurrent):
        return g.op("LSTM", x, weight, recurrent, hidden_size_i=4, outputs=3)

    @staticmethod
    def forward(ctx, x, weight, recurrent):
        y, _, _ = torch._VF.lstm(
            x,
            (x.new_zeros(1, x.shape[1], 4), x.new_zeros(1, x.shape[1], 4)),
            [weight, recurrent],
            False,
            1,
            0.0,
            False,
            False,
            False,
        )
        return y


class Old(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.recurrent = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(16, 4))

    def forward(self, x):
        return _Old.apply(x, self.weight, self.recurrent)


X = ("sequence", "batch", 6)
CASES = [
    Case(("T1",), CellLoop, {"x": X}, formats=("onnx", "torchscript")),
    Case(("T2",), OwnCell, {"x": X, "h": ("batch", 4)}, name="scan", formats=("onnx",), theirs=False),
    Case(("T2",), OwnLoop, {"x": X, "h": ("batch", 4)}, name="loop", formats=("onnx", "torchscript")),
    Case(
        ("T4",),
        lambda: nn.GRU(39, 256, 2, batch_first=True),
        {"input": ("batch", "sequence", 39)},
        formats=("onnx", "pt2"),
        options={"state": "none"},
    ),
    Case(
        ("T5",),
        lambda: nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True),
        {"input": ("batch", "sequence", 8)},
        traced={"batch": 3, "sequence": 16},
        formats=("onnx", "pt2"),
        options={"state": "none"},
    ),
    Case(("T6",), lambda: nn.RNN(6, 4), {"input": X}, name="tanh", options={"state": "none"}),
    Case(("T6",), lambda: nn.RNN(6, 4, nonlinearity="relu"), {"input": X}, name="relu", options={"state": "none"}),
    Case(("T8",), Flattens, {"x": X}),
    Case(("T12",), Old, {"x": X}, formats=("onnx", "pt2")),
]


@pytest.mark.parametrize("case", params(CASES))
def test_one_file_is_right_at_any_length(tmp_path, case):
    right(case, tmp_path)


@pytest.mark.reported("T2", "X")
def test_t2_a_scripted_loop_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(
        ExportError, match=r"by `return self.loop\(x\)` in Scripted .*'loop' is TorchScript.*rnn_export.scan"
    ):
        export(Scripted(), torch.randn(5, 3, 6), tmp_path / "b", axes={"x": {0: "sequence", 1: "batch"}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("T7", "R")
@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_t7_a_cell_is_exported_from_a_copy_on_the_cpu(tmp_path, cell):
    """The half that needs no GPU: no operator of the graph is a fused one of a device."""

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell(6, 4)

        def forward(self, x, h):
            h = self.cell(x, (h, torch.tanh(h)) if cell is nn.LSTMCell else h)
            return h[0] if cell is nn.LSTMCell else h

    case = Case(
        ("T7",),
        Step,
        {"x": ("batch", 6), "h": ("batch", 4)},
        traced={"batch": 3},
        sizes=[{"batch": 1}, {"batch": 11}],
        options={"state": {"h": "output"}},
    )
    bundle = right(case, tmp_path)
    domains = {node.domain for node in onnx.load(bundle.path / "model.onnx").graph.node}
    assert domains == {""}


class Encoder(nn.Module):
    """Text to memory, as in Tacotron."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(40, 6), nn.LSTM(6, 5, batch_first=True, bidirectional=True)

    def forward(self, ids):
        return self.lstm(self.embedding(ids))[0]


class DecoderStep(nn.Module):
    """One frame from the last one, attention over the memory, and when to stop."""

    def __init__(self):
        super().__init__()
        self.cell, self.query = nn.LSTMCell(4 + 10, 7), nn.Linear(7, 10)
        self.frame, self.stop = nn.Linear(7, 4), nn.Linear(7, 1)

    def forward(self, frame, memory, h, c):
        weights = torch.softmax(torch.einsum("btd,bd->bt", memory, self.query(h)), 1)
        context = torch.einsum("bt,btd->bd", weights, memory)
        h, c = self.cell(torch.cat([frame, context], 1), (h, c))
        return self.frame(h), torch.sigmoid(self.stop(h)), h, c


@pytest.mark.reported("T9", "F")
def test_t9_encoder_and_decoder_step_are_driven_by_a_stream(tmp_path):
    """The parts as bundles of their own; the loop is the runtime's stream, which carries the state."""
    torch.manual_seed(0)
    encoder, decoder = Encoder().eval(), DecoderStep().eval()
    ids = torch.randint(40, (3, 5))
    text = export(encoder, ids, tmp_path / "encoder", axes={"ids": {0: "batch", 1: "text"}}, formats=["onnx"])
    example = (torch.randn(3, 4), encoder(ids).detach(), torch.zeros(3, 7), torch.zeros(3, 7))
    step = export(
        decoder,
        example,
        tmp_path / "step",
        axes={"frame": {0: "batch"}, "memory": {0: "batch", 1: "text"}},
        output_names=["next", "stop", "h_n", "c_n"],
        state={"h": "h_n", "c": "c_n"},
        formats=["onnx"],
    )
    ids = torch.randint(40, (1, 19))
    memory = rnn_runtime.load(text).run(ids.numpy())["output"]
    stream = rnn_runtime.load(step).stream()
    start = {"frame": np.zeros((1, 4), np.float32), "memory": memory}
    steps = list(stream.feedback(start, 23, back=("frame", "next")))
    _, result = steps[-1]
    encoder, decoder = encoder.double(), decoder.double()
    with torch.no_grad():
        memory, h, c = encoder(ids), torch.zeros(1, 7).double(), torch.zeros(1, 7).double()
        frame, want, stops = torch.zeros(1, 4).double(), [], []
        for _ in range(23):
            frame, stop, h, c = decoder(frame, memory, h, c)
            want.append(frame.numpy())
            stops.append(stop.item())
    frames = [frame for frame, _ in steps]
    close([*frames, result["stop"], result.state["h"]], [*want, stop.numpy(), h.numpy()], BOUND[torch.float32])
    limit = (min(stops) + max(stops)) / 2  # the model's own stop, which leaves the loop
    until = next(k for k, value in enumerate(stops) if value > limit)
    again, count = rnn_runtime.load(step, constants={"memory": start["memory"]}).stream(), 0
    for _, result in again.feedback(start["frame"], 1000, back=("frame", "next")):
        if result["stop"].item() > limit:
            break
        count += 1
    assert count == until


@pytest.mark.reported("T10", "F")
def test_t10_a_standard_layer_is_one_operator_and_a_cell_of_ones_own_one_scan(tmp_path):
    """The graph does not grow with the traced length."""
    sizes = {}
    for traced in (5, 29):
        layer = export(nn.LSTM(6, 4), torch.randn(traced, 3, 6), tmp_path / f"l{traced}", formats=["onnx"])
        own = export(
            OwnCell(),
            (torch.randn(traced, 3, 6), torch.randn(3, 4)),
            tmp_path / f"o{traced}",
            axes={"x": {0: "sequence", 1: "batch"}},
            formats=["onnx"],
        )
        sizes[traced] = [manifest(bundle)["operators"] for bundle in (layer, own)]
    assert sizes[5] == sizes[29]
    assert sizes[5][0]["LSTM"] == 1 and sizes[5][1]["Scan"] == 1


@pytest.mark.reported("T11", "W")
def test_t11_the_number_of_nodes_is_reported(tmp_path, capsys, monkeypatch):
    bundle = export(nn.LSTM(6, 4, num_layers=4), torch.randn(5, 3, 6), tmp_path / "bundle", formats=["onnx"])
    nodes = onnx.load(bundle.path / "model.onnx").graph.node
    assert manifest(bundle)["operators"]["LSTM"] == 4
    monkeypatch.setattr("sys.argv", ["rnn-export", "inspect", str(bundle.path)])
    main()
    said = capsys.readouterr().out
    assert "LSTM 4" in said or "4 LSTM" in said, said
    assert sum(manifest(bundle)["operators"].values()) == len(nodes)


def manifest(bundle):
    return json.loads((bundle.path / "manifest.json").read_text())


@pytest.mark.reported("T12", "R")
def test_t12_a_layer_inside_an_autograd_function_does_not_vanish(tmp_path):
    bundle = right(CASES[-1], tmp_path)
    assert [layer.operator for layer in bundle.layers] == ["LSTM"]
    assert manifest(bundle)["operators"]["LSTM"] == 1


@pytest.mark.reported("T12", "X")
def test_t12_torchscript_cannot_hold_such_a_function_and_says_so(tmp_path):
    case = Case(**{**vars(CASES[-1]), "formats": ("torchscript",)})
    with pytest.raises(ExportError, match=r"Python function call '_Old'.* Leave that format out"):
        export(path=tmp_path / "bundle", **case.arguments())
    assert list(tmp_path.iterdir()) == []
