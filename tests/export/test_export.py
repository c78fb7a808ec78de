"""What export promises beside right numbers: the model stays, failures leave nothing, arguments are checked."""

from __future__ import annotations

import copy
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from onnxscript import opset18 as op
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import ExportError, InputError, MismatchError, _export, export, verify
from rnn_export._lower import fused, scan

X = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
AXES = {"x": {0: "batch", 1: "sequence"}}


class Net(nn.Module):
    """A GRU between two linear layers, with dropout."""

    def __init__(self):
        super().__init__()
        self.inward, self.gru, self.outward = (
            nn.Linear(5, 8),
            nn.GRU(8, 4, 2, batch_first=True, dropout=0.5),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        y, _ = self.gru(torch.relu(self.inward(x)))
        return self.outward(torch.dropout(y, 0.5, self.training))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_model_the_seed_and_the_warnings_are_left_as_they_were(tmp_path, recwarn):
    model = Net().train()
    model.gru.eval()
    model.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    random_state = torch.get_rng_state()
    dtype = torch.get_default_dtype()
    export(model, X, tmp_path / "bundle", axes=AXES)
    assert [module.training for module in model.modules()] == modes
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert len(model._forward_hooks) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_default_dtype() == dtype
    assert not recwarn.list


def test_nothing_is_printed(tmp_path, capfd):
    export(Net(), X, tmp_path / "bundle", axes=AXES)
    assert capfd.readouterr() == ("", "")


def test_dropout_is_off_in_the_export(tmp_path):
    model = Net().train()
    bundle = export(model, X, tmp_path / "bundle", axes=AXES)
    with torch.no_grad():
        want = model.eval()(X)
    np.testing.assert_allclose(rnn_runtime.load(bundle).run(X.numpy())["output"], want, atol=1e-6)


def test_an_example_of_batch_one_or_one_step_still_gives_dynamic_axes(tmp_path):
    model = Net().eval()
    bundle = export(model, X[:1, :1], tmp_path / "bundle", axes=AXES)
    with torch.no_grad():
        want = model(X)
    np.testing.assert_allclose(rnn_runtime.load(bundle).run(X.numpy())["output"], want, atol=1e-6)


def test_a_second_export_of_the_process_is_as_right_as_the_first(tmp_path):
    for cell in (nn.LSTM, nn.GRU, nn.RNN):
        for k in range(2):
            bundle = export(cell(5, 4), X, tmp_path / f"{cell.__name__}{k}")
            assert rnn_runtime.load(bundle).run(np.zeros((41, 9, 5), np.float32))["output"].shape == (41, 9, 4)


def test_large_weights_are_reordered_at_export(tmp_path):
    bundle = export(nn.LSTM(256, 512), torch.randn(3, 2, 256), tmp_path / "bundle", formats=["onnx"])
    operators = rnn_runtime._bundle.Bundle.open(bundle.path).manifest["operators"]
    assert operators == {"LSTM": 1, "Squeeze": 1}


# Inputs and outputs of other shapes than one tensor.


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass
class Answer:
    scores: torch.Tensor
    state: torch.Tensor


class Shaped(nn.Module):
    """An LSTM whose inputs and results take the form that `kind` names."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.lstm = kind, nn.LSTM(5, 4, batch_first=True)

    def forward(self, x, extra=None, *, scale=None):
        if self.kind == "dict in":
            x = x["features"]
        if self.kind == "tuple in":
            y, (h, c) = self.lstm(x, extra)
            return y, h, c
        y, (h, c) = self.lstm(x if scale is None else x * scale)
        match self.kind:
            case "dict":
                return {"scores": y, "state": {"h": h, "c": c}}
            case "named tuple":
                return Pair(y, h)
            case "dataclass":
                return Answer(y, h)
            case "none":
                return y, None, [h, c]
        return y


@pytest.mark.parametrize(
    ("kind", "inputs", "axes", "input_names", "output_names"),
    [
        ("dict", X, AXES, ["x"], ["scores", "h", "c"]),
        ("named tuple", X, AXES, ["x"], ["first", "second"]),
        ("dataclass", X, AXES, ["x"], ["scores", "state"]),
        ("none", X, AXES, ["x"], ["output_0", "output_2_0", "output_2_1"]),
        ("dict in", ({"features": X},), {"features": AXES["x"]}, ["features"], ["output"]),
        ("keywords", {"x": X, "scale": X[0, 0]}, AXES, ["x", "scale"], ["output"]),
        (
            "tuple in",
            (X, (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))),
            {"x": AXES["x"], "h_0": {1: "batch"}, "c_0": {1: "batch"}},
            ["x", "h_0", "c_0"],
            ["output", "h_n", "c_n"],
        ),
    ],
)
def test_nested_arguments_and_results_become_named_tensors(tmp_path, kind, inputs, axes, input_names, output_names):
    signature = export(Shaped(kind), inputs, tmp_path / "bundle", axes=axes).signature
    assert [spec.name for spec in signature.inputs] == input_names
    assert [spec.name for spec in signature.outputs] == output_names


def test_a_key_of_axes_names_the_input_that_is_left_unless_it_is_a_slip(tmp_path):
    class Frames(Net):
        def forward(self, frames):
            return super().forward(frames)

    assert export(Net(), X, tmp_path / "a", axes={"sound": AXES["x"]}).signature.inputs[0].name == "sound"
    with pytest.raises(InputError, match=r"axes names 'frame' \(did you mean 'frames'\?\)"):
        export(Frames(), X, tmp_path / "b", axes={"frame": AXES["x"]})


def test_keys_of_axes_in_the_order_of_the_inputs_name_those_that_are_left(tmp_path):
    class Started(Net):
        def forward(self, x, h):
            return super().forward(x) + h

    inputs, own = (X, torch.zeros(1, 1, 1)), {0: "one"}
    signature = export(Started(), inputs, tmp_path / "a", axes={"sound": AXES["x"], "h": {}}).signature
    assert [spec.name for spec in signature.inputs] == ["sound", "h"]
    with pytest.raises(InputError, match=r"axes names 'sound', but the inputs are \['x', 'h'\]"):
        export(Started(), inputs, tmp_path / "b", axes={"h": own, "sound": AXES["x"]})


def test_names_can_be_chosen(tmp_path):
    signature = export(
        Net(),
        X,
        tmp_path / "b",
        axes={"frames": {0: "streams", 1: "time"}},
        input_names=["frames"],
        output_names=["scores"],
    ).signature
    assert [str(spec) for spec in (*signature.inputs, *signature.outputs)] == [
        "frames: float32[streams, time, 5]",
        "scores: float32[streams, time, 3]",
    ]


@pytest.mark.parametrize("norm", ["weight_norm", "parametrized", "spectral"])
def test_reparametrised_weights_are_folded(tmp_path, norm):
    model = nn.LSTM(5, 4)
    if norm == "weight_norm":
        with pytest.warns(FutureWarning, match="weight_norm"):
            model = nn.utils.weight_norm(model, "weight_hh_l0")
        model(X)  # leaves a computed tensor in the module, which does not let itself be copied
    elif norm == "parametrized":
        parametrizations.weight_norm(model, "weight_hh_l0")
    else:
        parametrizations.spectral_norm(model.eval(), "weight_hh_l0")
    bundle = export(model, X, tmp_path / "bundle")
    with torch.no_grad():
        want, _ = model.eval()(X)
    np.testing.assert_allclose(rnn_runtime.load(bundle).run(X.numpy())["output"], want, atol=1e-6)
    assert rnn_runtime._bundle.Bundle.open(bundle.path).manifest["operators"] == {"LSTM": 1, "Squeeze": 1}


# State.


class Carried(nn.Module):
    """Takes and returns its state, which may pass through slices and masks on its way."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.a, self.b = nn.GRU(5, 4, batch_first=True), nn.GRU(4, 4, batch_first=True)

    def forward(self, x, h, reset=None):
        if self.way == "masked":
            h = h * (1 - reset).reshape(1, -1, 1)
        y, h_a = self.a(x, h[:1])
        y, h_b = self.b(y, h[1:])
        return y, (torch.cat([h_a, h_b]) if self.way != "unrelated" else torch.cat([h_b, h_b]))


@pytest.mark.parametrize("way", ["plain", "masked"])
def test_state_is_found_through_slices_and_masks(tmp_path, way):
    inputs = (X, torch.zeros(2, 3, 4)) + ((torch.zeros(3),) if way == "masked" else ())
    axes = {**AXES, "h": {1: "batch"}} | ({"reset": {0: "batch"}} if way == "masked" else {})
    model = Carried(way).eval()
    bundle = export(model, inputs, tmp_path / "bundle", axes=axes)
    assert [(state.input, state.output) for state in bundle.signature.states] == [("h", "h_n")]
    runtime = rnn_runtime.load(bundle)
    extra = {"reset": np.zeros(3, np.float32)} if way == "masked" else {}
    first = runtime.run({"x": X[:, :2].numpy(), **extra})
    second = runtime.run({"x": X[:, 2:].numpy(), **extra}, state=first.state)
    with torch.no_grad():
        want = model(*inputs)[0]
    np.testing.assert_allclose(np.concatenate([first["output"], second["output"]], 1), want, atol=1e-6)


def test_an_output_that_is_not_the_next_state_is_not_taken_for_it(tmp_path):
    bundle = export(Carried("unrelated"), (X, torch.zeros(2, 3, 4)), tmp_path / "b", axes={**AXES, "h": {1: "batch"}})
    assert bundle.signature.states == ()


def test_state_none_leaves_a_bare_layer_without_one(tmp_path):
    signature = export(nn.LSTM(5, 4), X, tmp_path / "bundle", state="none").signature
    assert [spec.name for spec in signature.inputs] == ["input"]
    assert signature.states == ()


def test_explicit_state_is_an_error_where_there_is_none(tmp_path):
    with pytest.raises(ExportError, match="state='explicit', but no input holds"):
        export(Net(), X, tmp_path / "bundle", axes=AXES, state="explicit")
    assert names(tmp_path) == []


class Masked(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.gru = how, nn.GRU(5, 4, batch_first=True)

    def forward(self, x, keep, h):
        match self.how:
            case "product":
                h = h * keep
            case "where":
                h = torch.where(keep > 0, h, torch.zeros_like(h))
            case "filled":
                h = h.masked_fill(keep == 0, 0.0)
            case "dropout":
                h = torch.dropout(h, 0.5, self.training)
        y, h = self.gru(x, h)
        return y, h


@pytest.mark.parametrize(("how", "pairs"), [("where", 1), ("filled", 1), ("dropout", 1), ("product", 0)])
def test_a_mask_is_not_taken_for_the_state(tmp_path, how, pairs):
    ones = torch.ones(1, 3, 4)
    axes = {**AXES, "keep": {1: "batch"}, "h": {1: "batch"}}
    signature = export(Masked(how).eval(), (X, ones, torch.zeros(1, 3, 4)), tmp_path / "b", axes=axes).signature
    assert [(state.input, state.output) for state in signature.states] == [("h", "h_n")] * pairs


def test_half_of_a_state_is_not_the_state(tmp_path):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(5, 4, batch_first=True)

        def forward(self, x, h):
            y, h = self.gru(x, h)
            return y, h * 0.5

    axes = {**AXES, "h": {1: "batch"}}
    assert export(Halves(), (X, torch.zeros(1, 3, 4)), tmp_path / "b", axes=axes).signature.states == ()


def test_one_step_of_a_cell_is_exported_where_its_state_is_named(tmp_path):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(5, 4)

        def forward(self, obs, h):
            h = self.cell(obs, h)
            return h.sum(-1), h

    inputs, axes = (X[:, 0], torch.zeros(3, 4)), {"obs": {0: "batch"}, "h": {0: "batch"}}
    plain = export(Cell(), inputs, tmp_path / "plain", axes=axes)
    assert plain.signature.states == ()
    assert "name it and its next value, as in state={'h': 'h_n'}" in plain.report.warnings[0]
    names = ["value", "h_n"]
    bundle = export(Cell(), inputs, tmp_path / "b", axes=axes, output_names=names, state={"h": "h_n"})
    assert not bundle.report.warnings
    assert [(state.input, state.output) for state in bundle.signature.states] == [("h", "h_n")]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"h": "output_0"}, "cannot be the next value of the state h"),
        ({"h": "nothing"}, r"state names \['nothing'\], but the outputs are \['output_0', 'output_1'\]"),
    ],
)
def test_a_state_that_is_named_has_to_fit(tmp_path, state, text):
    inputs, axes = (X, torch.zeros(2, 3, 4)), {**AXES, "h": {1: "batch"}}
    with pytest.raises(InputError, match=text):
        export(Carried("unrelated"), inputs, tmp_path / "b", axes=axes, state=state)


def test_state_can_be_named(tmp_path):
    bundle = export(
        Carried("unrelated"),
        (X, torch.zeros(2, 3, 4)),
        tmp_path / "bundle",
        axes={**AXES, "h": {1: "batch"}},
        output_names=["y", "last"],
        state={"h": "last"},
    )
    assert [(state.input, state.output) for state in bundle.signature.states] == [("h", "last")]


# Packed sequences.


class Packed(nn.Module):
    def __init__(self, **pad):
        super().__init__()
        self.pad, self.ordered = {k: v for k, v in pad.items() if k != "ordered"}, pad.get("ordered", False)
        self.lstm = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True)

    def forward(self, x, n):
        packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=self.ordered)
        y, (h, c) = self.lstm(packed)
        total = self.pad.get("total")
        total = x.shape[1] if total is True else total
        y, n = pad_packed_sequence(y, True, self.pad.get("padding_value", 0.0), total)
        return y, h, c, n


PADS = [
    {},
    {"total": True},
    {"total": 12},
    {"padding_value": -1.5},
    {"ordered": True},
    {"total": True, "padding_value": 2.0},
]


@pytest.mark.parametrize("pad", PADS, ids=str)
def test_packed_sequences_equal_eager_with_the_longest_below_the_padding(tmp_path, eager64, pad):
    model = Packed(**pad).eval()
    axes = {**AXES, "n": {0: "batch"}}
    formats = ["onnx", "torchscript", "pt2"] if pad.get("total") != 12 else ["onnx", "pt2"]
    bundle = export(model, (X, torch.tensor([6, 4, 2])), tmp_path / "bundle", axes=axes, formats=formats)
    assert bundle.signature.lengths == rnn_runtime.LengthsSpec("n", "sequence")
    x = torch.randn(4, 9, 5)
    n = torch.tensor([7, 5, 5, 1] if pad.get("ordered") else [5, 1, 7, 5])
    result = rnn_runtime.load(bundle).run(x.numpy(), lengths=n.numpy())
    for got, want in zip(result.values(), eager64(model, x, n), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-6)


# Refusals: what is wrong is named, and nothing is left behind.


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.lstm = nn.GRUCell(5, 8), nn.LSTM(8, 6, batch_first=True)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 8)
        steps = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h) if t % 2 else -h
            steps.append(h)
        return self.lstm(torch.stack(steps, 1))[0]


class Iterates(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = type("Iterates", (Loop,), {"forward": Iterates.run})()

    def forward(self, x):
        return self.inner(x)

    def run(self, x):
        h = x.new_zeros(x.shape[0], 8)
        for k, x_t in enumerate(x.transpose(0, 1)):
            h = self.cell(x_t, h) if k % 2 else -h
        return self.lstm(h.unsqueeze(1))[0]


class Raises(Net):
    def forward(self, x):
        raise ValueError("not today")


class Counts(Net):
    def forward(self, x):
        return super().forward(x), 5


class Branches(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Loop(), r"'sequence' of 'x' became 6, by `for t in range\(x.shape\[1\]\):` in Loop .*rnn_export.scan"),
        (
            Iterates(),
            r"'sequence' of 'x' became 6, by `for k, x_t in enumerate\(x.transpose\(0, 1\)\):` in Iterates 'inner'",
        ),
        (Raises(), "itself fails on its example inputs, before any export: ValueError: not today"),
        (Counts(), r"the model's result\[1\] is int"),
        (Branches(), r"decides by the value of a tensor \(`return super\(\).forward\(x\) if x.sum\(\) > 0"),
    ],
    ids=["loop", "iterates", "raises", "counts", "branches"],
)
def test_what_cannot_be_exported_is_named_and_leaves_nothing(tmp_path, capfd, model, text):
    with pytest.raises(ExportError, match=text) as caught:
        export(model, X, tmp_path / "bundle", axes=AXES)
    assert caught.value.exit_code == 3
    assert names(tmp_path) == []
    assert capfd.readouterr() == ("", "")


class Causal(nn.Module):
    """A convolution over the steps before."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(5, 3, 3, padding=2)

    def forward(self, x):
        return self.conv(x.transpose(1, 2))[..., :-2].transpose(1, 2)


class Sums(nn.Module):
    """minGRU in its parallel form, by logarithms."""

    def __init__(self):
        super().__init__()
        self.z, self.h = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x):
        z = self.z(x)
        kept = nn.functional.logsigmoid(-z).cumsum(1)
        new = nn.functional.logsigmoid(z) + nn.functional.softplus(self.h(x)).log()
        return (kept + (new - kept).logcumsumexp(1)).exp()


@pytest.mark.parametrize("model", [nn.Linear(5, 3), Causal(), Sums()], ids=["linear", "causal", "sums"])
def test_a_model_needs_no_recurrent_layer(tmp_path, model):
    torch.manual_seed(0)
    axes = {"input" if isinstance(model, nn.Linear) else "x": AXES["x"]}
    bundle = export(model.eval(), X, tmp_path / "bundle", axes=axes)
    assert (bundle.layers, bundle.signature.states) == ((), ())
    assert {row.shape["sequence"] for row in bundle.report.rows} >= {1, 2, 13, 64, 500}  # along it, sizes are large
    x = torch.randn(4, 40, 5)
    with torch.no_grad():
        np.testing.assert_allclose(rnn_runtime.load(bundle).run(x.numpy())[0], model(x), atol=1e-5)


def test_a_model_that_fails_is_named_where_axes_would_follow(tmp_path):
    class RaisesToo(Net):
        def forward(self, x, h):
            raise TypeError("not today")

    with pytest.raises(ExportError, match="itself fails on its example inputs, before any export: TypeError"):
        export(RaisesToo(), (X, torch.zeros(1, X.shape[0], 3)), tmp_path / "bundle", axes=AXES)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"axes": None}, "no axis is dynamic: name them, as in axes={'x'"),
        ({"axes": {"y": {0: "batch"}, "x": {}}}, r"axes names 'y', but the inputs are \['x'\]"),
        ({"axes": {"x": {3: "batch"}}}, r"'x' has no dimension 3: its example has shape \(3, 6, 5\)"),
        ({"axes": {"x": {0: "two words"}}}, "dimension 0 of 'x' is named 'two words'"),
        ({"axes": {"x": ["batch"]}}, "the axes of 'x' are"),
        ({"axes": "batch"}, "axes is 'batch'"),
        ({"axes": AXES, "lowering": "magic"}, "lowering is 'magic'"),
        ({"axes": AXES, "output_names": ["x"]}, r"\['x'\] are inputs"),
        ({"axes": AXES, "input_names": ["a", "b"]}, "input_names is"),
        ({"axes": AXES, "output_names": ["a", "b"]}, r"output_names is \['a', 'b'\]; the model has 1 outputs"),
        ({"axes": AXES, "lengths": "n"}, r"lengths names 'n', but the inputs are \['x'\]"),
        ({"axes": AXES, "lengths": "x"}, "never reaches pack_padded_sequence"),
        ({"axes": AXES, "state": "automatic"}, "state is 'automatic'"),
        ({"axes": AXES, "state": {"h": "h_n"}}, r"state names \['h'\]"),
        ({"axes": AXES, "formats": ["onnx", "tflite"]}, "formats is"),
        ({"axes": AXES, "formats": []}, "formats is"),
    ],
)
def test_arguments_that_do_not_fit_are_named_and_leave_nothing(tmp_path, arguments, text):
    with pytest.raises(InputError, match=text) as caught:
        export(Net(), X, tmp_path / "bundle", **arguments)
    assert caught.value.exit_code == 2
    assert names(tmp_path) == []


def test_two_inputs_that_give_an_axis_two_sizes_are_named(tmp_path):
    with pytest.raises(InputError, match="the axis 'batch' two sizes: 3 in 'x', 2 in 'h'"):
        export(Carried("plain"), (X, torch.zeros(2, 2, 4)), tmp_path / "b", axes={**AXES, "h": {1: "batch"}})


def test_wrong_arguments_of_forward_are_named(tmp_path):
    with pytest.raises(ExportError, match=r"Net.forward\(x\) does not take the example inputs"):
        export(Net(), (X, X), tmp_path / "bundle", axes=AXES)


def test_an_old_opset_is_refused_and_a_newer_one_is_used(tmp_path):
    for opset in (17, 99):
        with pytest.raises(InputError, match=f"opset {opset} was asked for"):
            export(Net(), X, tmp_path / "bundle", axes=AXES, opset=opset)
    assert names(tmp_path) == []
    import onnx

    for opset in (18, 20):
        bundle = export(Net(), X, tmp_path / f"bundle{opset}", axes=AXES, opset=opset)
        imports = {entry.domain: entry.version for entry in onnx.load(bundle.path / "model.onnx").opset_import}
        assert imports[""] == opset


def test_an_export_that_computes_something_else_is_a_mismatch_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "_GATE_ORDER", {"RNN": (0,), "LSTM": (0, 1, 2, 3), "GRU": (0, 1, 2)})
    with pytest.raises(MismatchError, match="leaves eager PyTorch on onnxruntime-cpu") as caught:
        export(Net(), X, tmp_path / "bundle", axes=AXES)
    assert caught.value.exit_code == 1
    report = caught.value.report
    assert {row.backend for row in report.failures} == {"onnxruntime-cpu"}
    assert len(report.failures) > 1  # all are collected, not the first alone
    assert names(tmp_path) == []


def test_a_size_baked_into_the_graph_is_found_before_anything_is_run(tmp_path, monkeypatch):
    right = fused.gru

    def baked(*arguments):
        y, h = right(*arguments)
        return op.Reshape(y, [6, 3, 4]), h

    monkeypatch.setattr(fused, "gru", baked)
    with pytest.raises(ExportError, match=r"the output .*\[batch, sequence, 4\] became .*\[3, 6, 4\]"):
        export(nn.GRU(5, 4, batch_first=True), X, tmp_path / "bundle", state="none")
    assert names(tmp_path) == []


def test_a_recurrent_operator_that_is_missing_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "gru", scan.gru)
    with pytest.raises(ExportError, match="it has 0 GRU nodes; expected 1; it has 1 Scan nodes; expected 0"):
        export(nn.GRU(5, 4), X, tmp_path / "bundle")


def test_a_graph_that_is_not_valid_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "gru", lambda x, h, n, weights, *_: (op.MatMul(x, weights[0]), op.Identity(weights[0])))
    with pytest.raises(ExportError, match="is not valid ONNX"):
        export(nn.GRU(5, 4), X, tmp_path / "bundle")


class Sized(Net):
    """What it computes depends on the size that is traced, without fixing the axis."""

    def forward(self, x):
        return super().forward(x) + (1.0 if x.shape[1] > 8 else 0.0)


def test_a_graph_that_depends_on_the_traced_size_has_a_limit(tmp_path):
    bundle = export(Sized(), X, tmp_path / "bundle", axes=AXES)
    (limit,) = bundle.signature.limits
    assert (limit.axis, limit.min, limit.max) == ("sequence", 1, 8)
    assert "x.shape[1] > 8" in limit.reason
    with pytest.raises(InputError, match="exported for 1 to 8"):
        rnn_runtime.load(bundle).run(np.zeros((2, 9, 5), np.float32))


class Compared(Net):
    """What it computes is another at sizes that are no range."""

    def __init__(self, when, more=1.0):
        super().__init__()
        self.when, self.more = when, more

    def forward(self, x):
        return super().forward(x) + (self.more if self.when(*x.shape[:2]) else 0.0)


@pytest.mark.parametrize(
    ("when", "axis", "size"),
    [
        (lambda batch, sequence: sequence == 20, "sequence", 20),
        (lambda batch, sequence: sequence == 700, "sequence", 700),
        (lambda batch, sequence: batch == 30, "batch", 30),
    ],
)
def test_a_size_at_which_the_model_does_something_else_is_beyond_the_limit(tmp_path, when, axis, size):
    bundle = export(Compared(when), X, tmp_path / "bundle", axes=AXES)
    (limit,) = bundle.signature.limits
    assert (limit.axis, limit.min, limit.max) == (axis, 1, size - 1)


@pytest.mark.parametrize(
    ("when", "axis", "size"),
    [
        (lambda batch, sequence: sequence == 20, "sequence", 20),
        (lambda batch, sequence: sequence == 700, "sequence", 700),
        (lambda batch, sequence: sequence % 5 == 0, "sequence", 5),
        (lambda batch, sequence: batch == 30, "batch", 30),
    ],
)
def test_a_size_that_the_model_compares_is_among_those_that_an_export_is_held_against(tmp_path, when, axis, size):
    bundle = export(Compared(when, more=0.0), X, tmp_path / "bundle", axes=AXES)  # the same on both ways
    assert bundle.signature.limits == ()
    assert any(row.shape[axis] == size for row in bundle.report.rows)


def test_a_comparison_that_comes_and_goes_with_the_size_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"asks whether Eq\(Mod\(sequence, 5\), 0\)"):
        export(Compared(lambda batch, sequence: sequence % 5 == 0), X, tmp_path / "bundle", axes=AXES)
    assert names(tmp_path) == []


class Listed(Net):
    """Takes plain numbers out of a tensor that may have been written into."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, x):
        numbers = torch.arange(3)
        self.write(numbers)
        return super().forward(x) * numbers.tolist()[1]


def test_plain_numbers_are_taken_out_of_a_tensor_that_nothing_wrote_into(tmp_path):
    assert export(Listed(lambda numbers: None), X, tmp_path / "bundle", axes=AXES).report.passed
    for k, write in enumerate([lambda t: t.__setitem__(1, 9), lambda t: t.add_(2), lambda t: t[:2].mul_(4)]):
        with pytest.raises(ExportError, match="takes the values of a tensor apart in Python"):
            export(Listed(write), X, tmp_path / str(k), axes=AXES)


class Shortened(Net):
    def forward(self, x):
        return super().forward(x[:, 3:])


def test_a_sequence_of_which_nothing_is_left_is_an_error_and_no_end_of_the_process(tmp_path):
    bundle = export(Shortened(), torch.randn(2, 8, 5), tmp_path / "bundle", axes=AXES, formats=["onnx"])
    model = rnn_runtime.load(bundle)
    for sequence in (3, 2, 1):  # eager PyTorch takes none of these
        with pytest.raises(InputError, match="exported for 4 or more"):
            model.run(np.zeros((2, sequence, 5), np.float32))
    assert model.run(np.zeros((2, 4, 5), np.float32))["output"].shape[1] == 1


class Random(Net):
    def forward(self, x):
        return super().forward(x) + torch.rand_like(x[..., :3])


def test_a_model_that_draws_random_numbers_is_told_apart_from_one_that_keeps_state(tmp_path):
    with pytest.raises(ExportError, match="it draws random numbers"):
        export(Random(), X, tmp_path / "bundle", axes=AXES)


class Remembers(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.gru = how, nn.GRU(5, 4, batch_first=True)
        self.register_buffer("h", torch.zeros(1, 3, 4) if how in ("buffer", "attribute") else None)
        self.mean, self.count, self.pair = None, 0, None
        self.lstm = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x):
        match self.how:
            case "buffer":
                y, h = self.gru(x, self.h)
                self.h.copy_(h)
                return y
            case "attribute" | "none first":
                y, self.h = self.gru(x, self.h)
                return y
            case "pair":
                if self.pair is None or self.pair[0].size(1) != x.size(0):
                    self.pair = (x.new_zeros(1, x.size(0), 4), x.new_zeros(1, x.size(0), 4))
                y, state = self.lstm(x, self.pair)
                self.pair = tuple(part.detach() for part in state)
                return y
            case "not zeros":
                if self.h is None:
                    self.h = x.new_ones(1, x.size(0), 4)
                y, self.h = self.gru(x, self.h)
                return y
            case "first call":
                if self.mean is None:
                    self.mean = x.mean((0, 1))
                return self.gru(x - self.mean)[0]
            case "counter":
                self.count += 1
                return self.gru(x)[0] * self.count
            case "reset":
                self.h = x.new_zeros(1, x.shape[0], 4)
                y, self.h = self.gru(x, self.h)
                return y


@pytest.mark.parametrize("how", ["buffer", "attribute", "none first", "pair"])
@pytest.mark.parametrize("state", ["auto", "lift"])
def test_state_that_a_model_keeps_becomes_a_named_pair(tmp_path, how, state):
    model = Remembers(how).eval()
    bundle = export(model, X, tmp_path / "bundle", axes=AXES, state=state)
    names = ["pair_0", "pair_1"] if how == "pair" else ["h"]
    assert [(pair.input, pair.output) for pair in bundle.signature.states] == [(name, f"{name}_n") for name in names]
    assert bundle.signature.input(names[0]).axes == (1, "batch", 4)
    assert not model.h.any() if how in ("buffer", "attribute") else model.h is None
    assert verify(model, bundle).passed
    runtime, first, second = rnn_runtime.load(bundle), X[:, :2], X[:, 2:]
    with torch.no_grad():
        wanted = [model(first), model(second)]
    result = runtime.run(first.numpy())
    np.testing.assert_allclose(result[0], wanted[0], atol=1e-6)
    np.testing.assert_allclose(runtime.run(second.numpy(), state=result.state)[0], wanted[1], atol=1e-6)


@pytest.mark.parametrize(
    ("how", "kept"),
    [("first call", "mean"), ("counter", "count"), ("not zeros", "h"), ("buffer", "h")],
)
@pytest.mark.parametrize("formats", [["onnx"], ["torchscript"]], ids=str)
def test_state_that_a_model_keeps_to_itself_is_never_dropped_in_silence(tmp_path, how, kept, formats):
    model = Remembers(how)
    state = "none" if how == "buffer" else "auto"
    with pytest.raises(ExportError, match=f"changes the next one: it keeps .*{kept}.* between calls"):
        export(model, X, tmp_path / "bundle", axes=AXES, formats=formats, state=state)
    assert names(tmp_path) == []
    assert (model.h is None or not model.h.any()) and model.mean is None and model.count == 0


def test_an_attribute_that_each_call_sets_anew_is_no_state(tmp_path):
    model = Remembers("reset").eval()
    bundle = export(model, X, tmp_path / "bundle", axes=AXES)
    with torch.no_grad():
        np.testing.assert_allclose(rnn_runtime.load(bundle).run(X.numpy())["output"], model(X), atol=1e-6)


class Odd(nn.Module):
    """Right models that once were refused or wrong."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.gru, self.linear = kind, nn.GRU(5, 4, batch_first=True), nn.Linear(5, 4)
        self.plain = torch.ones(4, 4)

    def forward(self, x):
        match self.kind:
            case "written zeros":
                h = torch.zeros(1, x.shape[0], 4)
                h[0] = self.linear(x[:, 0])
                return self.gru(x, h)[0]
            case "called twice":
                return self.gru(x)[0] + self.gru(x)[0].flip(1)
            case "constants":
                return self.gru(x)[0] @ self.plain + torch.from_numpy(np.ones(4, np.float32))
            case "casts":
                return self.gru(x.float())[0].to(torch.float32)
            case "returned twice":
                y, h = self.gru(x)
                return y, h, h, x


@pytest.mark.parametrize("kind", ["written zeros", "called twice", "constants", "casts", "returned twice"])
def test_odd_models_come_out_right(tmp_path, eager64, kind):
    model = Odd(kind).eval()
    bundle = export(model, X, tmp_path / "bundle", axes=AXES)
    x = torch.randn(4, 9, 5)
    with torch.no_grad():
        want = model(x)
    want = want if isinstance(want, tuple) else (want,)
    for got, expected in zip(rnn_runtime.load(bundle).run(x.numpy()).values(), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_compiled_model_is_exported_as_the_model_it_is(tmp_path):
    bundle = export(torch.compile(Net()), X, tmp_path / "bundle", axes=AXES)
    assert [layer.name for layer in bundle.layers] == ["gru"]


def test_lengths_that_all_end_before_the_padding_are_refused_where_eager_refuses_them(tmp_path):
    class Residual(Packed):
        def forward(self, x, n):
            y, *_ = super().forward(x, n)
            return y[..., :5] + x

    bundle = export(Residual(), (X, torch.tensor([6, 4, 2])), tmp_path / "b", axes={**AXES, "n": {0: "batch"}})
    assert bundle.signature.lengths == rnn_runtime.LengthsSpec("n", "sequence", full=True)
    runtime = rnn_runtime.load(bundle)
    assert runtime.run(X.numpy(), lengths=[3, 6, 1])["output"].shape == (3, 6, 5)
    with pytest.raises(rnn_runtime.InputError, match="needs one row that fills 'sequence'"):
        runtime.run(X.numpy(), lengths=[3, 5, 1])


@pytest.mark.parametrize("named", [None, "k"])
def test_lengths_from_two_inputs_are_both_followed(tmp_path, eager64, named):
    class Two(Packed):
        def forward(self, x, n, k):
            return super().forward(x, n)[0], super().forward(x, k)[0]

    model = Two().eval()
    inputs = (X, torch.tensor([6, 4, 2]), torch.tensor([5, 6, 1]))
    axes = {**AXES, "n": {0: "batch"}, "k": {0: "batch"}}
    bundle = export(model, inputs, tmp_path / "b", axes=axes, lengths=named)
    assert bundle.signature.lengths == rnn_runtime.LengthsSpec(named or "n", "sequence")
    assert [spec.axes[1] for spec in bundle.signature.outputs] == ["max(n)", "max(k)"]
    assert verify(model, bundle).passed
    x, n, k = torch.randn(2, 9, 5), torch.tensor([3, 7]), torch.tensor([9, 1])
    result = rnn_runtime.load(bundle).run({"x": x.numpy(), "n": n.numpy(), "k": k.numpy()})
    for got, want in zip(result.values(), eager64(model, x, n, k), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_lengths_without_a_batch_axis_are_named(tmp_path):
    with pytest.raises(InputError, match=r"'n' holds the lengths and has a fixed number of rows"):
        export(Packed(), (X, torch.tensor([6, 4, 2])), tmp_path / "b", axes={**AXES, "n": {}})


def test_one_axis_under_two_names_is_refused(tmp_path):
    with pytest.raises(InputError, match="the axes 'batch' and 'bacth' always have one size"):
        export(Carried("plain"), (X, torch.zeros(2, 3, 4)), tmp_path / "b", axes={**AXES, "h": {1: "bacth"}})


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf"), True, "1e-5"])
def test_a_tolerance_that_is_none_is_refused(tmp_path, tolerance):
    with pytest.raises(InputError, match="tolerance is"):
        export(Net(), X, tmp_path / "bundle", axes=AXES, tolerance=tolerance)


def test_a_tolerance_that_is_given_is_kept(tmp_path):
    with pytest.raises(MismatchError):
        export(Net(), X, tmp_path / "bundle", axes=AXES, tolerance=1e-9)
    bundle = export(Net(), X, tmp_path / "bundle", axes=AXES, tolerance=1e-6)
    assert rnn_runtime._bundle.Bundle.open(bundle.path).tolerance == {"output": 1e-6}


def test_the_bundles_own_check_holds_each_output_to_its_own_tolerance(tmp_path):
    class Scales(Net):
        def forward(self, x):
            y = super().forward(x)
            return y, y.exp() * 1e6

    bundle = export(Scales(), X, tmp_path / "bundle", axes=AXES)
    tolerance = rnn_runtime._bundle.Bundle.open(bundle.path).tolerance
    assert tolerance["output_0"] == 1e-5 and tolerance["output_1"] <= 1e-4


def test_sizes_that_eager_refuses_are_told(tmp_path):
    class Pairs(Net):
        def forward(self, x):
            if x.shape[1] % 2:
                raise ValueError("steps come in pairs")
            return super().forward(x)

    bundle = export(Pairs(), X, tmp_path / "bundle", axes=AXES)
    refused = {sizes["sequence"] for sizes in bundle.refused}
    assert 13 in refused and all(size % 2 for size in refused)  # 1 is below the limit
    manifest = rnn_runtime._bundle.Bundle.open(bundle.path).manifest
    assert manifest["verified"]["refused_by_eager"] == bundle.refused


def test_where_eager_pytorch_itself_ends_is_the_limit(tmp_path):
    class Table(Net):
        def forward(self, x):
            if x.shape[1] > 20:
                raise ValueError("a table of 20 steps")
            return super().forward(x)

    (limit,) = export(Table(), X, tmp_path / "bundle", axes=AXES).signature.limits
    assert (limit.axis, limit.min, limit.max) == ("sequence", 1, 20)


# Writing.


def test_a_bundle_is_replaced_only_when_asked(tmp_path):
    first = export(nn.GRU(5, 4), X, tmp_path / "bundle")
    with pytest.raises(InputError, match="already holds a bundle: pass overwrite=True"):
        export(nn.GRU(5, 7), X, tmp_path / "bundle")
    assert rnn_runtime.load(first).signature == first.signature
    second = export(nn.GRU(5, 7), X, tmp_path / "bundle", overwrite=True)
    assert rnn_runtime.load(tmp_path / "bundle").signature == second.signature
    assert names(tmp_path) == ["bundle"]


def test_other_folders_and_files_are_never_replaced(tmp_path):
    for name in ("mine", "app"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    (tmp_path / "app" / "manifest.json").write_text('{"name": "my web app"}')
    (tmp_path / "file").write_text("x")
    for name in ("mine", "app", "file"):
        with pytest.raises(InputError, match="is no bundle: rnn-export never writes over other things"):
            export(nn.GRU(5, 4), X, tmp_path / name, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_bundle_of_another_version_is_replaced(tmp_path):
    bundle = export(nn.GRU(5, 4), X, tmp_path / "bundle")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    (bundle.path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    export(nn.GRU(5, 4), X, tmp_path / "bundle", overwrite=True)
    assert rnn_runtime.load(bundle).check().passed


def test_a_bundle_with_other_files_in_it_is_not_replaced(tmp_path):
    bundle = export(nn.GRU(5, 4), X, tmp_path / "bundle")
    (bundle.path / "notes.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds a bundle and also notes\.md"):
        export(nn.GRU(5, 7), X, tmp_path / "bundle", overwrite=True)
    assert (bundle.path / "notes.md").read_text() == "mine"


def test_what_a_planted_manifest_lists_is_not_removed(tmp_path):
    bundle = export(nn.GRU(5, 4), X, tmp_path / "bundle", formats=["onnx"])
    (bundle.path / "thesis.txt").write_text("years of work")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"]["thesis.txt"] = {"sha256": "0" * 64, "size": 13}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"also thesis\.txt, which rnn-export did not write"):
        export(nn.GRU(5, 7), X, tmp_path / "bundle", formats=["onnx"], overwrite=True)
    assert (bundle.path / "thesis.txt").read_text() == "years of work"


def test_what_comes_to_the_folder_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    seal = _export.seal

    def meanwhile(*arguments):
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "thesis.txt").write_text("years of work")
        seal(*arguments)

    monkeypatch.setattr(_export, "seal", meanwhile)
    with pytest.raises(InputError, match="is no bundle"):
        export(nn.GRU(5, 4), X, tmp_path / "bundle")
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "years of work"


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    export(nn.GRU(5, 4), X, tmp_path / "bundle")
    (tmp_path / "link").symlink_to(tmp_path / "bundle")
    second = export(nn.GRU(5, 7), X, tmp_path / "link", overwrite=True)
    assert rnn_runtime.load(tmp_path / "bundle").signature == second.signature
    assert names(tmp_path) == ["bundle", "link"] and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("path", ["file/bundle", "x" * 300])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        export(nn.GRU(5, 4), X, tmp_path / path)


def test_weights_beyond_one_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("rnn_export._lower.onnx.LARGEST", 0)
    bundle = export(nn.GRU(5, 64), X, tmp_path / "bundle", formats=["onnx"])
    assert "model.onnx.data" in names(bundle.path)
    assert rnn_runtime.load(bundle).check().passed
    data = bundle.path / "model.onnx.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    with pytest.raises(rnn_runtime.BundleError, match="SHA-256"):
        rnn_runtime.load(bundle)


def test_exports_of_several_threads_do_not_disturb_each_other(tmp_path):
    expected = nn.RNNBase.get_expected_hidden_size
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda k: export(nn.GRU(5, 4 + k), X, tmp_path / str(k), formats=["onnx"]), range(3)))
    assert [bundle.layers[0].hidden_size for bundle in done] == [4, 5, 6]
    assert nn.RNNBase.get_expected_hidden_size is expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_export_leaves_the_old_bundle_untouched(tmp_path, monkeypatch, error):
    export(nn.GRU(5, 4), X, tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}

    def interrupt(*_, **__):
        raise error

    monkeypatch.setattr("rnn_export._export.seal", interrupt)
    with pytest.raises(error):
        export(nn.GRU(5, 7), X, tmp_path / "bundle", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == before
    assert names(tmp_path) == ["bundle"]


def test_a_bundle_has_the_permissions_of_any_new_folder(tmp_path):
    bundle = export(nn.GRU(5, 4), X, tmp_path / "deep" / "bundle")
    (tmp_path / "plain").mkdir()
    assert os.stat(bundle.path).st_mode == os.stat(tmp_path / "plain").st_mode


def test_one_format_alone_can_be_written(tmp_path):
    for format, file in (("onnx", "model.onnx"), ("torchscript", "model.pt"), ("pt2", "model.pt2")):
        bundle = export(nn.GRU(5, 4), X, tmp_path / format, formats=[format])
        assert names(bundle.path) == sorted(["golden.npz", "manifest.json", file])
