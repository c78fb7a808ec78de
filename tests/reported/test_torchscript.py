"""J: TorchScript."""

from __future__ import annotations

import pytest
import torch
from settle import Case, Lengths, flatten, params, right
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_export import ExportError, export, verify
from rnn_export.cli import main

SCRIPT = ("torchscript",)
X = ("sequence", "batch", 6)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, bidirectional=True)

    def forward(self, x, lengths):
        y, last = self.lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(y)[0], last


class Recognizer(nn.Module):
    """Convolution, a layer that starts from zeros, a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.head = (
            nn.Conv1d(6, 7, 3, padding=1),
            nn.LSTM(7, 4, bidirectional=True),
            nn.Linear(8, 5),
        )

    def forward(self, x):
        y = self.conv(x.permute(1, 2, 0)).permute(2, 0, 1)
        return self.head(self.lstm(y)[0])


CASES = [
    Case(("J1",), Recognizer, {"x": X}, formats=SCRIPT),
    Case(
        ("J2", "J7"),
        Packed,
        {"x": X, "lengths": Lengths(short_by=1)},
        traced={"batch": 16, "sequence": 5},
        sizes=[{"batch": 8, "sequence": 17}, {"batch": 1, "sequence": 37}],
        formats=SCRIPT,
    ),
    Case(("J3",), lambda: nn.LSTM(6, 4), {"input": X}, formats=SCRIPT, options={"state": "none"}),
    Case(
        ("J5",),
        lambda: nn.LSTM(6, 4, num_layers=2),
        {"input": X, "h_0": (2, "batch", 4), "c_0": (2, "batch", 4)},
        lambda x, h, c: (x, (h, c)),
        formats=SCRIPT,
    ),
    Case(
        ("J6",),
        lambda: nn.LSTM(6, 4, bidirectional=True),
        {"input": X},
        formats=SCRIPT,
        options={"state": "none"},
        name="lstm",
    ),
    Case(
        ("J6",),
        lambda: nn.GRU(6, 4, 2, bidirectional=True),
        {"input": X},
        formats=SCRIPT,
        options={"state": "none"},
        name="gru",
    ),
]


@pytest.mark.parametrize("case", params(CASES))
def test_the_loaded_file_is_right_at_any_size(tmp_path, case, recwarn):
    """Saved, loaded again and run; nothing is said about the trace."""
    right(case, tmp_path)
    assert not [str(w.message) for w in recwarn.list if "trace" in str(w.message).lower()]


@pytest.mark.reported("J1", "R")
def test_j1_the_state_follows_the_input_to_its_device(tmp_path):
    """No device is written into the graph. "meta" stands for a GPU: a state on the CPU cannot meet an input there."""
    bundle = export(path=tmp_path / "b", **CASES[0].arguments())
    script = torch.jit.load(bundle.path / "model.pt", map_location="meta")
    code = str(script.inlined_graph)
    assert 'Device = prim::Constant[value="cpu"]' not in code
    (output,) = script(torch.empty(9, 2, 6, device="meta"))
    assert output.shape == (9, 2, 5) and output.device.type == "meta"


@pytest.mark.reported("J3", "R")
def test_j3_a_bare_layer_has_code(tmp_path):
    bundle = export(path=tmp_path / "b", **CASES[2].arguments())
    assert "lstm" in torch.jit.load(bundle.path / "model.pt").inlined_graph.str()


@pytest.mark.reported("J3", "X")
@pytest.mark.parametrize("child", [True, False])
def test_j3_a_scripted_layer_is_refused(tmp_path, child):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.jit.script(nn.LSTM(6, 4))

        def forward(self, x):
            return self.lstm(x)[0]

    model = Net() if child else torch.jit.script(nn.LSTM(6, 4))
    with pytest.raises(ExportError, match=r"give the nn.Module that it was made from"):
        export(model, torch.randn(5, 3, 6), tmp_path / "b", axes={"x": {0: "sequence", 1: "batch"}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("J6", "R")
def test_j6_what_is_verified_is_the_file(tmp_path):
    model = nn.GRU(6, 4, 2, bidirectional=True)
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", formats=["torchscript"])
    assert verify(model, bundle).passed
    assert not verify(nn.GRU(6, 4, 2, bidirectional=True), bundle).passed


@pytest.mark.reported("J8", "F")
def test_j8_the_successor_comes_from_the_same_call(tmp_path):
    model = nn.LSTM(6, 4)
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", formats=["torchscript", "pt2", "onnx"])
    assert {"model.pt", "model.pt2", "model.onnx"} <= {file.name for file in bundle.path.iterdir()}
    program = torch.export.load(bundle.path / "model.pt2").module()
    x, h, c = torch.randn(17, 11, 6), torch.randn(1, 11, 4), torch.randn(1, 11, 4)
    with torch.no_grad():
        for a, b in zip(flatten(program(x, h, c)), flatten(model(x, (h, c))), strict=True):
            assert a.shape == b.shape and abs(a - b).max() < 1e-6


@pytest.mark.reported("J8", "W")
def test_j8_the_command_says_that_torchscript_is_deprecated(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rnn-export", "export", "--help"])
    main()
    said = " ".join(capsys.readouterr().out.split())
    assert "torchscript, which PyTorch has deprecated; pt2 is its successor" in said
