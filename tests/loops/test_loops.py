"""Python loops over time: a slice of the corpus, exported and run at sizes that were never traced."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rnn_runtime
from rnn_export import ExportError, export, verify
from rnn_export._roll import numbers
from rnn_export._roll.ir import Unalike

_spec = importlib.util.spec_from_file_location("loops_corpus", Path(__file__).with_name("corpus.py"))
corpus = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(corpus)
LOOPS = corpus.LOOPS

REFUSED = [name for name, case in LOOPS.items() if case.refused is not None]
ROLLED = [name for name in LOOPS if name not in REFUSED]
SLICE = random.Random(int(os.environ.get("RNN_EXPORT_SEED", "0"))).sample(ROLLED, 3)


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in (value.values() if isinstance(value, dict) else value) for tensor in flat(item)]


def test_the_corpus_is_large_enough():
    assert len(LOOPS) >= 40 and len(ROLLED) >= 36


@pytest.mark.parametrize("name", SLICE)
def test_a_loop_is_rolled_and_right_at_any_length(tmp_path, name):
    torch.manual_seed(0)
    case = LOOPS[name]
    model = case.model().eval()
    bundle = export(model, case.inputs(2, 4), tmp_path / "bundle", axes=case.axes)
    assert bundle.report.passed
    runtime, scripted = rnn_runtime.load(bundle), torch.jit.load(bundle.path / "model.pt")
    for batch, sequence in ((1, 1), (3, 17), (2, 100)):
        inputs = case.inputs(batch, sequence)
        with torch.no_grad():
            want = flat(model(*inputs))
            torchscript = scripted(*inputs)
        names = [spec.name for spec in bundle.signature.inputs]
        onnx = runtime.run({key: tensor.numpy() for key, tensor in zip(names, inputs, strict=True)})
        for a, b, c in zip(want, onnx.values(), torchscript, strict=True):
            np.testing.assert_allclose(b, a.numpy(), rtol=0, atol=1e-4)
            np.testing.assert_allclose(c.numpy(), a.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Strided", [(1, 1), (3, 16), (2, 17)]),
        ("WhileCounter", [(1, 1), (3, 17)]),
        ("Seq2SeqTwoAxes", [(1, 1), (3, 17)]),
        ("RowsByBatch", [(1, 1), (3, 17)]),
        ("UpsamplingOutput", [(1, 1), (3, 17)]),
        ("PositionFeature", [(1, 1), (3, 17)]),
        ("ClockFeature", [(1, 1), (3, 17)]),
        ("MaskedByWhere", [(1, 1), (3, 17)]),
    ],
)
def test_what_a_loop_goes_over_need_not_be_one_axis_step_by_step(tmp_path, name, sizes):
    model, bundle = exported(name, tmp_path / "bundle", formats=["onnx"])
    runtime = rnn_runtime.load(bundle)
    names = [spec.name for spec in bundle.signature.inputs]
    for batch, sequence in sizes:
        inputs = LOOPS[name].inputs(batch, sequence)
        with torch.no_grad():
            want = flat(model(*inputs))
        got = runtime.run({key: tensor.numpy() for key, tensor in zip(names, inputs, strict=True)})
        for a, b in zip(want, got.values(), strict=True):
            np.testing.assert_allclose(b, a.numpy(), rtol=0, atol=1e-4)


class Frames(nn.Module):
    """A loop over whole frames; the samples that are left over count in the result."""

    def __init__(self, hop):
        super().__init__()
        self.cell, self.hop = nn.GRUCell(hop, 6), hop

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1] // self.hop):
            h = self.cell(x[:, t * self.hop : (t + 1) * self.hop], h)
        return h * x.shape[1]


def test_samples_that_make_no_whole_frame_are_seen(tmp_path):
    axes = {"x": {0: "batch", 1: "samples"}}
    with pytest.raises(ExportError, match="the model does something else at batch=2, samples=8"):
        export(Frames(7), torch.randn(2, 21), tmp_path / "bundle", axes=axes)
    assert list(tmp_path.iterdir()) == []


def whole_frames(model, x):
    for t in range(x.shape[1] // 3):
        yield x[:, 3 * t : 3 * t + 3].mean(1)


def each_third(model, x):
    yield from x[:, 1::3].unbind(1)


def each_fourth(model, x):
    for t in range(0, x.shape[1], 4):
        yield x[:, t]


def no_step_of_one(model, x):
    for t in range(x.shape[1] // 5):
        yield x[:, 5 * t] + x[:, 5 * t + 4]


STRIDE = 3


def by_a_number_with_a_name(model, x):
    for t in range(0, x.shape[1], STRIDE):
        yield x[:, t]


class Steps(nn.Module):
    """A cell over what `steps` gives of a sequence, which may be nothing."""

    def __init__(self, steps):
        super().__init__()
        self.cell, self.steps = nn.GRUCell(5, 6), steps

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        for step in self.steps(self, x):
            h = self.cell(step, h)
        return h


@pytest.mark.parametrize(
    ("steps", "sequence"),
    [
        *((whole_frames, 4), (whole_frames, 15), (each_third, 4), (each_fourth, 4)),
        *((by_a_number_with_a_name, 15), (no_step_of_one, 4)),
    ],
)
def test_a_sequence_shorter_than_a_stride_has_no_step_and_leaves_the_state(tmp_path, steps, sequence):
    torch.manual_seed(0)
    model, axes = Steps(steps), {"x": {0: "batch", 1: "sequence"}}
    runtime = rnn_runtime.load(export(model, torch.randn(2, sequence, 5), tmp_path / "b", axes=axes, formats=["onnx"]))
    for batch, length in [(2, n) for n in range(1, 13)] + [(1, 64), (7, 101)]:
        x = torch.randn(batch, length, 5)
        with torch.no_grad():
            want = model.double()(x.double()).numpy()
        np.testing.assert_allclose(runtime.run(x.numpy())["output"], want, rtol=0, atol=1e-5)


def each_fifth(h, t, length):
    return h * 2 if length % 5 == 0 else h


def at_twenty(h, t, length):
    return h * 2 if length == 20 else h


def after_nineteen(h, t, length):
    return h * 2 if t == 19 else h  # which the cell has forgotten by step 64


class Otherwise(nn.Module):
    """A loop that does something else at some length, or in some step."""

    def __init__(self, change):
        super().__init__()
        self.cell, self.change, self.at = nn.GRUCell(5, 6), change, 19

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            h = self.change(self.cell(x[:, t], h), t, x.shape[1])
        return h


def test_what_a_loop_does_at_each_fifth_length_is_refused_with_its_line(tmp_path):
    axes = {"x": {0: "batch", 1: "sequence"}}
    with pytest.raises(ExportError, match=r"`return h \* 2 if length % 5 == 0 else h` in Otherwise"):
        export(Otherwise(each_fifth), torch.randn(2, 4, 5), tmp_path / "bundle", axes=axes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [at_twenty, after_nineteen])
def test_what_a_loop_does_at_few_lengths_alone_is_beyond_its_limit(tmp_path, change):
    axes = {"x": {0: "batch", 1: "sequence"}}
    (limit,) = export(Otherwise(change), torch.randn(2, 4, 5), tmp_path / "bundle", axes=axes).signature.limits
    assert (limit.axis, limit.min, limit.max) == ("sequence", 1, 19)


class ConstantsInSteps(nn.Module):
    """A loop whose steps make a constant anew and take a cell from a plain list; a constant after it."""

    def __init__(self, factor):
        super().__init__()
        self.cells, self.factor = [nn.RNNCell(5, 6)], factor

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            h = self.cells[0](x[:, t], torch.tensor(self.factor(t)) * h)
        return h + torch.tensor([0.5, -0.5]).repeat(3)


def test_equal_constants_that_steps_make_anew_are_one(tmp_path):
    torch.manual_seed(0)
    model, axes = ConstantsInSteps(lambda t: 0.9).eval(), {"x": {0: "batch", 1: "sequence"}}
    runtime = rnn_runtime.load(export(model, torch.randn(2, 7, 5), tmp_path / "b", axes=axes, formats=["onnx"]))
    for batch, length in ((1, 1), (3, 2), (2, 40)):
        x = torch.randn(batch, length, 5)
        with torch.no_grad():
            want = model(x).numpy()
        np.testing.assert_allclose(runtime.run(x.numpy())["output"], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [lambda t: 0.9 if t != 3 else 0.9000001, lambda t: -0.0 if t % 2 else 0.0])
def test_constants_that_differ_in_one_bit_are_not_one(tmp_path, factor):
    axes = {"x": {0: "batch", 1: "sequence"}}
    with pytest.raises(ExportError, match="cannot be rolled"):
        export(ConstantsInSteps(factor), torch.randn(2, 7, 5), tmp_path / "bundle", axes=axes)
    assert list(tmp_path.iterdir()) == []


class Rows(nn.Module):
    """A loop over all rows of all sequences."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(5, 6)

    def forward(self, x):
        h = x.new_zeros(1, 6)
        for row in x.flatten(0, 1):
            h = self.cell(row[None], h)
        return h


def test_a_number_of_steps_that_no_axis_gives_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"its number of steps, .*, is computed of 'batch' and 'sequence'"):
        export(Rows(), torch.randn(2, 3, 5), tmp_path / "bundle", axes={"x": {0: "batch", 1: "sequence"}})


POINTS = [(12, 9), (13, 9), (14, 9), (15, 9), (12, 10)]


@given(*[st.integers(-4, 4)] * 2, st.integers(-20, 20))
def test_a_number_that_follows_two_lengths_is_found(first, second, offset):
    values = [first * a + second * b + offset for a, b in POINTS]
    found = numbers.whole(values, POINTS)
    assert [numbers.at(found, p) for p in [*POINTS, (1, 1), (100, 64)]] == [
        *values,
        first + second + offset,
        100 * first + 64 * second + offset,
    ]


@given(st.integers(1, 5), st.integers(-5, 5))
def test_a_number_that_follows_a_length_in_strides_of_two_is_found(factor, offset):
    values = [(factor * a + offset) // 2 for a, _ in POINTS]
    found = numbers.whole(values, POINTS)
    assert all(numbers.at(found, (n, 9)) == (factor * n + offset) // 2 for n in range(1, 40))


@pytest.mark.parametrize("values", [[1, 2, 4, 8, 1], [0, 1, 0, 1, 0]])
def test_a_number_that_follows_no_plain_rule_is_none(values):
    with pytest.raises(Unalike, match="by no plain rule"):
        numbers.whole(values, POINTS)


@pytest.mark.parametrize(("top", "offset"), [(1.0, 0), (2.5, -1), (-3.0, 2)])
def test_a_part_of_the_length_is_found(top, offset):
    found = numbers.part([top / (n + offset) for n in (6, 7)], [(6,), (7,)])
    assert numbers.is_part(found)
    for n in (3, 6, 1000):
        assert float(found.subs(numbers.length(0), n)) == pytest.approx(top / (n + offset), rel=1e-12)


@pytest.mark.parametrize("values", [[6.0, 36.5], [2.0, float("inf")], [2.0, float("nan")]])
def test_a_part_that_follows_no_plain_rule_is_none(values):
    with pytest.raises(Unalike, match="by no plain rule"):
        numbers.part(values, [(6,), (7,)])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_scan_is_refused_with_its_line_and_reason(tmp_path, name):
    case = LOOPS[name]
    with pytest.raises(ExportError) as caught:
        export(case.model(), case.inputs(2, 4), tmp_path / "bundle", axes=case.axes)
    assert case.refused in str(caught.value) and "corpus.py" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def exported(name, path, dtype=torch.float32, **options):
    torch.manual_seed(0)
    case = LOOPS[name]
    model = case.model().eval().to(dtype)
    inputs = tuple(t.to(dtype) if t.is_floating_point() else t for t in case.inputs(2, 4))
    return model, export(model, inputs, path, axes=case.axes, **options)


def kinds(bundle):
    graph = onnx.load(bundle.path / "model.onnx").graph
    scans = [a.g for node in graph.node if node.op_type == "Scan" for a in node.attribute if a.name == "body"]
    return [node.op_type for node in graph.node], [[node.op_type for node in scan.node] for scan in scans]


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("LSTMCellLoop", ["LSTM"]),
        ("RNNCellIteration", ["RNN"]),
        ("StackedCells", ["LSTM"] * 3),
        ("Preallocated", ["GRU"]),
    ],
)
def test_a_loop_of_a_cell_becomes_its_operator(tmp_path, name, operators):
    _, bundle = exported(name, tmp_path / "bundle", formats=["onnx"])
    outer, bodies = kinds(bundle)
    assert [kind for kind in outer if kind in ("LSTM", "GRU", "RNN")] == operators and bodies == []
    assert [layer.operator for layer in bundle.layers] == operators


def test_a_loop_of_a_cell_in_float64_is_a_scan_of_its_gates(tmp_path):
    _, bundle = exported("LSTMCellLoop", tmp_path / "bundle", torch.float64)
    assert len(kinds(bundle)[1]) == 1


def test_products_with_the_input_leave_the_scan(tmp_path):
    _, bundle = exported("LayerNormLSTM", tmp_path / "bundle", formats=["onnx"])
    outer, (body,) = kinds(bundle)
    assert sum(kind in ("Gemm", "MatMul") for kind in body) == 1
    assert body.count("Add") == 1  # of the cell's new state; the input's share goes into the Gemm
    assert sum(kind in ("Gemm", "MatMul") for kind in outer) == 1


@pytest.mark.parametrize("name", ["GRUCellUnbind", "SecondOrder"])
def test_the_state_of_a_loop_is_lifted(tmp_path, name):
    model, bundle = exported(name, tmp_path / "bundle", state="lift")
    assert bundle.signature.states and verify(model, bundle).passed
    runtime = rnn_runtime.load(bundle)
    x = torch.randn(3, 20, 5)
    with torch.no_grad():
        want = model(x).numpy()
    state, got = None, []
    for piece in x.split([1, 7, 12], dim=1):
        result = runtime.run(piece.numpy(), state=state)
        state = result.state
        got.append(result["output"])
    np.testing.assert_allclose(np.concatenate(got, 1), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Bidirectional", "the loop in 'backward_cell' reads each sequence from its end"),
        ("NeighbouringSteps", r"GRU \('cell', .*\) runs over what begins 1 steps late: a window looks ahead"),
        ("LSTMCellGivenState", "every loop is given its state by the model"),
    ],
)
def test_what_cannot_run_on_a_stream_is_not_lifted(tmp_path, name, text):
    with pytest.raises(ExportError, match=text):
        exported(name, tmp_path / "bundle", state="lift")
    assert list(tmp_path.iterdir()) == []


def test_a_given_state_is_a_pair(tmp_path):
    _, bundle = exported("LSTMCellGivenState", tmp_path / "bundle", formats=["onnx"])
    assert [(state.input, state.output) for state in bundle.signature.states] == [("h", "h_n"), ("c", "c_n")]


class KeptBatch(nn.Module):
    """Compares the batch with the one that it last saw, as the example's is."""

    def __init__(self):
        super().__init__()
        self.cell, self.batch, self.zeros = nn.GRUCell(5, 6), 2, torch.zeros(2, 6)

    def forward(self, x):
        if x.shape[0] != self.batch:
            self.batch, self.zeros = x.shape[0], x.new_zeros(x.shape[0], 6)
        h, out = x.new_zeros(x.shape[0], 6), []
        for x_t in x.unbind(1):
            h = self.cell(x_t, h)
            out.append(h)
        return torch.stack(out, 1)


def test_a_size_that_is_compared_with_a_kept_one_is_not_fixed(tmp_path):
    model = KeptBatch().eval()
    axes = {"x": {0: "batch", 1: "sequence"}}
    bundle = export(model, torch.randn(2, 4, 5), tmp_path / "bundle", axes=axes, formats=["onnx"])
    assert model.batch == 2 and {row.shape["batch"] for row in bundle.report.rows} >= {1, 2, 7}


@pytest.mark.parametrize("name", ["LayerNormLSTM", "ESN"])
def test_layer_normalisation_and_plain_numbers_keep_float64(tmp_path, name):
    _, bundle = exported(name, tmp_path / "bundle", torch.float64, formats=["onnx"])
    assert max(row.error for row in bundle.report.rows) < 1e-11


class Filled(nn.Module):
    """A cell whose state begins as memory that is then filled with zeros, as older code writes it."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        h = x.data.new(x.shape[0], 5).zero_()
        outputs = []
        for t in range(x.shape[1]):
            h = self.norm(self.cell(x[:, t], h))
            outputs.append(h)
        return torch.stack(outputs, 1)


def test_a_state_that_is_filled_with_zeros_is_lifted_whatever_its_module_is_called(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), Filled())  # the path of the loop is "1", which is no name in Python
    axes = {"input": {0: "batch", 1: "sequence"}}
    bundle = export(model, torch.randn(2, 5, 4), tmp_path / "bundle", axes=axes, state="lift")
    (pair,) = bundle.signature.states
    x = torch.randn(3, 13, 4)
    stream = rnn_runtime.load(bundle).stream(batch=3)
    parts = [next(iter(stream.push(part.numpy()).values())) for part in x.split([1, 4, 8], 1)]
    with torch.no_grad():
        want = model.double()(x.double()).numpy()
    np.testing.assert_allclose(np.concatenate(parts, 1), want, rtol=0, atol=1e-5)
    assert pair.input != pair.output


class Episodes(nn.Module):
    """A policy over rows of all steps of all environments, with its states set to zero where an episode starts."""

    def __init__(self):
        super().__init__()
        self.lstm, self.value = nn.LSTM(5, 6), nn.Linear(6, 1)

    def forward(self, x, h, c, starts):
        batch, outputs = h.shape[1], []
        rows = x.reshape(batch, -1, 5).swapaxes(0, 1)
        for row, start in zip(rows, starts.reshape(batch, -1).swapaxes(0, 1), strict=True):
            kept = (1.0 - start).view(1, batch, 1)
            output, (h, c) = self.lstm(row.unsqueeze(0), (kept * h, kept * c))
            outputs.append(output)
        value = self.value(torch.cat(outputs).transpose(0, 1).flatten(0, 1))
        return value, value + torch.ones_like(value), h, c


def test_a_loop_over_a_quotient_of_axes_leaves_both_dynamic(tmp_path):
    torch.manual_seed(0)
    model = Episodes().eval()

    def drawn(batch, steps):
        starts = torch.randint(0, 2, (batch * steps,)).float()
        return torch.randn(batch * steps, 5), torch.randn(1, batch, 6), torch.randn(1, batch, 6), starts

    axes = {"x": {0: "steps"}, "h": {1: "batch"}, "c": {1: "batch"}, "starts": {0: "steps"}}
    runtime = rnn_runtime.load(export(model, drawn(2, 3), tmp_path / "bundle", axes=axes))
    for batch, steps in ((1, 1), (3, 9), (5, 31), (7, 1)):
        inputs = drawn(batch, steps)
        with torch.no_grad():
            want = model(*inputs)
        got = runtime.run(dict(zip(axes, (tensor.numpy() for tensor in inputs), strict=True)))
        for a, b in zip(want, got.values(), strict=True):
            np.testing.assert_allclose(b, a.numpy(), rtol=0, atol=1e-5)
