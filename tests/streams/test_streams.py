"""state="lift" beyond layers: windows, sums and numbers of steps are states, and a stream gives the whole run."""

from __future__ import annotations

import contextlib
import os
import random
import sys

import numpy as np
import pytest
import streamed
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rnn_runtime
from rnn_export import ExportError, export, verify
from rnn_export.cli import main

STEPS = 97
BOTH = ("amplifier", "gtcrn", "mamba", "padded_once")
"""Of these, TorchScript is written too."""
RESET = ("padded_once", "attention", "rwkv", "gtcrn", "starts")
"""Of these, one row is reset while the other goes on."""


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory):
    made = {}

    def bundle(name):
        if name not in made:
            kind, example, axes = streamed.MODELS[name]
            torch.manual_seed(0)
            model = kind().eval()
            formats = ["onnx", "torchscript"] if name in BOTH else ["onnx"]
            path = tmp_path_factory.mktemp(name) / "bundle"
            made[name] = model, export(model, example, path, axes=axes, state="lift", formats=formats)
        return made[name]

    return bundle


def _drawn(name, batch):
    _, example, axes = streamed.MODELS[name]
    shape = [STEPS if axes["x"].get(k) == "sequence" else size for k, size in enumerate(example.shape)]
    return torch.randn(batch, *shape[1:], generator=torch.Generator().manual_seed(1)), _time(name)


def _time(name):
    return next(dim for dim, axis in streamed.MODELS[name][2]["x"].items() if axis == "sequence")


def _whole(model, x):
    with torch.no_grad():
        results = model.double()(x.double())
    model.float()
    return [y.numpy() for y in (results if isinstance(results, tuple) else (results,))]


def _joined(results, want, count):
    dim = next(k for k, size in enumerate(want.shape) if size == STEPS)
    return np.concatenate([result[count] for result in results], dim)


def _cuts(seed):
    generator = random.Random(seed)
    cuts = []
    while sum(cuts) < STEPS:
        cuts.append(min(generator.choice((1, 2, 3, 5, 13, 31)), STEPS - sum(cuts)))
    return cuts


OTHERS = [name for name in streamed.MODELS if name not in (*BOTH, *RESET)]
SLICE = OTHERS if "RNN_EXPORT_FULL" in os.environ else random.Random(os.environ["RNN_EXPORT_SEED"]).sample(OTHERS, 3)
"""Of the likenesses that no other test exports a few, another few in each run; `make streams` takes them all."""


@pytest.mark.parametrize("name", sorted({*BOTH, *RESET, *SLICE}))
def test_a_stream_gives_what_the_whole_run_gives_at_every_cut(bundle_of, name):
    model, bundle = bundle_of(name)
    x, dim = _drawn(name, 2)
    want = _whole(model, x)
    runtime = rnn_runtime.load(bundle)
    for cuts in ([1] * STEPS, _cuts(1), _cuts(2), [STEPS]):
        stream = runtime.stream(batch=2)
        results = [stream.push(piece.numpy()) for piece in x.split(cuts, dim)]
        for k, whole in enumerate(want):
            np.testing.assert_allclose(_joined(results, whole, k), whole, rtol=0, atol=2e-5 * max(1, abs(whole).max()))


@pytest.mark.parametrize("name", RESET)
def test_a_row_that_is_reset_starts_as_a_whole_run_does(bundle_of, name):
    model, bundle = bundle_of(name)
    x, dim = _drawn(name, 2)
    stream = rnn_runtime.load(bundle).stream(batch=2)
    first, second = x.split([40, STEPS - 40], dim)
    stream.push(first.numpy())
    stream.reset([1])
    got = stream.push(second.numpy())[0]
    through, anew = _whole(model, x)[0][:1], _whole(model, second)[0][1:]
    along = next(k for k, size in enumerate(through.shape) if size == STEPS)
    np.testing.assert_allclose(got[:1], through.take(range(40, STEPS), along), atol=1e-4)
    np.testing.assert_allclose(got[1:], anew, atol=1e-4)


@pytest.mark.parametrize("name", BOTH)
def test_torchscript_takes_pieces_too(bundle_of, name):
    model, bundle = bundle_of(name)
    x, dim = _drawn(name, 3)
    script = torch.jit.load(bundle.path / "model.pt")
    states = [spec for spec in bundle.signature.inputs if spec.name != "x"]
    now = [
        torch.zeros([3 if a == "batch" else a for a in spec.axes], dtype=getattr(torch, spec.dtype)) for spec in states
    ]
    order = [spec.name for spec in bundle.signature.outputs]
    after = [order.index(bundle.signature.states[k].output) for k in range(len(states))]
    assert [state.input for state in bundle.signature.states] == [spec.name for spec in states]
    pieces = []
    for piece in x.split(_cuts(3), dim):
        results = script(piece, *now)
        now = [results[k] for k in after]
        pieces.append([results[0].detach().numpy()])
    (want, *_) = _whole(model, x)
    np.testing.assert_allclose(_joined(pieces, want, 0), want, rtol=0, atol=1e-5)


def test_a_pool_runs_streams_of_windows_in_one_batch(bundle_of):
    model, bundle = bundle_of("padded_once")
    x, dim = _drawn("padded_once", 2)
    want = _whole(model, x)[0]
    with rnn_runtime.StreamPool(rnn_runtime.load(bundle), capacity=2, max_wait_ms=0) as pool:
        streams = [pool.open(), pool.open()]
        for row, stream in enumerate(streams):
            got = [stream.push(piece.numpy())[0] for piece in x[row : row + 1].split(_cuts(row), dim)]
            np.testing.assert_allclose(np.concatenate(got, 2), want[row : row + 1], atol=1e-5)


def test_inspect_tells_what_each_state_holds(bundle_of, monkeypatch, capsys):
    _, bundle = bundle_of("padded_once")
    monkeypatch.setattr(sys, "argv", ["rnn-export", "inspect", str(bundle.path)])
    with contextlib.suppress(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "the last 2 steps, which aten.conv1d of 'first' looks back at" in shown
    assert "the last 6 steps, which aten.conv1d of 'second' looks back at" in shown
    assert "the number of steps so far" in shown


def test_a_bundle_of_windows_verifies_against_its_model_and_no_other(bundle_of):
    model, bundle = bundle_of("padded_once")
    assert verify(model, bundle).passed
    assert not verify(streamed.PaddedOnce().eval(), bundle).passed


class Net(nn.Module):
    """A causal convolution and then what a test is about."""

    def __init__(self, what):
        super().__init__()
        self.what, self.conv, self.after = what, nn.Conv1d(5, 5, 3), nn.Conv1d(5, 5, 3)

    def forward(self, x):
        return self.what(self, self.conv(F.pad(x, (2, 0))), x)


def _attends(net: Net, y: Tensor, x: Tensor) -> Tensor:
    return (y.transpose(1, 2) @ y).softmax(-1) @ x.transpose(1, 2)


def _writes(net: Net, y: Tensor, x: Tensor) -> Tensor:
    z = y * 1.0
    z[:, 0] = 0.0
    return z


REFUSED = {
    "a mean over all steps": (lambda net, y, x: y - y.mean(-1, keepdim=True), "aten.mean.dim .* goes over all steps"),
    "a norm over all steps": (lambda net, y, x: F.instance_norm(y), "norm .* (takes statistics|goes) over all steps"),
    "unbounded attention": (_attends, "aten.matmul .* holds every step against every other one"),
    "torch.roll": (lambda net, y, x: y.roll(1, -1), "aten.roll .* brings the last steps to the start.* F.pad"),
    "a flip": (lambda net, y, x: y.flip(-1), "aten.flip .* goes over all steps together"),
    "looks ahead": (lambda net, y, x: net.after(F.pad(y, (1, 1))), "looks 1 steps ahead.*kernel_size - 1"),
    "too short": (lambda net, y, x: net.after(y), "gives 2 less items"),
    "strided": (lambda net, y, x: F.conv1d(y, net.after.weight, stride=2), "aten.conv1d .* takes 2 steps at a time"),
    "the number of all steps": (lambda net, y, x: y / x.shape[-1], "computes with the number of steps"),
    "an unknown operator": (lambda net, y, x: torch.fft.rfft(y, dim=1).abs(), "is an operator for which no form"),
    "reflected padding": (lambda net, y, x: net.after(F.pad(y, (2, 0), mode="replicate")), "mode='replicate'"),
    "other long sequences": (
        lambda net, y, x: y * (2.0 if x.shape[-1] > 400 else 1.0),
        "whole sequences of .* 400 alone",
    ),
    "other short sequences": (lambda net, y, x: y * (2.0 if x.shape[-1] < 4 else 1.0), "comes in pieces of 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_stream_names_the_operator_and_the_way_out(tmp_path, case):
    what, text = REFUSED[case]
    with pytest.raises(ExportError, match=f"(?s)state='lift', but .*{text}.*[Uu]se state='none'"):
        export(Net(what), torch.randn(3, 5, 7), tmp_path / "b", axes=streamed.LAST, state="lift", formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_would_be_written_wrong_is_not_let_through(tmp_path, monkeypatch):
    """The proof against the whole run in float64, where the table of operators is wrong about one."""
    from rnn_export._capture.streams import operators

    monkeypatch.setitem(operators.RULES, torch.ops.aten.flip.default, operators.moved)
    with pytest.raises(ExportError, match=r"is another when a sequence of .* steps along 'sequence' comes in pieces"):
        export(
            Net(lambda net, y, x: y.flip(-1)),
            torch.randn(3, 5, 7),
            tmp_path / "b",
            axes=streamed.LAST,
            state="lift",
            formats=["onnx"],
        )
