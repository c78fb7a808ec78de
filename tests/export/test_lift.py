"""state="lift": inner hidden state as inputs and outputs, proven on a split sequence, else refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import ExportError, InputError, export, verify

X = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
AXES = {"x": {0: "batch", 1: "sequence"}}


class Detector(nn.Module):
    """Two kinds of layers, one of them called twice, one time-major."""

    def __init__(self):
        super().__init__()
        self.inward, self.lstm, self.gru = nn.Linear(5, 8), nn.LSTM(8, 6, 2, batch_first=True), nn.GRU(6, 6)
        self.outward = nn.Linear(6, 1)

    def forward(self, x):
        y, _ = self.lstm(torch.relu(self.inward(x)))
        y, _ = self.gru(y.transpose(0, 1))
        y, _ = self.gru(y)
        return torch.sigmoid(self.outward(y)).transpose(0, 1).squeeze(-1)


class Last(nn.Module):
    """Three layers, an answer from the last step: after each chunk, the answer so far."""

    def __init__(self):
        super().__init__()
        self.lstm, self.outward = nn.LSTM(5, 6, 3, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.outward(self.lstm(x)[1][0][-1])


class PackedNet(nn.Module):
    """Rows of unequal length, out of order."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(5, 6, batch_first=True)

    def forward(self, x, n):
        y, h = self.rnn(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True)[0], h


@pytest.mark.parametrize(
    ("model", "states"),
    [
        (Detector(), ["lstm_h_0", "lstm_c_0", "gru_h_0", "gru_2_h_0"]),
        (Last(), ["lstm_h_0", "lstm_c_0"]),
        (nn.Sequential(nn.Linear(5, 4), nn.LSTM(4, 3, batch_first=True)), ["1_h_0", "1_c_0"]),
    ],
    ids=["detector", "last", "sequential"],
)
@pytest.mark.parametrize("split", [1, 4, 10])
def test_chunks_with_the_state_carried_equal_the_whole(tmp_path, eager64, model, states, split):
    axes = AXES if not isinstance(model, nn.Sequential) else {"input": AXES["x"]}
    bundle = export(model, X, tmp_path / "bundle", axes=axes, state="lift")
    assert [state.input for state in bundle.signature.states] == states
    x = torch.randn(4, 11, 5)
    want = eager64(model, x)[0]
    runtime = rnn_runtime.load(bundle)
    script = torch.jit.load(bundle.path / "model.pt")
    first = runtime.run(x[:, :split].numpy())
    second = runtime.run(x[:, split:].numpy(), state=first.state)
    zeros = [torch.zeros([4 if a == "batch" else a for a in spec.axes]) for spec in bundle.signature.inputs[1:]]
    traced = script(x[:, :split], *zeros)
    again = script(x[:, split:], *traced[-len(states) :])
    for a, b in ((first[0], second[0]), (traced[0].detach().numpy(), again[0].detach().numpy())):
        got = b if want.ndim == 2 and want.shape[1] == 2 else np.concatenate([a, b], 1)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_a_lifted_bundle_verifies_against_the_model(tmp_path):
    model = Detector()
    bundle = export(model, X, tmp_path / "bundle", axes=AXES, state="lift")
    assert verify(model, bundle).passed
    assert not verify(Detector(), bundle).passed


def test_packed_rows_keep_their_own_state(tmp_path, eager64):
    model = PackedNet()
    bundle = export(model, (X, torch.tensor([3, 7, 1])), tmp_path / "b", axes={**AXES, "n": {0: "batch"}}, state="lift")
    runtime = rnn_runtime.load(bundle)
    x, n = torch.randn(3, 9, 5), torch.tensor([4, 9, 6])
    first = runtime.run(x[:, :4].numpy(), lengths=[4, 4, 4])
    second = runtime.run(x[1:, 4:].numpy(), state={"rnn_h_0": first.state["rnn_h_0"][:, 1:]}, lengths=[5, 2])
    y, h = eager64(model, x, n)
    np.testing.assert_allclose(first.state["rnn_h_0"][:, 0], h[:, 0], atol=1e-6)
    np.testing.assert_allclose(second.state["rnn_h_0"], h[:, 1:], atol=1e-6)
    np.testing.assert_allclose(second[0], y[1:, 4:], atol=1e-6)


def test_a_state_that_the_model_gives_itself_is_left_to_it(tmp_path):
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.GRU(5, 6, batch_first=True), nn.GRU(5, 6, batch_first=True)

        def forward(self, x):
            y, h = self.encoder(x)
            return y, h

    class Seeded(Decoder):
        def forward(self, x):
            return self.decoder(x, torch.tanh(x[:, :1, :1]).transpose(0, 1).expand(1, -1, 6).contiguous())[0]

    assert len(export(Decoder(), X, tmp_path / "a", axes=AXES, state="lift").signature.states) == 1
    with pytest.raises(ExportError, match="every recurrent layer is given its state by the model"):
        export(Seeded(), X, tmp_path / "b", axes=AXES, state="lift")


class Conv(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv1d(5, 6, 3, padding=1 if kind == "looks ahead" else 0, stride=2 if kind == "strided" else 1)
        self.plain, self.norm = nn.Linear(5, 6), nn.LayerNorm(6)
        self.gru = nn.GRU(6, 4, batch_first=True, bidirectional=kind == "bidirectional")

    def forward(self, x):
        y = self.conv(x.transpose(1, 2)).transpose(1, 2) if self.kind in ("looks ahead", "strided") else self.plain(x)
        if self.kind == "over time":
            y = y - y.mean(1, keepdim=True)
        return self.gru(self.norm(y))[0]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("looks ahead", r"GRU \('gru', .*\) runs over what begins 1 steps late.*kernel_size - 1"),
        (
            "over time",
            r"aten.mean.dim \(`y = y - y.mean\(1, keepdim=True\)`, .*\) goes over all steps together.*avg_pool1d",
        ),
        ("strided", r"aten.conv1d \('conv', .*\) takes 2 steps at a time"),
        ("bidirectional", r"GRU \('gru', .*\) is bidirectional"),
    ],
)
def test_what_cannot_stream_is_named(tmp_path, kind, text):
    with pytest.raises(ExportError, match=text):
        export(Conv(kind), X, tmp_path / "bundle", axes=AXES, state="lift")
    assert list(tmp_path.iterdir()) == []


class Sorts(nn.Module):
    """Orders its rows by itself before it packs them, as code did before enforce_sorted=False."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 4, batch_first=True)

    def forward(self, x, n):
        n, order = n.sort(descending=True)
        y, _ = self.gru(pack_padded_sequence(x[order], n, batch_first=True))
        return pad_packed_sequence(y, batch_first=True)[0][order.argsort()]


def test_rows_that_the_model_orders_by_itself_are_found(tmp_path):
    with pytest.raises(ExportError, match="the rows of 'gru_h_n' are not in the order of the input's"):
        export(Sorts(), (X, torch.tensor([7, 3, 5])), tmp_path / "b", axes={**AXES, "n": {0: "batch"}}, state="lift")


def test_a_model_that_takes_sorted_lengths_alone_is_lifted(tmp_path, eager64):
    class Sorted(PackedNet):
        def forward(self, x, n):
            y, _ = self.rnn(pack_padded_sequence(x, n, batch_first=True))
            return pad_packed_sequence(y, batch_first=True)[0]

    model = Sorted()
    bundle = export(model, (X, torch.tensor([7, 5, 3])), tmp_path / "b", axes={**AXES, "n": {0: "batch"}}, state="lift")
    x = torch.randn(2, 8, 5)
    runtime = rnn_runtime.load(bundle)
    first = runtime.run(x[:, :4].numpy())
    second = runtime.run(x[:, 4:].numpy(), state=first.state)
    want = eager64(model, x, torch.tensor([8, 8]))[0]
    np.testing.assert_allclose(np.concatenate([first["output"], second["output"]], 1), want, atol=1e-6)


@pytest.mark.parametrize("how", ["fixed", "masked"])
def test_a_state_that_the_user_gives_is_never_taken_over(tmp_path, how):
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.GRU(5, 4, batch_first=True), nn.GRU(4, 4, batch_first=True)

        def forward(self, x, h, keep):
            y, h = self.first(x, h * keep[None, :, None] if how == "masked" else h)
            return self.second(y)[0], h

    inputs = (X, torch.zeros(1, 3, 4), torch.ones(3, dtype=torch.int64))
    axes = {"x": {1: "sequence"}} if how == "fixed" else {**AXES, "h": {1: "batch"}, "keep": {0: "batch"}}
    bundle = export(Given(), inputs, tmp_path / "b", axes=axes, state="lift")
    assert {state.input for state in bundle.signature.states} == {"h", "second_h_0"}


def test_a_model_that_fails_on_its_example_says_so(tmp_path):
    with pytest.raises(ExportError, match="itself fails on its example inputs"):
        export(Detector(), torch.randn(3, 7, 4), tmp_path / "b", axes=AXES, state="lift")


def test_a_lifted_name_that_is_taken_is_named(tmp_path):
    class Named(Last):
        def forward(self, lstm_h_0):
            return super().forward(lstm_h_0)

    with pytest.raises(InputError, match="lifted state 'lstm_h_0' has the name of an input"):
        export(Named(), X, tmp_path / "bundle", axes={"lstm_h_0": AXES["x"]}, state="lift")


def test_a_bare_layer_has_its_state_anyway(tmp_path):
    signature = export(nn.LSTM(5, 4), X, tmp_path / "bundle", state="lift").signature
    assert [(state.input, state.output) for state in signature.states] == [("h_0", "h_n"), ("c_0", "c_n")]


class FromAMoment(nn.Module):
    """Something changes far on: after a minute at 50 steps a second, or once enough has been summed."""

    def __init__(self, how):
        super().__init__()
        self.how, self.gru = how, nn.GRU(5, 6, batch_first=True)

    def forward(self, x):
        y, _ = self.gru(x)
        if self.how == "a minute":
            late = (torch.arange(x.size(1)) * 0.02 > 60.0)[None, :, None]
        else:
            late = (x.abs().cumsum(1) > 50_000.0)[..., :1]
        return torch.where(late, y * 0.5, y)


@pytest.mark.parametrize("how", ["a minute", "a sum"])
def test_what_changes_far_on_changes_there_on_a_stream_too(tmp_path, eager64, how):
    model = FromAMoment(how)
    bundle = export(model, X, tmp_path / "b", axes=AXES, state="lift", formats=["onnx"])
    stream = rnn_runtime.load(bundle).stream(batch=2)
    x = torch.randn(2, 3100, 5, generator=torch.Generator().manual_seed(1)) * (50.0 if how == "a sum" else 1.0)
    got = np.concatenate([stream.push(piece.numpy())[0] for piece in x.split(775, 1)], 1)
    want = eager64(model, x)[0]
    assert not np.allclose(want[:, -1], eager64(model, x[:, -50:])[0][:, -1], atol=1e-3)  # it did change on the way
    np.testing.assert_allclose(got, want, atol=1e-5)


class SumsFeatures(nn.Module):
    """Numbers and sums along another axis than the sequence."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x):
        return self.gru(x.cumsum(2) * torch.arange(x.size(2)))[0]


def test_numbers_along_another_axis_are_no_steps(tmp_path):
    bundle = export(SumsFeatures(), X, tmp_path / "b", axes=AXES, state="lift", formats=["onnx"])
    assert [state.input for state in bundle.signature.states] == ["gru_h_0"]
