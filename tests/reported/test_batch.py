"""B: the batch axis frozen, and initial states baked in."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from settle import TRACED, Case, Lengths, params, right
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import ExportError, InputError, export, verify

BATCH_ONE = {"batch": 1, "sequence": 5}


class Blocks(nn.Module):
    """Two bidirectional LSTMs, each with a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(8, 8, bidirectional=True), nn.LSTM(8, 8, bidirectional=True)
        self.between, self.last = nn.Linear(16, 8), nn.Linear(16, 6)

    def forward(self, x):
        return self.last(self.second(self.between(self.first(x)[0]))[0])


class Neck(Blocks):
    """(batch, channels, 1, width) as a convolutional front end gives it."""

    def forward(self, x):
        return super().forward(x.squeeze(2).permute(2, 0, 1))


class WithStates(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(20, 20)

    def forward(self, x, h0):
        return self.gru(x, h0)


CASES = [
    Case(
        ("B1",),
        lambda: nn.LSTM(3, 3),
        {"input": ("sequence", "batch", 3), "h_0": (1, "batch", 3), "c_0": (1, "batch", 3)},
        lambda x, h, c: (x, (h, c)),
        traced=BATCH_ONE,
        sizes=[{"batch": batch, "sequence": 9} for batch in (1, 3, 7, 11)],
    ),
    Case(
        ("B2",),
        WithStates,
        {"x": ("sequence", "batch", 20), "h0": (1, "batch", 20)},
    ),
    Case(
        ("B4",),
        lambda: nn.LSTM(6, 4),
        {"input": ("sequence", "batch", 6)},
        traced=BATCH_ONE,
        name="batch",
        options={"state": "none"},
    ),
    Case(
        ("B4",),
        lambda: nn.LSTM(6, 4),
        {"input": ("sequence", "batch", 6)},
        traced={"batch": 3, "sequence": 1},
        name="step",
        options={"state": "none"},
    ),
    Case(("B6",), Blocks, {"x": ("sequence", "batch", 8)}),
    Case(("B7",), Neck, {"x": ("batch", 8, 1, "sequence")}),
]


@pytest.mark.parametrize("case", params(CASES))
def test_one_file_is_right_at_any_size(tmp_path, case):
    right(case, tmp_path)


@pytest.mark.reported("B1", "W")
def test_b1_a_verdict_with_its_range_and_no_warning(tmp_path, capfd, recwarn):
    case = CASES[0]
    bundle = export(path=tmp_path / "bundle", **case.arguments())
    assert capfd.readouterr() == ("", "") and not recwarn.list
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert {shape["batch"] for shape in manifest["verified"]["shapes"]} == {1, 2, 7}
    assert "onnxruntime-cpu" in str(bundle.report) and "passed" in str(bundle.report)


@pytest.mark.reported("B2", "R")
def test_b2_the_states_axes_follow_the_inputs(tmp_path):
    case = CASES[1]
    bundle = right(Case(**{**vars(case), "axes": {"x": {0: "sequence", 1: "batch"}}}), tmp_path)
    assert bundle.signature.input("h0").axes == (1, "batch", 20)
    assert [(state.input, state.output) for state in bundle.signature.states] == [("h0", "h0_n")]


@pytest.mark.reported("B2", "X")
@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"hx": {1: "batch"}, "x": {1: "batch"}}, r"'hx', but the inputs are \['x', 'h0'\]: use those names"),
        ({"x": {1: "batch"}, "h_0": {1: "batch"}}, r"'h_0' \(did you mean 'h0'\?\), but the inputs are \['x', 'h0'\]"),
        ({"x": {1: "batch"}, "y": {1: "batch"}, "z": {0: "batch"}}, r"'y', 'z', but the inputs are \['x', 'h0'\]"),
    ],
)
def test_b2_a_name_that_no_input_has_is_refused_with_those_there_are(tmp_path, axes, text):
    case = CASES[1]
    with pytest.raises(InputError, match=text):
        export(path=tmp_path / "bundle", **{**case.arguments(), "axes": axes})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("B5", "F")
def test_b5_a_frozen_axis_is_found_by_running_other_sizes(tmp_path):
    """The file is right at the traced sizes, which is all that a replay of the example would look at."""
    model = nn.GRU(6, 4)
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "bundle", formats=["onnx"])
    graph = onnx.load(bundle.path / "model.onnx")
    (gru,) = (node for node in graph.graph.node if node.op_type == "GRU")
    shape = onnx.numpy_helper.from_array(np.array([5, 3, 6]), "frozen")
    graph.graph.initializer.append(shape)
    graph.graph.node.insert(0, onnx.helper.make_node("Reshape", [gru.input[0], "frozen"], ["reshaped"]))
    gru.input[0] = "reshaped"
    reseal(bundle, graph)
    fixed = rnn_runtime.load(bundle)
    fixed.run(np.zeros((5, 3, 6), np.float32))
    report = verify(model, bundle)
    assert not report.passed
    assert {
        (row.shape["batch"], row.shape["sequence"]) for row in report.rows if row.passed and row.backend != "eager"
    } == {(3, 5)}


def reseal(bundle, graph):
    """Put another graph into a bundle, with its hash."""
    import hashlib

    data = graph.SerializeToString()
    (bundle.path / "model.onnx").write_bytes(data)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.reported("B6", "X")
def test_b6_a_feature_axis_cannot_be_dynamic(tmp_path):
    with pytest.raises(ExportError, match="'feature' of 'x' became 8"):
        export(
            Blocks(),
            torch.randn(5, 3, 8),
            tmp_path / "bundle",
            axes={"x": {0: "sequence", 1: "batch", 2: "feature"}},
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("B7", "W")
def test_b7_old_opsets_are_refused_and_new_ones_right(tmp_path):
    case = CASES[-1]
    with pytest.raises(InputError, match="opset 11 was asked for; the graphs need 18 or newer: leave `opset` out"):
        export(path=tmp_path / "bundle", **case.arguments(), opset=11)
    assert list(tmp_path.iterdir()) == []
    right(Case(**{**vars(case), "options": {"opset": 21}, "formats": ("onnx",)}), tmp_path)


@pytest.mark.reported("B9", "R")
@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_b9_no_constant_state_in_the_graph(tmp_path, layer):
    """Neither as an initial state of the node nor as a tensor of the traced batch anywhere."""
    bundle = export(layer(6, 4), torch.randn(5, 3, 6), tmp_path / "bundle", formats=["onnx"], state="none")
    graph = onnx.load(bundle.path / "model.onnx").graph
    (node,) = (node for node in graph.node if node.op_type in ("RNN", "LSTM", "GRU"))
    assert not any(node.input[5:7])  # initial_h, initial_c
    assert all(TRACED["batch"] not in tensor.dims for tensor in graph.initializer)


@pytest.mark.reported("B2", "R")
def test_b2_lengths_follow_the_batch_too(tmp_path):
    """Eager PyTorch itself takes fewer lengths than rows, and gives fewer rows back."""

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 4, batch_first=True)

        def forward(self, x, lengths, h):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, h = self.gru(packed, h)
            return pad_packed_sequence(y, batch_first=True)[0], h

    case = Case(
        ("B2",),
        Packed,
        {"x": ("batch", "sequence", 6), "lengths": Lengths(), "h": (1, "batch", 4)},
        axes={"x": {0: "batch", 1: "sequence"}},
    )
    bundle = right(case, tmp_path)
    assert bundle.signature.lengths.input == "lengths"


@pytest.mark.reported("B2", "R")
def test_b2_what_need_not_grow_stays_as_it_is(tmp_path):
    """A table of the batch's size by chance, an input that is said to be fixed, and two ways of growing."""

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 4)

        def forward(self, x, table, square):
            return self.gru(x)[0] @ table.sum(0) + square.sum()

    example = (torch.randn(5, 3, 6), torch.randn(3, 4), torch.randn(3, 3))
    bundle = export(Table(), example, tmp_path / "b", axes={"x": {0: "sequence", 1: "batch"}}, formats=["onnx"])
    assert [spec.axes for spec in bundle.signature.inputs] == [("sequence", "batch", 6), (3, 4), (3, 3)]
    with pytest.raises(ExportError, match="'h0' has dimension 1 of that size with no name"):
        export(
            WithStates(),
            (torch.randn(5, 3, 20), torch.zeros(1, 3, 20)),
            tmp_path / "c",
            axes={"x": {0: "sequence", 1: "batch"}, "h0": {}},
        )
