"""rnn_export.scan: a loop in eager mode, one Scan in the export."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import rnn_models
import rnn_runtime
from rnn_export import ExportError, export, scan

SHAPES = [(1, 1), (2, 13), (7, 64)]  # (batch, sequence)


class Cumulative(nn.Module):
    def __init__(self, reverse=False):
        super().__init__()
        self.reverse, self.linear = reverse, nn.Linear(5, 4)

    def forward(self, x, total):
        def step(total, x_t):
            total = total + x_t
            return total, {"sum": total, "double": 2 * total}

        total, sums = scan(step, total, self.linear(x).transpose(0, 1), reverse=self.reverse)
        return sums["sum"].transpose(0, 1), sums["double"].transpose(0, 1), total


@pytest.mark.parametrize("reverse", [False, True])
def test_in_eager_mode_it_is_the_loop(reverse):
    x = torch.randn(6, 2, 3)
    want = x.flip(0).cumsum(0).flip(0) if reverse else x.cumsum(0)
    last, sums = scan(lambda s, x_t: (s + x_t, s + x_t), torch.zeros(2, 3), x, reverse=reverse)
    torch.testing.assert_close(sums, want)
    torch.testing.assert_close(last, x.sum(0))


def test_it_trains():
    weight = torch.ones((), requires_grad=True)
    last, _ = scan(lambda s, x: (s + weight * x, s), torch.zeros(()), torch.ones(5))
    last.backward()
    assert weight.grad == 5


@pytest.mark.parametrize(
    ("xs", "text"),
    [
        ((), "xs holds no tensors"),
        (torch.ones(()), "xs holds no tensors"),
        (torch.ones(0, 2), r"\[0\] steps"),
        ((torch.ones(2, 2), torch.ones(3, 2)), r"\[2, 3\] steps"),
    ],
)
def test_what_it_cannot_run_over_is_refused(xs, text):
    with pytest.raises(ValueError, match=text):
        scan(lambda s, x: (s, s), torch.zeros(()), xs)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda s, x: ((s, s), x), "another structure"),
        (lambda s, x: (s + x, x), r"turns a state of torch.float32 \(1, 3\) into one of torch.float32 \(2, 3\)"),
        (lambda s, x: (s.double(), x), "into one of torch.float64"),
    ],
)
def test_a_step_that_changes_its_state_is_refused(step, text):
    with pytest.raises(ValueError, match=text):
        scan(step, torch.zeros(1, 3), torch.ones(4, 2, 3))


def test_a_state_may_come_back_with_its_keys_in_another_order():
    last, _ = scan(
        lambda s, x: ({"b": s["b"] - x, "a": s["a"] + x}, x),
        {"a": torch.zeros(()), "b": torch.zeros(())},
        torch.ones(3),
    )
    assert (last["a"], last["b"]) == (3, -3)


class Nested(nn.Module):
    """Layers inside time: a scan in each step of a scan."""

    def forward(self, x, h):
        def outer(h, row):
            inner, _ = scan(lambda s, v: (torch.tanh(s + v), s), h, row)
            return inner, inner

        h, y = scan(outer, h, x)
        return y, h


def test_a_scan_inside_a_scan(tmp_path):
    axes = {"x": {0: "rows", 1: "columns", 2: "batch"}, "h": {0: "batch"}}
    bundle = export(Nested(), (torch.randn(3, 4, 2), torch.zeros(2)), tmp_path / "b", axes=axes, formats=["onnx"])
    x, h = torch.randn(6, 5, 7), torch.randn(7)
    for got, want in zip(
        rnn_runtime.load(bundle).run({"x": x.numpy(), "h": h.numpy()}).values(), eager64_of(Nested(), x, h), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)


def eager64_of(model, *inputs):
    with torch.no_grad():
        return [tensor.numpy() for tensor in model(*(tensor.double() for tensor in inputs))]


def test_a_whole_layer_in_a_step_is_refused(tmp_path):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(5, 4)

        def forward(self, x):
            def step(h, x_t):
                y, h = self.gru(x_t.unsqueeze(0), h)
                return h, y[0]

            return scan(step, x.new_zeros(1, x.shape[1], 4), x)[1]

    with pytest.raises(ExportError, match=r"a step of rnn_export.scan cannot be captured: it is made of cells"):
        export(Layer(), torch.randn(6, 3, 5), tmp_path / "b", axes={"x": {0: "sequence", 1: "batch"}}, formats=["onnx"])


@pytest.mark.parametrize("reverse", [False, True])
def test_an_export_has_one_scan_and_carries_its_state(tmp_path, eager64, reverse):
    model = Cumulative(reverse)
    axes = {"x": {0: "batch", 1: "sequence"}, "total": {0: "batch"}}
    example = (torch.randn(3, 6, 5), torch.zeros(3, 4))
    bundle = export(
        model, example, tmp_path / "bundle", axes=axes, formats=["onnx"], output_names=["sum", "double", "last"]
    )
    assert [(state.input, state.output) for state in bundle.signature.states] == [("total", "last")]
    kinds = [node.op_type for node in onnx.load(bundle.path / "model.onnx").graph.node]
    assert kinds.count("Scan") == 1
    runtime = rnn_runtime.load(bundle)
    for batch, sequence in SHAPES:
        x, total = torch.randn(batch, sequence, 5), torch.randn(batch, 4)
        result = runtime.run({"x": x.numpy(), "total": total.numpy()})
        for got, want in zip(result.values(), eager64(model, x, total), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)


CUSTOM = ["layer-norm-lstm", "peephole-lstm", "min-gru", "attention-decoder"]


@pytest.mark.parametrize("name", CUSTOM)
def test_built_in_custom_cells_export_and_equal_eager(tmp_path, eager64, name):
    built_in = rnn_models.get(name)
    bundle = export(path=tmp_path / "bundle", **built_in.export_arguments())
    assert "Scan" in [layer.operator for layer in bundle.layers]
    model, example = built_in.model(), built_in.example_inputs()
    runtime = rnn_runtime.load(bundle)
    for k, (batch, sequence) in enumerate(SHAPES):
        sizes = {"batch": batch, "sequence": sequence, "source": sequence, "target": 3 + k}
        inputs = {}
        for key, tensor in example.items():
            axes = built_in.axes[key]
            inputs[key] = torch.randn([sizes.get(axes.get(dim), size) for dim, size in enumerate(tensor.shape)])
        got = runtime.run({key: tensor.numpy() for key, tensor in inputs.items()})
        for a, want in zip(got.values(), eager64(model, *inputs.values()), strict=True):
            assert a.shape == want.shape
            np.testing.assert_allclose(a, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_torchscript_keeps_the_loop_and_pt2_says_that_it_cannot(tmp_path, eager64, reverse):
    model, example = Cumulative(reverse), (torch.randn(3, 6, 5), torch.zeros(3, 4))
    axes = {"x": {0: "batch", 1: "sequence"}, "total": {0: "batch"}}
    with pytest.raises(ExportError, match=r"\.pt2 has no operator"):
        export(model, example, tmp_path / "bundle", axes=axes, formats=["pt2"])
    assert list(tmp_path.iterdir()) == []
    bundle = export(model, example, tmp_path / "bundle", axes=axes)
    scripted = torch.jit.load(bundle.path / "model.pt")
    for batch, sequence in SHAPES:
        x, total = torch.randn(batch, sequence, 5), torch.randn(batch, 4)
        for got, want in zip(scripted(x, total), eager64(model, x, total), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-6, atol=1e-5)
