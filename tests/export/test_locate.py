"""Broken exports are found, and the layer, the direction, the time step and the cause are named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from rnn_export import export, verify

_spec = importlib.util.spec_from_file_location("broken_bundles", Path(__file__).parent / "broken.py")
broken = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(broken)


class Deep(nn.Module):
    """A linear layer, two stacks of layers one after the other, and a linear layer."""

    def __init__(self, kind, bidirectional=True):
        super().__init__()
        directions = 2 if bidirectional else 1
        self.first = nn.Linear(4, 5)
        self.lower = nn.GRU(5, 6, batch_first=True)
        self.upper = kind(6, 3, 2, batch_first=True, bidirectional=bidirectional)
        self.last = nn.Linear(3 * directions, 2)

    def forward(self, x):
        return self.last(self.upper(self.lower(torch.tanh(self.first(x)))[0])[0])


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    made = {}

    def make(kind):
        if kind not in made:
            torch.manual_seed(3)
            model = Deep(kind)
            # Biases of one size in both sets would hide which of them is missing.
            path = tmp_path_factory.mktemp("deep") / "bundle"
            axes = {"x": {0: "batch", 1: "sequence"}}
            made[kind] = model, export(model, torch.randn(3, 7, 4), path, axes=axes, formats=["onnx"]).path
        return made[kind]

    return make


def located(model, path, **more):
    report = verify(model, path, level="quick", **more)
    assert not report.passed
    found = {divergence.backend: divergence for divergence in report.divergences}
    # Every way of running the graph with ONNX Runtime shows the same.
    places = {
        (d.place, d.module, d.layer, d.direction, d.reason)
        for d in found.values()
        if d.backend.startswith("onnxruntime")
    }
    assert len(places) == 1, places
    assert "onnxruntime-cpu" in found
    place = str(found["onnxruntime-cpu"]).partition(" eager PyTorch ")[2].partition(" (error")[0]
    assert place in str(report)
    return found["onnxruntime-cpu"]


def upper(graph, kind, layer):
    """The node of a layer of the upper stack."""
    return [node for node in broken.nodes(graph, kind) if "model.upper" in str(node.metadata_props)][layer]


@pytest.mark.parametrize(("a", "b", "names"), [(0, 2, "input and forget"), (1, 3, "cell and output")])
def test_swapped_gates_are_named(deep, tmp_path, a, b, names):
    model, path = deep(nn.LSTM)

    def edit(graph):
        node = upper(graph, "LSTM", 1)
        for k in (1, 2):
            broken.change(graph, node.input[k], lambda array: broken.swapped(array, a, b, 4))
        # The biases too: the input's and the hidden one's, four gates each.
        broken.change(
            graph,
            node.input[3],
            lambda array: np.concatenate([broken.swapped(h, a, b, 4) for h in np.split(array, 2, 1)], 1),
        )

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.place, found.module, found.layer, found.direction) == ("in", "upper", 1, "forward")
    assert found.reason == "its gates are mixed up (input and forget are swapped)".replace("input and forget", names)
    assert found.step == 0


def test_a_wrong_linear_before_reset_is_named(deep, tmp_path):
    model, path = deep(nn.LSTM)

    def edit(graph):
        (node,) = broken.nodes(graph, "GRU")
        broken.attribute(node, "linear_before_reset").i = 0

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.place, found.module, found.operator, found.layer) == ("in", "lower", "GRU", 0)
    assert "linear_before_reset=0" in found.reason


def test_a_flipped_direction_is_named(deep, tmp_path):
    model, path = deep(nn.LSTM)

    def edit(graph):
        (node,) = broken.nodes(graph, "GRU")
        broken.attribute(node, "direction").s = b"reverse"

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.place, found.module, found.layer, found.direction) == ("in", "lower", 0, "forward")
    assert found.reason == "it reads the sequence in the other direction"


@pytest.mark.parametrize(("kind", "operator"), [(nn.LSTM, "LSTM"), (nn.GRU, "GRU"), (nn.RNN, "RNN")])
def test_a_dropped_bias_is_named(deep, tmp_path, kind, operator):
    model, path = deep(kind)

    def edit(graph):
        upper(graph, operator, 0).input[3] = ""

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.place, found.module, found.layer, found.direction) == ("in", "upper", 0, "forward")
    assert found.reason == "both its biases are missing"


def test_a_bias_that_only_the_backward_direction_lacks_is_named(deep, tmp_path):
    model, path = deep(nn.GRU)

    def edit(graph):
        def drop(array):  # (directions, input's and hidden): the backward direction's hidden one
            array[1, array.shape[1] // 2 :] = 0
            return array

        broken.change(graph, upper(graph, "GRU", 0).input[3], drop)

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.module, found.layer, found.direction) == ("upper", 0, "backward")
    assert found.reason == "its hidden bias is missing"
    assert found.step == found.shape["sequence"] - 1  # where it begins to read


def test_a_baked_batch_is_named(deep, tmp_path):
    model, path = deep(nn.LSTM)

    def edit(graph):
        node = upper(graph, "LSTM", 0)
        zeros = numpy_helper.from_array(np.zeros((2, 3, 3), np.float32), "baked")
        graph.initializer.append(zeros)
        while len(node.input) < 7:
            node.input.append("")
        node.input[5] = node.input[6] = "baked"

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.place, found.module, found.layer) == ("in", "upper", 0)
    assert "it runs at batch=3 sequence=7, as it was exported, so a size is fixed in the graph" in found.reason


def test_a_fault_before_a_layer_is_told_from_one_in_it(deep, tmp_path):
    model, path = deep(nn.LSTM)

    def edit(graph):
        (tanh,) = broken.nodes(graph, "Tanh")
        tanh.op_type = "Sigmoid"

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.place, found.module, found.layer, found.step) == ("before", "lower", 0, 0)


def test_a_fault_after_the_last_layer_is_told_too(deep, tmp_path):
    model, path = deep(nn.LSTM)

    def edit(graph):
        out = graph.output[0].name
        node = next(node for node in graph.node if out in node.output)
        node.output[0] = "before"
        one = numpy_helper.from_array(np.array(1.5, np.float32), "one_and_a_half")
        graph.initializer.append(one)
        graph.node.append(helper.make_node("Mul", ["before", "one_and_a_half"], [out]))

    found = located(model, broken.broken(path, tmp_path, edit))
    assert (found.place, found.module, found.operator) == ("after", "output", "")


@pytest.mark.parametrize("lowering", ["fused", "scan"])
def test_a_fault_in_a_packed_layer_is_found_in_either_lowering(tmp_path, lowering):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4, bidirectional=True, batch_first=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]

    torch.manual_seed(0)
    model = Packed()
    bundle = export(
        model,
        (torch.randn(3, 6, 3), torch.tensor([6, 2, 4])),
        tmp_path / "packed",
        axes={"x": {0: "batch", 1: "sequence"}, "lengths": {0: "batch"}},
        formats=["onnx"],
        lowering=lowering,
    )

    def edit(graph):
        if lowering == "fused":
            (node,) = broken.nodes(graph, "LSTM")
            node.input[4] = ""  # sequence_lens
        else:
            backward = broken.nodes(graph, "Scan")[1]
            tanh = next(n for n in broken.attribute(backward, "body").g.node if n.op_type == "Tanh")
            tanh.op_type = "Sigmoid"

    found = located(model, broken.broken(bundle, tmp_path, edit))
    assert (found.place, found.module, found.layer, found.direction) == ("in", "rnn", 0, "backward")
    assert found.reason == ("the lengths are ignored" if lowering == "fused" else "")


def test_other_weights_are_found_in_torchscript_and_pt2_as_well(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential()
    model = Deep(nn.GRU)
    axes = {"x": {0: "batch", 1: "sequence"}}
    path = tmp_path / "bundle"
    export(model, torch.randn(3, 7, 4), path, axes=axes, formats=["onnx", "torchscript", "pt2"])
    with torch.no_grad():
        model.upper.weight_hh_l1 += 0.5
    report = verify(model, path, level="quick")
    found = {divergence.backend: divergence for divergence in report.divergences}
    assert {"onnxruntime-cpu", "torchscript", "torch.export"} <= found.keys()
    assert {(d.module, d.operator) for d in found.values()} == {("upper", "GRU")}
    # PyTorch runs both layers of the module at once; the graph shows each.
    assert found["onnxruntime-cpu"].layer == 1
    assert found["torchscript"].layer is None
    # The state is zeros at first, which hidden weights make nothing of.
    assert {d.step for d in found.values()} == {1}


def test_a_trace_of_what_is_right_names_nothing(deep):
    model, path = deep(nn.LSTM)
    report = verify(model, path, level="quick", trace=True)
    assert report.passed
    assert not report.divergences
    assert "onnxruntime-cpu: no recurrent layer leaves eager PyTorch; the largest error inside is " in str(report)


def test_a_layer_of_ones_own_is_traced_too(tmp_path):
    import rnn_models

    built_in = rnn_models.get("layer-norm-lstm")
    bundle = export(path=tmp_path / "bundle", **built_in.export_arguments())

    def edit(graph):
        (scan,) = broken.nodes(graph, "Scan")
        sigmoid = next(n for n in broken.attribute(scan, "body").g.node if n.op_type == "Sigmoid")
        sigmoid.op_type = "Tanh"

    found = located(built_in.model(), broken.broken(bundle, tmp_path, edit))
    assert (found.place, found.operator, found.layer, found.step) == ("in", "Scan", 0, 0)


def test_the_edits_of_these_tests_reach_the_graph(deep, tmp_path):
    _, path = deep(nn.LSTM)
    same = broken.broken(path, tmp_path, lambda graph: None)
    assert len(onnx.load(same / "model.onnx").graph.node) == len(onnx.load(path / "model.onnx").graph.node)
    assert verify(deep(nn.LSTM)[0], same, level="quick").passed
