"""What a model asks of its sizes is proven, tried, or becomes a limit; nothing else comes out of an export."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import rnn_export
from rnn_export._capture import settle
from rnn_export.cli.inspect import inspect
from rnn_runtime import load

AXES = {"x": {0: "batch", 1: "sequence"}}


@dataclass
class Config:
    longest: int = 40
    seconds: float = 0.6


class Layer(nn.Module):
    """A layer over the sequence; `before` is what a model does to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.rnn = nn.GRU(4, 8, batch_first=True)

    def before(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(self.before(x))[0]
        return y


class Loop(Layer):
    """The same with a Python loop of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRUCell(4, 8)  # type: ignore[assignment]

    def step(self, t: Any, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        h = x.new_zeros(x.size(0), 8)
        out = []
        for t in range(x.size(1)):
            h = self.rnn(x[:, t], self.step(t, h))
            out.append(h)
        return torch.stack(out, 1)


class Truncates(Layer):
    def before(self, x: Tensor) -> Tensor:
        return x[:, : self.config.longest]


class TruncatesInLoop(Loop):
    before = Truncates.before


class LargeBatch(Layer):
    def before(self, x: Tensor) -> Tensor:
        return x - x.mean(0) if x.size(0) > 8 else x


class LargeBatchInLoop(Loop):
    before = LargeBatch.before


class Duration(Layer):
    def before(self, x: Tensor) -> Tensor:
        return x[:, ::2] if x.size(1) * 160 / 16000 > self.config.seconds else x


class Members(Layer):
    def before(self, x: Tensor) -> Tensor:
        return x * 2 if x.size(1) in (24, 48) else x


class Nested(Layer):
    """Long sequences ask a second question, which no short one asks."""

    def before(self, x: Tensor) -> Tensor:
        if x.size(1) > 20 and x.size(0) > 4:
            x = x * 2
        return x


class Onset(Loop):
    """Time in seconds, as a float, decides inside a step."""

    def step(self, t: Any, h: Tensor) -> Tensor:
        return h + 1 if t * 0.02 >= self.config.seconds else h


class Reset(Loop):
    def step(self, t: Any, h: Tensor) -> Tensor:
        return torch.zeros_like(h) if t and t % self.config.longest == 0 else h


class LongMultiple(Layer):
    """The second question is asked at few sizes alone: neither 513 nor 514 is one of them."""

    def before(self, x: Tensor) -> Tensor:
        if x.size(1) % 16 == 0 and x.size(1) > 512:
            x = x * 2
        return x


class FirstSteps(Loop):
    """A slice of the steps, and not of the tensor, that ends at a product of settings."""

    rate, seconds = 25, 60

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), 8)
        for t in range(x.size(1))[: self.rate * self.seconds]:
            h = self.rnn(x[:, t], h)
        return h


class FirstParts(FirstSteps):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), 8)
        for x_t in x.unbind(1)[: self.rate * self.seconds]:
            h = self.rnn(x_t, h)
        return h


class Windows(Layer):
    """Needs four steps; eager PyTorch says so."""

    def before(self, x: Tensor) -> Tensor:
        return x.unfold(1, 4, 1).mean(-1)


class Unchanged(Layer):
    """Another way for long sequences that comes to the same."""

    def before(self, x: Tensor) -> Tensor:
        return x.clone() if x.size(1) > 30 else x * 1


class Numbers(Layer):
    """The count of elements: over two axes, so that no limit of one is enough."""

    def before(self, x: Tensor) -> Tensor:
        return x[:, ::2] if x.numel() > 2000 else x


class Fifth(Layer):
    def before(self, x: Tensor) -> Tensor:
        return x * 2 if x.size(1) % 5 == 0 else x


class FifthInLoop(Loop):
    before = Fifth.before


class Named(Layer):
    """A factor for some lengths, by name."""

    factors = MappingProxyType({"24": 2.0, "96": 3.0})

    def before(self, x: Tensor) -> Tensor:
        return x * self.factors.get(str(x.size(1)), 1.0)


class NamedInLoop(Loop):
    factors = Named.factors
    before = Named.before


class Distance(Layer):
    """`math.hypot` makes a plain number of a size, which is then compared where nobody sees."""

    def before(self, x: Tensor) -> Tensor:
        return x * 2 if math.hypot(x.size(1) * 1.0, 1.0) > 900 else x


class Says(Layer):
    """Tells its sizes, which decides nothing."""

    def before(self, x: Tensor) -> Tensor:
        print(f"{x.size(1)} steps")
        assert x.size(1) > 0, f"no steps: {x.size(1)}"
        return x


@pytest.mark.parametrize(
    ("model", "axis", "least", "largest"),
    [
        (Truncates, "sequence", 1, 40),
        (TruncatesInLoop, "sequence", 1, 40),
        (LargeBatch, "batch", 1, 8),
        (LargeBatchInLoop, "batch", 1, 8),
        (Duration, "sequence", 1, 60),
        (Members, "sequence", 1, 23),
        (Nested, "batch", 1, 4),
        (Onset, "sequence", 1, 30),
        (Reset, "sequence", 1, 40),
        (Windows, "sequence", 4, None),
        (LongMultiple, "sequence", 1, 514),
        (FirstSteps, "sequence", 1, 1500),
        (FirstParts, "sequence", 1, 1500),
    ],
)
def test_what_turns_at_a_size_is_a_limit_with_its_line(
    tmp_path: Path, model: type[Layer], axis: str, least: int, largest: int | None
) -> None:
    bundle = rnn_export.export(model(), torch.randn(2, 7, 4), tmp_path / "b", axes=AXES, formats=["onnx"])
    (limit,) = bundle.signature.limits
    assert (limit.axis, limit.min, limit.max) == (axis, least, largest)
    assert Path(__file__).name in limit.reason


@pytest.mark.parametrize("model", [Truncates, Onset])
def test_at_its_limit_a_bundle_is_the_model(tmp_path: Path, model: type[Layer]) -> None:
    torch.manual_seed(0)
    eager = model()
    bundle = rnn_export.export(eager, torch.randn(2, 7, 4), tmp_path / "b", axes=AXES, formats=["onnx"])
    (limit,) = bundle.signature.limits
    assert limit.max is not None
    x = torch.randn(3, limit.max, 4)
    (got,) = load(bundle).run(x.numpy()).values()
    np.testing.assert_allclose(got, eager(x).detach().numpy(), atol=1e-5)


def test_another_way_that_comes_to_the_same_is_tried_and_no_limit(tmp_path: Path) -> None:
    bundle = rnn_export.export(Unchanged(), torch.randn(2, 7, 4), tmp_path / "b", axes=AXES, formats=["onnx"])
    assert bundle.signature.limits == ()
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    (asked,) = [one for one in manifest["assumptions"] if one["text"] == "sequence > 30"]
    assert asked["settled"] == "tried"
    assert "sequence=31" in asked["how"]
    assert {"batch": 2, "sequence": 31} in manifest["verified"]["shapes"]


@pytest.mark.parametrize("model", [Numbers, Fifth, FifthInLoop, Named, NamedInLoop, Distance])
def test_what_no_limit_leaves_out_is_refused_with_its_line(tmp_path: Path, model: type[Layer]) -> None:
    with pytest.raises(rnn_export.ExportError, match=rf"{model.__name__}.*{Path(__file__).name}"):
        rnn_export.export(model(), torch.randn(2, 7, 4), tmp_path / "b", axes=AXES)
    assert not (tmp_path / "b").exists()


def test_text_of_a_size_that_is_only_said_is_no_question(tmp_path: Path) -> None:
    bundle = rnn_export.export(Says(), torch.randn(2, 7, 4), tmp_path / "b", axes=AXES, formats=["onnx"])
    assert bundle.signature.limits == ()


def test_more_questions_than_surveys_end_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "SURVEYS", 1)
    with pytest.raises(rnn_export.ExportError, match=r"1 surveys did not come to an end.*sequence"):
        rnn_export.export(Unchanged(), torch.randn(2, 7, 4), tmp_path / "b", axes=AXES)


def test_an_assumption_that_gets_lost_ends_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = settle._Settling._answer

    def forgetful(self: Any, *args: Any) -> Any:
        beyond = answer(self, *args)
        for key in [key for key in self._asked if key[0] == "sequence > 30"]:
            del self._asked[key]
        return beyond

    monkeypatch.setattr(settle._Settling, "_answer", forgetful)
    with pytest.raises(rnn_export.ExportError, match=r"lost sight of an assumption \(sequence > 30"):
        rnn_export.export(Unchanged(), torch.randn(2, 7, 4), tmp_path / "b", axes=AXES)


def test_inspect_shows_the_assumptions(tmp_path: Path) -> None:
    rnn_export.export(Truncates(), torch.randn(2, 7, 4), tmp_path / "b", axes=AXES, formats=["onnx"])
    short = CliRunner().invoke(inspect, [str(tmp_path / "b")])
    assert short.exit_code == 0
    assert "limited: sequence" in short.output
    everything = CliRunner().invoke(inspect, [str(tmp_path / "b"), "--assumptions"])
    assert everything.output.count("tried:") > short.output.count("tried:")
