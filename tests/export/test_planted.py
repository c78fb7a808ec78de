"""Faults planted in the files of a bundle: `verify` finds each, at its default level and at the quick one."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_export import _weights, export, verify

_spec = importlib.util.spec_from_file_location("broken_bundles", Path(__file__).parent / "broken.py")
broken = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(broken)
change, drop_attribute, nodes, swapped = broken.change, broken.drop_attribute, broken.nodes, broken.swapped

AXES = {"ids": {0: "batch", 1: "sequence"}}


class Words(nn.Module):
    """An embedding of 5,000 words, packed lengths, both directions, an initial state, a threshold."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5000, 4)
        self.lstm = nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(10, 3, batch_first=True)
        self.linear = nn.Linear(3, 3)

    def forward(self, ids, lengths, h_0):
        packed = pack_padded_sequence(self.table(ids), lengths, batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=ids.shape[1])
        y, h_n = self.gru(x, h_0)
        late = torch.cat([y[:, :1], y[:, :-1]], 1)
        y = torch.sigmoid(self.linear(torch.relu(y - 0.125) + 0.5 * late))
        return y, h_n


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    torch.manual_seed(0)
    model = Words()
    example = (torch.randint(0, 5000, (2, 5)), torch.tensor([5, 3]), torch.randn(1, 2, 3))
    axes = {**AXES, "lengths": {0: "batch"}, "h_0": {1: "batch"}}
    bundle = export(model, example, tmp_path_factory.mktemp("words") / "bundle", axes=axes)
    return model, bundle.path


@pytest.fixture(scope="module")
def twin(words, tmp_path_factory):
    """What the live model is written as, once for all tests."""
    model = words[0]
    folder = tmp_path_factory.mktemp("twin")
    held: dict[str, Path] = {}
    write = _weights._written

    def written(given, sealed, example, into):
        assert given is model
        if "made" not in held:
            write(given, sealed, example, folder)
            held["made"] = folder
        for file in folder.iterdir():
            shutil.copyfile(file, Path(into) / file.name)

    return written


def first(graph, kind):
    return nodes(graph, kind)[0]


def weight(kind, k, function):
    return lambda graph: change(graph, first(graph, kind).input[k], function)


def one(index, by):
    def function(array):
        array[index] += by
        return array

    return function


def halves(array):
    return array.astype(np.float16).astype(np.float32)


def constant(shape, function):
    """Change the first constant of this shape."""

    def edit(graph):
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.shape == shape and array.dtype == np.float32:
                return change(graph, tensor.name, function)
        raise LookupError(shape)

    return edit


def number(value, new):
    """Change a plain number of the model, wherever it stands."""

    def edit(graph):
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size == 1 and array.reshape(-1)[0] == np.asarray(value, array.dtype):
                return change(graph, tensor.name, lambda array: np.full_like(array, new))
        raise LookupError(value)

    return edit


def setting(kind, name, value):
    def edit(graph):
        node = first(graph, kind)
        drop_attribute(node, name) if any(item.name == name for item in node.attribute) else None
        node.attribute.append(helper.make_attribute(name, value))

    return edit


def without(kind, k):
    def edit(graph):
        first(graph, kind).input[k] = ""

    return edit


def around(kind, make, *, after=False):
    """Put a node, or several, before the first input or after the first output of an operator."""

    def edit(graph):
        node = first(graph, kind)
        place = list(graph.node).index(node)
        if after:
            name, node.output[0] = node.output[0], "planted"
            made = make("planted", name)
        else:
            made = make(node.input[0], "planted")
            node.input[0] = "planted"
        for k, new in enumerate(made):
            graph.node.insert(place + k + after, new)

    return edit


def cast(before, after):
    return [
        helper.make_node("Cast", [before], ["half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], [after], to=onnx.TensorProto.FLOAT),
    ]


def clip(before, after):
    ends = [helper.make_node("Constant", [], [name], value_float=value) for name, value in (("lo", -9.0), ("hi", 9.0))]
    return [*ends, helper.make_node("Clip", [before, "lo", "hi"], [after])]


def backwards(before, after):
    parts = {"starts": [-1], "ends": [-(2**63) + 1], "along": [0], "steps": [-1]}
    made = [helper.make_node("Constant", [], [name], value_ints=value) for name, value in parts.items()]
    return [*made, helper.make_node("Slice", [before, *parts], [after])]


def activation(kind, new):
    def edit(graph):
        first(graph, kind).op_type = new

    return edit


def exchanged(kind, a, b):
    def edit(graph):
        node = first(graph, kind)
        node.input[a], node.input[b] = node.input[b], node.input[a]

    return edit


def results_exchanged(graph):
    graph.output[0].name, graph.output[1].name = graph.output[1].name, graph.output[0].name


def another_lag(graph):
    """The slice that leaves out the last step leaves out two."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in nodes(graph, "Slice"):
        end = constants.get(node.input[2])
        if end is not None and end.tolist() == [-1]:
            graph.initializer.append(numpy_helper.from_array(end - 1, "planted"))
            node.input[2] = "planted"
            return
    raise LookupError("no such slice")


def baked(axis):
    """A size of the example stands in a Reshape or Expand in the place of the axis."""

    def edit(graph):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = (2, 5)[axis]

    return edit


FAULTS = {
    "a row of the embedding": constant((5000, 4), one(4321, 1.0)),
    "one number of the embedding, in its last bit": constant((5000, 4), one((4999, 3), 1e-6)),
    "rows of the embedding exchanged": constant((5000, 4), lambda a: np.concatenate([a[1:2], a[:1], a[2:]])),
    "an input weight": weight("LSTM", 1, one((0, 5, 2), 1e-5)),
    "a hidden weight": weight("LSTM", 2, one((1, 19, 4), 1e-5)),
    "a weight of the GRU": weight("GRU", 1, one((0, 0, 0), 1e-5)),
    "input and output gate exchanged": weight("LSTM", 1, lambda a: swapped(a, 0, 1, 4)),
    "forget and cell gate exchanged": weight("LSTM", 2, lambda a: swapped(a, 2, 3, 4)),
    "reset and update gate exchanged": weight("GRU", 2, lambda a: swapped(a, 0, 1, 3)),
    "gates of the bias exchanged": weight("LSTM", 3, lambda a: swapped(a, 0, 2, 8)),
    "no bias": weight("LSTM", 3, np.zeros_like),
    "the bias is missing": without("LSTM", 3),
    "input and hidden bias exchanged": weight("GRU", 3, lambda a: swapped(a, 0, 1, 2)),
    "directions exchanged": weight("LSTM", 1, lambda a: a[::-1]),
    "hidden weights of the other direction": weight("LSTM", 2, lambda a: a[[0, 0]]),
    "hidden weights transposed": weight(
        "GRU", 2, lambda a: np.ascontiguousarray(a.reshape(1, 3, 3, 3).swapaxes(2, 3)).reshape(1, 9, 3)
    ),
    "lengths ignored": without("LSTM", 4),
    "initial state ignored": without("GRU", 5),
    "reset before the product": setting("GRU", "linear_before_reset", 0),
    "runs in reverse": setting("GRU", "direction", "reverse"),
    "cells are clipped": setting("LSTM", "clip", 3.0),
    "another activation in the GRU": setting("GRU", "activations", ["Sigmoid", "Softsign"]),
    "sigmoid is a hard one": activation("Sigmoid", "HardSigmoid"),
    "relu is another": activation("Relu", "Elu"),
    "through half": around("GRU", cast),
    "weights through half": weight("GRU", 1, halves),
    "a clip is added": around("Sigmoid", clip),
    "the sequence in reverse": around("GRU", backwards),
    "the threshold": number(0.125, 0.126),
    "a factor": number(0.5, 0.25),
    "a lag off by one": another_lag,
    "the batch baked in": baked(0),
    "the sequence baked in": baked(1),
    "output and state exchanged": results_exchanged,
    "the linear layer's bias": constant((3,), one(0, 1e-5)),
}


def test_a_bundle_as_it_was_written_passes(words, twin, monkeypatch):
    model, path = words
    monkeypatch.setattr(_weights, "_written", twin)
    report = verify(model, path, only="weights")
    assert report.passed
    assert {check.backend for check in report.checks} == {"model.onnx", "model.pt"}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found(words, twin, monkeypatch, tmp_path, fault):
    model, path = words
    monkeypatch.setattr(_weights, "_written", twin)
    shutil.copytree(path, tmp_path / "bundle")
    graph = onnx.load(path / "model.onnx")
    before = graph.SerializeToString(deterministic=True)
    FAULTS[fault](graph.graph)
    assert graph.SerializeToString(deterministic=True) != before
    onnx.save(graph, tmp_path / "bundle" / "model.onnx")
    report = verify(model, broken.reseal(tmp_path / "bundle"), only="weights")
    assert not report.passed
    assert [check.backend for check in report.broken] == ["model.onnx"], report
