"""O: what the operators mean, and the options of the layers."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from settle import Case, Lengths, params, right
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_export
from rnn_export import ExportError, export
from rnn_export._versions import notes, problems

NONE = {"state": "none"}
T_FIRST, B_FIRST = ("sequence", "batch", 6), ("batch", "sequence", 6)


def recurrent(bundle):
    graph = onnx.load(bundle.path / "model.onnx").graph
    return [node for node in graph.node if node.op_type in ("RNN", "LSTM", "GRU")]


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def resets_after(bundle):
    assert [attributes(node)["linear_before_reset"] for node in recurrent(bundle)] == [1]


class Branches(nn.Module):
    """Dropout between layers, and the model left in training."""

    def __init__(self):
        super().__init__()
        self.lstm, self.drop = nn.LSTM(6, 4, num_layers=2, dropout=0.5), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.lstm(x)[0])


CASES = [
    Case(
        ("O1",),
        lambda: nn.GRU(1, 32),
        {"input": ("sequence", "batch", 1)},
        traced={"batch": 3, "sequence": 10},
        options=NONE,
        also=resets_after,
    ),
    Case(("O2",), lambda: nn.LSTM(6, 4, proj_size=2), {"input": T_FIRST}, options=NONE, name="one way"),
    Case(
        ("O2",),
        lambda: nn.LSTM(6, 4, proj_size=2, bidirectional=True),
        {"input": T_FIRST, "h_0": (2, "batch", 2), "c_0": (2, "batch", 4)},
        lambda x, h, c: (x, (h, c)),
        name="both ways with states",
    ),
    Case(
        ("O3",),
        lambda: nn.RNN(6, 4, nonlinearity="relu", bidirectional=True, batch_first=True),
        {"input": B_FIRST, "h_0": (2, "batch", 4)},
    ),
    Case(
        ("O4",), lambda: nn.GRU(6, 4, bias=False), {"input": T_FIRST}, traced={"batch": 4, "sequence": 5}, options=NONE
    ),
    Case(
        ("O7",),
        lambda: nn.GRU(6, 4),
        {"input": ("sequence", 6)},
        traced={"sequence": 5},
        sizes=[{"sequence": 1}, {"sequence": 17}],
        options=NONE,
        name="unbatched",
    ),
    Case(
        ("O7",),
        lambda: nn.LSTM(6, 4),
        {"input": T_FIRST},
        traced={"batch": 1, "sequence": 5},
        options=NONE,
        name="batch 1",
    ),
    Case(("O8",), Branches, {"x": T_FIRST}),
]


@pytest.mark.parametrize("case", params(CASES))
def test_one_file_is_right_with_any_option(tmp_path, case):
    right(case, tmp_path)


@pytest.mark.reported("O1", "X")
def test_o1_the_version_that_writes_the_other_formula_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rnn_export._versions.versions", lambda: {"onnxscript": "0.7.0"})
    with pytest.raises(rnn_export.DependencyError, match=r"onnxscript 0.7.0 exports GRU .* pip install 'onnxscript>="):
        export(nn.GRU(6, 4), torch.randn(5, 3, 6), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("O5", "R")
@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_o5_the_layout_is_always_0(tmp_path, layer, batch_first):
    bundle = export(layer(6, 4, batch_first=batch_first), torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"])
    assert [attributes(node).get("layout", 0) for node in recurrent(bundle)] == [0]


@pytest.mark.reported("O7", "R")
def test_o7_the_operator_sees_three_dimensions(tmp_path):
    for k, case in enumerate(CASES[5:7]):
        bundle = export(path=tmp_path / str(k), **case.arguments())
        model = onnx.shape_inference.infer_shapes(onnx.load(bundle.path / "model.onnx"))
        known = {v.name: v for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
        (node,) = (n for n in model.graph.node if n.op_type in ("RNN", "LSTM", "GRU"))
        assert len(known[node.input[0]].type.tensor_type.shape.dim) == 3
        assert len(known[node.output[0]].type.tensor_type.shape.dim) == 4
        # No squeeze without axes, which would take a batch of 1 with it.
        assert all(len(n.input) == 2 for n in model.graph.node if n.op_type == "Squeeze")


@pytest.mark.reported("O8", "R")
def test_o8_there_is_no_dropout_in_the_graph_and_the_model_stays_in_training(tmp_path):
    model = Branches().train()
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", axes={"x": {0: "sequence", 1: "batch"}})
    assert model.training and model.drop.training
    assert not {n.op_type for n in onnx.load(bundle.path / "model.onnx").graph.node} & {
        "Dropout",
        "RandomUniform",
        "Bernoulli",
    }


@pytest.mark.reported("O8", "X")
def test_o8_dropout_that_is_wanted_on_is_refused(tmp_path):
    class Monte(Branches):
        def forward(self, x):
            return nn.functional.dropout(self.lstm(x)[0], 0.5, training=True)

    with pytest.raises(ExportError, match=r"it draws random numbers, which a graph does not. Take them as an argument"):
        export(Monte(), torch.randn(5, 3, 6), tmp_path / "b", axes={"x": {0: "sequence", 1: "batch"}})
    assert list(tmp_path.iterdir()) == []


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_from_file(x, lengths, w, r, b):
    """An LSTM both ways in NumPy, from ONNX's weights alone: docs/bundle.md, "The weights in the graph"."""
    steps, batch, _ = x.shape
    size = r.shape[-1]
    y = np.zeros((steps, batch, 2 * size))
    for direction in range(2):
        bias = b[direction][: 4 * size] + b[direction][4 * size :]
        for row in range(batch):
            h, c = np.zeros(size), np.zeros(size)
            own = range(lengths[row])  # backwards it starts at the row's own last step, and not at the padding's
            for t in own if direction == 0 else reversed(own):
                i, o, f, g = np.split(w[direction] @ x[t, row] + r[direction] @ h + bias, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
                y[t, row, direction * size :][:size] = h
    return y


@pytest.mark.reported("O10", "F")
def test_o10_the_weights_are_where_the_documentation_says(tmp_path):
    """Another implementation reads them from the file: gates in ONNX's order i, o, f, c, and short rows reversed."""

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(6, 4, bidirectional=True)

        def forward(self, x, lengths):
            y, _ = self.lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
            return pad_packed_sequence(y)[0]

    case = Case(("O10",), Packed, {"x": T_FIRST, "lengths": Lengths()})
    bundle = export(path=tmp_path / "b", **case.arguments())
    graph = onnx.load(bundle.path / "model.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (node,) = recurrent(bundle)
    w, r, b = (tensors[name].astype(np.float64) for name in node.input[1:4])
    assert (w.shape, r.shape, b.shape) == ((2, 16, 6), (2, 16, 4), (2, 32))
    model = case.build()
    i, f, g, o = np.split(model.lstm.weight_ih_l0_reverse.detach().numpy(), 4)
    np.testing.assert_array_equal(w[1].astype(np.float32), np.concatenate([i, o, f, g]))
    x, lengths = torch.randn(9, 3, 6), torch.tensor([4, 9, 1])
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double(), lengths).numpy()
    np.testing.assert_allclose(lstm_from_file(x.double().numpy(), [4, 9, 1], w, r, b), want, rtol=0, atol=1e-12)


@pytest.mark.reported("O11", "W")
def test_o11_the_reference_evaluator_is_no_yardstick_and_no_clip_is_written(tmp_path):
    """An export is held against eager PyTorch alone; the evaluator is a second opinion of `verify`."""
    bundle = export(nn.LSTM(6, 4, bidirectional=True), torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"])
    assert {row.backend for row in bundle.report.rows} == {"eager", "onnxruntime-cpu"}
    assert all("clip" not in attributes(node) for node in recurrent(bundle))


@pytest.mark.reported("O11", "W")
def test_o11_doctor_knows_the_versions_that_are_no_yardstick():
    (note,) = notes({"onnx": "1.20.1", "onnxruntime": "1.32.0"})
    assert note.startswith("onnx 1.20.1 has a ReferenceEvaluator that ignores the direction")
    assert notes({"onnx": "1.23.2"}) == problems({"onnx": "1.20.1"}) == []
