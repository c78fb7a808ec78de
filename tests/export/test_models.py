"""Whole models: recurrent layers anywhere, other layers around them, inputs and outputs of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import export

SEQUENCE = {"x": {0: "batch", 1: "sequence"}}


class Shared(nn.Module):
    """One layer for two inputs of two lengths, as a siamese network has."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.GRU(5, 4, batch_first=True)

    def forward(self, x, other):
        return torch.cosine_similarity(self.encoder(x)[1][0], self.encoder(other)[1][0], dim=-1)


class Speech(nn.Module):
    """Convolution over frames and bands, two kinds of layers, attention over time."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru, self.lstm = nn.Conv2d(1, 3, 3, padding=1), nn.GRU(15, 8), nn.LSTM(8, 6, bidirectional=True)
        self.attention, self.out = nn.MultiheadAttention(12, 2), nn.Linear(12, 2)

    def forward(self, x):
        y = torch.relu(self.conv(x.unsqueeze(1))).transpose(1, 2).flatten(2).transpose(0, 1)
        y, _ = self.gru(y)
        y, (h, _) = self.lstm(y)
        y, _ = self.attention(y, y, y, need_weights=False)
        return {"scores": self.out(y).transpose(0, 1), "last": h}


class Unbatched(nn.Module):
    """One sequence at a time: two dimensions."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(5, 4, 2), nn.Linear(4, 3)

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        return self.out(y), h, c


class Frames(nn.Module):
    """Layers along time and along frequency, with both axes dynamic."""

    def __init__(self):
        super().__init__()
        self.time, self.frequency = nn.GRU(3, 4, batch_first=True), nn.RNN(4, 3, batch_first=True, bidirectional=True)

    def forward(self, x):
        batch, time, bands, _ = x.shape
        y, _ = self.time(x.transpose(1, 2).reshape(batch * bands, time, 3))
        y = y.reshape(batch, bands, time, 4).transpose(1, 2).reshape(batch * time, bands, 4)
        return self.frequency(y)[0].reshape(batch, time, bands, 6)


class Gated(nn.LSTM):
    """A subclass that only adds a parameter and a method."""

    def __init__(self):
        super().__init__(5, 4, batch_first=True)
        self.gate = nn.Parameter(torch.full((4,), 0.5))

    def gated(self, x):
        return self(x)[0] * self.gate


class UsesSubclass(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Gated()

    def forward(self, x):
        return self.layer.gated(x)


class Functional(nn.Module):
    """torch.lstm with weights of one's own, and no recurrent module at all."""

    def __init__(self):
        super().__init__()
        sizes = [(16, 5), (16, 4), (16,), (16,)]
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(size) / 3) for size in sizes])

    def forward(self, x):
        zeros = x.new_zeros(1, x.shape[0], 4)
        return torch.lstm(x, (zeros, zeros), list(self.weights), True, 1, 0.0, False, False, True)[0]


class Keywords(Functional):
    """The same by keywords."""

    def forward(self, x):
        zeros = x.new_zeros(1, x.shape[0], 4)
        settings = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False}
        return torch.lstm(x, (zeros, zeros), params=list(self.weights), batch_first=True, **settings)[0]


class ClampedLengths(nn.Module):
    """Lengths computed from an input."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 4, batch_first=True)

    def forward(self, x, n):
        return self.gru(pack_padded_sequence(x, n.clamp(min=1), batch_first=True, enforce_sorted=False))[1]


class Ids(nn.Module):
    """Whole numbers and booleans in, whole numbers out."""

    def __init__(self):
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(20, 5), nn.GRU(5, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x, keep):
        return self.out(self.gru(self.embedding(x) * keep.unsqueeze(-1))[0]).argmax(-1)


class OnPackedData(nn.Module):
    """Two layers over packed data, and layers of one's own on the data between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(5, 6, batch_first=True, bidirectional=True), nn.GRU(12, 4, batch_first=True)
        self.linear, self.norm = nn.Linear(12, 12), nn.BatchNorm1d(12)

    def forward(self, x, n):
        packed, (h, _) = self.first(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))
        data = self.norm(torch.tanh(self.linear(packed.data)))
        packed = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        packed, last = self.second(packed)
        y, lengths = pad_packed_sequence(packed, batch_first=True)
        return y, lengths, h, last


def randn(*shape):
    return torch.randn(shape)


def bools(*shape):
    return torch.rand(shape) < 0.3


CASES = {
    "shared": (
        Shared,
        {**SEQUENCE, "other": {0: "batch", 1: "other"}},
        lambda b, t: (randn(b, t, 5), randn(b, t + 2, 5)),
    ),
    "speech": (Speech, SEQUENCE, lambda b, t: (randn(b, t, 5),)),
    "unbatched": (Unbatched, {"x": {0: "sequence"}}, lambda b, t: (randn(t, 5),)),
    "frames": (Frames, {"x": {0: "batch", 1: "time", 2: "bands"}}, lambda b, t: (randn(b, t, b + 1, 3),)),
    "subclass": (UsesSubclass, SEQUENCE, lambda b, t: (randn(b, t, 5),)),
    "functional": (Functional, SEQUENCE, lambda b, t: (randn(b, t, 5),)),
    "keywords": (Keywords, SEQUENCE, lambda b, t: (randn(b, t, 5),)),
    "clamped lengths": (
        ClampedLengths,
        {**SEQUENCE, "n": {0: "batch"}},
        lambda b, t: (randn(b, t, 5), torch.randint(1, t + 1, (b,))),
    ),
    "ids": (
        Ids,
        {**SEQUENCE, "keep": {0: "batch", 1: "sequence"}},
        lambda b, t: (torch.randint(0, 20, (b, t)), ~bools(b, t)),
    ),
    "packed data": (
        OnPackedData,
        {**SEQUENCE, "n": {0: "batch"}},
        lambda b, t: (randn(b, t, 5), torch.randint(1, t + 1, (b,))),
    ),
}


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in (value.values() if isinstance(value, dict) else value) for tensor in flat(item)]


@pytest.mark.parametrize("name", CASES)
def test_whole_models_are_right_at_sizes_never_traced(tmp_path, name):
    build, axes, draw = CASES[name]
    torch.manual_seed(3)
    model = build().eval()
    if name == "packed data":
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 1.5)
    bundle = export(model, draw(3, 6), tmp_path / "bundle", axes=axes)
    runtime = rnn_runtime.load(bundle)
    script = torch.jit.load(bundle.path / "model.pt")
    for batch, steps in ((1, 1), (2, 13), (5, 40)):
        inputs = draw(batch, steps)
        with torch.no_grad():
            wanted = flat(model(*inputs))
            traced = script(*inputs)
        got = runtime.run({spec.name: t.numpy() for spec, t in zip(bundle.signature.inputs, inputs, strict=True)})
        for a, b, want in zip(got.values(), traced, wanted, strict=True):
            assert a.shape == tuple(want.shape)
            np.testing.assert_allclose(a, want, rtol=0, atol=2e-6)
            np.testing.assert_allclose(b, want, rtol=0, atol=2e-6)


def test_a_layer_that_is_shared_is_two_calls_of_one_name(tmp_path):
    build, axes, draw = CASES["shared"]
    layers = export(build(), draw(3, 6), tmp_path / "bundle", axes=axes, formats=["onnx"]).layers
    assert [(layer.name, layer.axis) for layer in layers] == [("encoder", "sequence"), ("encoder", "other")]
