"""Likenesses of other people's models, exported as they are; and the decisions by value that they make."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnn_runtime
from rnn_export import ExportError, export
from rnn_export._capture import capture

sys.path.insert(0, str(Path(__file__).parent))
from likenesses import LIKENESSES, Likeness

QUICK = [
    *("MaskedOrNot", "ChecksLengths", "PolicyWithDones", "CutByInt", "CleansNan"),
    *("ListLengths", "DictBatch", "SeqWrapper", "RelativeLengths", "CharTagger", "PackedStack", "WritesInPlace"),
    *("DeepSpeech", "KeepsHidden", "OldHabits", "ValidOnly", "Fusion", "NoiseSuppressor", "PositionsAndCasts"),
    *("SeparationNorm", "Sinc", "ConvRecurrent", "Denoiser"),
]
"""One of each way of writing; `make real-models` runs them all."""


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if value is None:
        return []
    if hasattr(value, "__dataclass_fields__"):
        value = list(vars(value).values())
    return [one for item in (value.values() if isinstance(value, dict) else value) for one in tensors(item)]


def outcome(like: Likeness, folder: Path) -> float:
    """Exports a likeness; the largest difference of both formats from eager PyTorch at sizes that were not traced."""
    torch.manual_seed(0)
    model = like.build().eval()
    bundle = export(model, like.draw(*like.example), folder, axes=like.axes, **like.how)
    runtime, script = rnn_runtime.load(bundle), torch.jit.load(folder / "model.pt")
    worst = 0.0
    for sizes in like.shapes:
        inputs = like.draw(*sizes)
        flat = [tensor.clone() for tensor in tensors(list(inputs))]
        specs = bundle.signature.inputs
        given = {spec.name: tensor.numpy() for spec, tensor in zip(specs, flat, strict=False)}
        size = {axis: n for s, x in zip(specs, flat, strict=False) for axis, n in zip(s.axes, x.shape, strict=True)}
        kept = [torch.zeros([size.get(axis, axis) for axis in spec.axes]) for spec in specs[len(flat) :]]
        with torch.no_grad():
            wanted = tensors(copy.deepcopy(model)(*inputs))
            traced = script(*[tensor.clone() for tensor in flat], *kept)
        got = runtime.run(given)
        for a, b, want in zip(got.values(), traced, wanted, strict=not kept):
            assert a.shape == tuple(b.shape) == tuple(want.shape)
            for found in (a, b.numpy()):
                error = np.abs(found.astype(np.float64) - want.double().numpy())
                worst = max(worst, float(error[~np.isnan(error)].max(initial=0.0)))
                np.testing.assert_array_equal(np.isnan(found), want.isnan().numpy())
    return worst


@pytest.mark.parametrize("name", QUICK)
def test_likenesses_are_exact_at_sizes_never_traced(tmp_path, name):
    assert outcome(LIKENESSES[name], tmp_path / "bundle") < 2e-6


X = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
AXES = {"x": {0: "batch", 1: "sequence"}}
MASKED = {**AXES, "flag": {0: "batch"}}
FLAGS = torch.tensor([True, False, True])


class Decides(nn.Module):
    """Decides by a value in the way that `how` names."""

    def __init__(self, how):
        super().__init__()
        self.how, self.rnn = how, nn.GRU(5, 4, batch_first=True)

    def forward(self, x, flag=None):
        match self.how:
            case "skips what changes nothing":
                if flag.any():
                    x = torch.where(flag[:, None, None], x * 2, x)
            case "in a helper, twice":
                x = self.doubled(self.doubled(x, flag), ~flag)
            case "by a number":
                rows = flag.sum().item()
                if rows > 0:
                    x = torch.where(flag[:, None, None], x * 2, x)
            case "one inside another":
                if flag.any():
                    x = x * 2 if flag.all() else torch.where(flag[:, None, None], x * 2, x)
            case "both ways differ":
                x = x * 2 if flag.all() else x
            case "differs where it rarely goes":
                if x.abs().max() > 500:
                    x = x * 0
            case "a number of steps":
                for _ in range(int(flag.sum())):
                    x = x + 1
            case "a tensor of a size":
                if torch.full((x.size(0),), x.size(1)).max() > 200:
                    x = x * 2
            case "until it is done":
                while flag.any():
                    x, flag = x * 2, flag & ~flag
            case "gives up":
                if not flag.any():
                    return torch.zeros(len(x), x.shape[1], 4)
        return self.rnn(x)[0]

    def doubled(self, x, flag):
        if flag.any():
            x = torch.where(flag[:, None, None], x * 2, x)
        return x


@pytest.mark.parametrize(
    ("how", "answers"),
    [
        ("skips what changes nothing", [True]),
        ("in a helper, twice", [True]),
        ("by a number", [True]),
        ("one inside another", [True, False]),
    ],
)
def test_the_general_way_is_taken_and_proven_on_inputs_that_go_either_way(how, answers):
    captured = capture(Decides(how), (X, FLAGS), axes=MASKED)
    assert [decision.answer for decision in captured.decisions] == answers
    for decision in captured.decisions:
        assert decision.place.text.startswith(("if flag", "if rows", "x = x * 2 if"))
    assert {bool(sample.inputs[1].any()) for sample in captured.witnesses} == {True, False}


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("both ways differ", r"`x = x \* 2 if flag.all\(\) else x`"),
        ("differs where it rarely goes", r"`if x.abs\(\).max\(\) > 500:`"),
        ("gives up", r"`if not flag.any\(\):`"),
        ("a tensor of a size", r"`if torch.full\(\(x.size\(0\),\), x.size\(1\)\).max\(\) > 200:`"),
        ("until it is done", r"`while flag.any\(\):`"),
        ("a number of steps", r"`for _ in range\(int\(flag.sum\(\)\)\):`"),
    ],
)
def test_where_the_ways_differ_the_line_is_refused(tmp_path, how, line):
    inputs, axes = ((X,), AXES) if "rarely" in how else ((X, FLAGS), MASKED)
    with pytest.raises(ExportError, match=rf"value of a tensor.*{line}") as caught:
        export(Decides(how), inputs, tmp_path / "bundle", axes=axes)
    assert ("a fixed number of steps" in str(caught.value)) == line.startswith(("`for", "`while"))
    assert not list(tmp_path.iterdir())


def test_a_wrong_way_would_be_found_by_the_comparison(tmp_path, monkeypatch):
    """The cases of the comparison go either way: were the proof wrong, they would not be equal."""
    from rnn_export import _capture

    decide = _capture.decide

    def wrong(prepared):
        decisions, samples = decide(prepared)
        return tuple(_capture.Decision(d.place, not d.answer, d.check, d.seen) for d in decisions), samples

    monkeypatch.setattr(_capture, "decide", wrong)
    with pytest.raises(ExportError, match="what was captured is not the model, already at batch=3, sequence=6"):
        export(Decides("skips what changes nothing"), (X, FLAGS), tmp_path / "bundle", axes=MASKED)


def test_lengths_of_zero_are_taken_where_the_example_has_them(tmp_path):
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 4, batch_first=True)

        def forward(self, x, n):
            if n.max() == 0:
                return torch.zeros(x.size(0), x.size(1), 4), None
            packed = nn.utils.rnn.pack_padded_sequence(x, n.clamp(min=1), batch_first=True, enforce_sorted=False)
            _, (h, _) = self.rnn(packed)
            return h[0].masked_fill((n == 0).unsqueeze(1), 0.0), n

    bundle = export(Empty(), (X, torch.tensor([6, 0, 4])), tmp_path / "bundle", axes={**AXES, "n": {0: "batch"}})
    assert bundle.signature.lengths == rnn_runtime.LengthsSpec("n", "sequence", minimum=0)
    runtime = rnn_runtime.load(bundle)
    assert not runtime.run(X.numpy(), lengths=[0, 3, 0])[0][[0, 2]].any()
    with pytest.raises(rnn_runtime.InputError, match="every one of 'n' is 0"):
        runtime.run(X.numpy(), lengths=[0, 0, 0])


def test_a_state_that_torchscript_fixes_to_the_traced_batch_is_refused_and_reads_no_memory(tmp_path):
    """Tracing makes a constant of a legacy constructor's tensor, whose size PyTorch's kernels do not check."""

    class Legacy(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(5, 4, batch_first=True)

        def forward(self, x):
            return self.rnn(x, torch.FloatTensor(1, x.size(0), 4).zero_())[0]

    with pytest.raises(ExportError, match="torchscript diverges from eager PyTorch"):
        export(Legacy(), X, tmp_path / "bundle", axes=AXES)
    export(Legacy(), X, tmp_path / "bundle", axes=AXES, formats=["onnx"])
