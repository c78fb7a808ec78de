"""P: packed and padded sequences, and lengths."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from settle import Case, Ids, Lengths, params, right
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import InputError, export, verify


class Packed(nn.Module):
    """pack -> layer -> pad."""

    def __init__(self, layer, zeros=0, enforce_sorted=False, **pad):
        super().__init__()
        self.layer, self.zeros, self.pad, self.sorted = layer, zeros, pad, enforce_sorted

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.sorted)
        state = None
        if self.zeros:
            state = tuple(torch.zeros(self.zeros, x.shape[0], self.layer.hidden_size, dtype=x.dtype) for _ in range(2))
        y, last = self.layer(packed, state)
        y, n = pad_packed_sequence(y, batch_first=True, **self.pad)
        return y, n, last


class Between(nn.Module):
    """Packed and padded with nothing between; a layer beside it, so that there is something to export."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 4, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(packed, batch_first=True)[0], self.gru(x)[0]


class TextEncoder(nn.Module):
    """Embedding, convolution, packed bidirectional LSTM; the lengths may become Python numbers, as in Tacotron 2."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.embedding, self.conv = nn.Embedding(30, 6), nn.Conv1d(6, 6, 5, padding=2)
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)

    def forward(self, ids, lengths):
        x = torch.relu(self.conv(self.embedding(ids).transpose(1, 2))).transpose(1, 2)
        lengths = {
            "cpu": lambda: lengths.cpu(),
            "numpy": lambda: lengths.cpu().numpy(),
            "list": lambda: lengths.tolist(),
        }[self.way]()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class NoLengths(nn.Module):
    """Both directions over padded rows, as over the columns of an image: right for one row, wrong for a batch."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)[0]


X = ("batch", "sequence", 6)


class Nothing(nn.Module):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(packed, batch_first=True)[0]


CASES = [
    Case(
        ("P1",),
        lambda: Packed(nn.LSTM(10, 20, batch_first=True)),
        {"x": ("batch", "sequence", 10), "lengths": Lengths()},
        formats=("onnx", "torchscript", "pt2"),
    ),
    Case(
        ("P2",),
        lambda: Packed(nn.LSTM(4, 3, batch_first=True)),
        {"x": ("batch", "sequence", 4), "lengths": Lengths(short_by=2)},
        traced={"batch": 2, "sequence": 5},
        sizes=[{"batch": 1, "sequence": 7}, {"batch": 11, "sequence": 17}],
    ),
    Case(
        ("P4",),
        lambda: Packed(nn.LSTM(6, 4, num_layers=2, batch_first=True), zeros=2),
        {"x": X, "lengths": Lengths()},
        traced={"batch": 8, "sequence": 5},
        sizes=[{"batch": 11, "sequence": 17}, {"batch": 1, "sequence": 1}],
    ),
    *(
        Case(
            ("P5",),
            lambda way=way: TextEncoder(way),
            {"ids": Ids(30, ("batch", "sequence")), "lengths": Lengths()},
            name=way,
        )
        for way in ("cpu", "numpy", "list")
    ),
    Case(
        ("P6",),
        lambda: Packed(nn.LSTM(6, 4, batch_first=True)),
        {"x": X, "lengths": Lengths(short_by=2)},
        traced={"batch": 3, "sequence": 6},
        sizes=[{"batch": 1, "sequence": 9}, {"batch": 11, "sequence": 17}],
    ),
    Case(
        ("P7",),
        lambda: Packed(nn.GRU(6, 4, batch_first=True), padding_value=-1.0),
        {"x": X, "lengths": Lengths(short_by=2)},
    ),
    Case(("P8",), Between, {"x": X, "lengths": Lengths(short_by=1)}),
    Case(("P8",), Nothing, {"x": X, "lengths": Lengths(short_by=1)}),
    Case(
        ("P10",),
        lambda: Packed(nn.GRU(6, 4, batch_first=True), enforce_sorted=True),
        {"x": X, "lengths": Lengths(dtype=torch.int32, sort=True)},
        name="int32",
    ),
]


THEIRS = [
    Case(("P5",), lambda: TextEncoder("numpy"), {"ids": Ids(30, ("batch", "sequence")), "lengths": Lengths()}),
]


@pytest.mark.parametrize("case", params(CASES))
def test_one_file_is_right_for_any_rows(tmp_path, case):
    bundle = right(case, tmp_path)
    assert bundle.signature.lengths.input == "lengths"


@pytest.mark.reported("P1", "R")
def test_p1_the_rows_of_the_thread(tmp_path):
    """lengths [5, 3, 2], and in another order."""
    case = CASES[0]
    bundle = export(path=tmp_path / "bundle", **case.arguments())
    model = rnn_runtime.load(bundle)
    x = torch.randn(3, 5, 10)
    for lengths in ([5, 3, 2], [2, 5, 3], [4, 1, 2]):
        want = case.eager([x, torch.tensor(lengths)])
        got = list(model.run(x.numpy(), lengths=lengths).values())
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
            assert a.shape == b.shape


@pytest.mark.reported("P10", "R")
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, list])
def test_p10_any_integer_type_is_taken(tmp_path_factory, dtype):
    case = CASES[1]
    bundle = _p2(tmp_path_factory)
    x, lengths = torch.randn(3, 7, 4), [7, 2, 5]
    want = case.eager([x, torch.tensor(lengths)])
    got = rnn_runtime.load(bundle).run(x.numpy(), lengths=lengths if dtype is list else np.array(lengths, dtype))
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-6)


def _p2(factory, cache={}):  # noqa: B006 - one bundle for all
    if "bundle" not in cache:
        cache["bundle"] = export(path=factory.mktemp("p2") / "bundle", **CASES[1].arguments())
    return cache["bundle"]


class LastStep(nn.Module):
    """One direction, and the last step alone."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 4, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


class Mean(Packed):
    """Takes lengths, and means over the padding all the same."""

    def forward(self, x, lengths):
        return super().forward(x, lengths)[0].mean(1) + x.mean((1, 2)).unsqueeze(-1)


AXES = {"x": {0: "batch", 1: "sequence"}}
ROW = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([5, 2, 4])


@pytest.mark.reported("P13", "W")
@pytest.mark.parametrize("model", [NoLengths, LastStep])
def test_p13_padded_rows_that_differ_from_single_ones_are_reported(tmp_path, model):
    """In the report of the export, of `verify` with the model, and of the runtime's, and it is so."""
    torch.manual_seed(0)
    model = model().eval()
    bundle = export(model, ROW, tmp_path / "b", axes=AXES, formats=["onnx"])
    said = (
        r"rows of unequal 'sequence' cannot share a batch by padding: 'output' of a row of 7 changes by [\d.e-]+ when"
    )
    for report in (
        bundle.report,
        verify(model, bundle, level="quick"),
        rnn_runtime.verify(bundle.path, level="quick"),
    ):
        assert report.passed
        (warning,) = report.warnings
        assert re.match(said, warning) and "pack_padded_sequence" in warning
        assert f"warning: {warning}" in str(report)
        assert json.loads(report.to_json())["warnings"] == [warning]
    padded = np.pad(ROW[:1].numpy(), ((0, 0), (0, 4), (0, 0)))
    runtime = rnn_runtime.load(bundle)
    got, want = runtime.run(padded)["output"], runtime.run(ROW[:1].numpy())["output"]
    assert np.abs(got[:, :5] - want if got.ndim == 3 else got - want).max() > 1e-3


@pytest.mark.reported("P13", "W")
@pytest.mark.parametrize(
    ("model", "example", "axes"),
    [
        (Packed(nn.LSTM(6, 4, batch_first=True, bidirectional=True)), (ROW, LENGTHS), AXES),
        (nn.GRU(6, 4, batch_first=True), ROW, None),
    ],
    ids=["lengths", "one direction"],
)
def test_p13_rows_that_padding_leaves_alone_are_not(tmp_path, model, example, axes):
    bundle = export(model, example, tmp_path / "b", axes=axes, formats=["onnx"])
    assert bundle.report.warnings == rnn_runtime.verify(bundle.path, level="quick").warnings == ()


@pytest.mark.reported("P13", "W")
def test_p13_lengths_that_the_model_does_not_heed_are_reported(tmp_path):
    model = Mean(nn.GRU(6, 4, batch_first=True))
    bundle = export(model, (ROW, LENGTHS), tmp_path / "b", axes=AXES, formats=["onnx"])
    for report in (bundle.report, rnn_runtime.verify(bundle.path, level="quick")):
        (warning,) = report.warnings
        assert warning.startswith("padding changes a row's results though the model takes lengths: eager PyTorch")


class TwoLengths(nn.Module):
    """Two packed sequences, each with its lengths."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.GRU(6, 4, batch_first=True), nn.GRU(6, 4, batch_first=True)

    def forward(self, x, x_lengths, y, y_lengths):
        one = self.one(pack_padded_sequence(x, x_lengths, batch_first=True, enforce_sorted=False))[1]
        return one, self.two(pack_padded_sequence(y, y_lengths, batch_first=True, enforce_sorted=False))[1]


@pytest.mark.reported("P5", "X")
@pytest.mark.parametrize("sizes", [None, {"steps": 9}, {"sequence": 7, "steps": 9}], ids=str)
@pytest.mark.parametrize("wrong", [10, 0])
def test_p5_every_input_that_holds_lengths_is_checked(tmp_path, sizes, wrong):
    """Also the second, and where the axis that they count along is fixed; a lone file and a stream do so too."""
    axes = {"x": {0: "batch", 1: "sequence"}, "y": {0: "batch", 1: "steps"}}
    example = (ROW, LENGTHS, torch.randn(3, 4, 6), torch.tensor([4, 1, 3]))
    bundle = export(TwoLengths(), example, tmp_path / "b", axes=axes, formats=["onnx"], sizes=sizes)
    assert bundle.report.passed and rnn_runtime.verify(bundle.path, level="quick").passed
    feeds = {"x": np.ones((2, 7, 6), np.float32), "y": np.ones((2, 9, 6), np.float32)}
    good = {"x_lengths": np.array([7, 1]), "y_lengths": np.array([2, 9])}
    for model in (rnn_runtime.load(bundle), rnn_runtime.load(bundle.path / "model.onnx")):
        assert model.run({**feeds, **good})[0].shape == (1, 2, 4)
        for name in good:
            with pytest.raises(InputError, match=rf"{name}\[1\] is {wrong}; a length is 1 to [79]"):
                model.run({**feeds, **good, name: np.array([2, wrong])})
