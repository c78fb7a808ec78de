"""A sample of the sweep of operators (`make operators`), and the graphs' own translations in rolled loops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from rnn_export._capture import capture
from rnn_export._errors import ExportError
from rnn_export._lower.onnx import to_onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "operators"))
import corpus
import run

ROWS = {
    "pairs": ["torch.logaddexp(x, y)", "torch.atan2(x, y)", "torch.remainder(x, y)", "torch.isclose(x, y)"],
    "singles": [
        "x.logcumsumexp(1)",
        "F.logsigmoid(x)",
        "torch.clamp(x, min=0.5)",
        "x.sign()",
        "x[:, 1:].mean(1)",
        "1.0 / (x + 1e-9)",
    ],
    "attention": ["F.scaled_dot_product_attention(x, y, x, attn_mask=m[..., :1] & m[..., 1:2].mT)"],
    "means of windows": ["F.adaptive_avg_pool1d(x.mT, 3)", "F.avg_pool2d(x[:, None], 2, divisor_override=3)"],
    "losses": [
        "F.cross_entropy(x.flatten(0, 1), k[..., 0].flatten(), reduction='none')",
        "F.cross_entropy(x.flatten(0, 1), k[..., 0].flatten(), ignore_index=2, label_smoothing=0.1)",
        "F.nll_loss(x.flatten(0, 1), k[..., 0].flatten(), ignore_index=1, reduction='sum')",
    ],
    "maxima": ["x.max(1)"],
    "positions": ["x.argmax(-1)"],
    "sizes": [
        "x[:, : int(x.size(1) * 0.7)]",
        "x[:, : int(x.size(1) / 3 * 2)]",
        "x[:, : -(-x.size(1) // 4)]",
        "torch.arange(0, x.size(1) * 0.1, 0.1)",
        "F.interpolate(x.mT, size=(x.size(1) * 2) // 3, mode='nearest')",
    ],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_sample_of_the_sweep_is_right(name: str) -> None:
    found = run.check(ROWS[name])
    assert [result["verdict"] for result in found] == ["right"] * len(ROWS[name]), found


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (np.float32([1.0, np.nan]), np.float32([1.0, 2.0])),
        (np.float32([1.0, np.inf]), np.float32([1.0, -np.inf])),
        (np.float32([1.0]), np.float32([1.1])),
        (np.float32([1.0]), np.float32([1.0, 1.0])),
        (np.float32([1.0]), np.float64([1.0])),
        (np.int64([1]), np.int64([2])),
    ],
)
def test_the_sweep_sees_a_difference(got: np.ndarray, want: np.ndarray) -> None:
    assert run.differs(got, want, want)
    assert not run.differs(want, want, want)


@pytest.mark.parametrize(
    ("code", "wrong", "verdict"),
    [
        ("x.abs()", {}, "right"),
        ("x.abs()", {"NaN": "1, not nan"}, "wrong"),
        ("x.abs()", {"random": "fails: no kernel"}, "wrong"),
        ("x.topk(2)", {"ties": "1, not 2"}, "limit"),
        ("x.topk(2)", {"ties": "fails: no kernel"}, "wrong"),
        ("nn.GRU(4, 3, batch_first=True)", {"NaN": "1, not nan"}, "limit"),
        ("nn.GRU(4, 3, batch_first=True)", {"random": "1, not 2"}, "wrong"),
    ],
)
def test_a_limit_covers_its_own_inputs_alone(code: str, wrong: dict[str, str], verdict: str) -> None:
    assert run.verdict(code, wrong) == verdict


def test_the_limits_are_of_operators_that_are_swept() -> None:
    assert corpus.LIMITS.keys() <= {code for _, code in corpus.OPERATORS}


class Lattice(nn.Module):
    """A loop in the space of logarithms, far from zero."""

    def forward(self, x: Tensor) -> Tensor:
        score = x[:, 0]
        for t in range(1, x.size(1)):
            score = torch.logaddexp(score, score - 1000.0) + x[:, t]
        return score


def test_a_translation_holds_in_the_body_of_a_rolled_loop() -> None:
    model, x = Lattice(), torch.randn(2, 300, 4) - 50
    captured = capture(model, torch.randn(2, 7, 4), axes={"x": {0: "batch", 1: "sequence"}})
    assert captured.has_loops
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(to_onnx(captured)).SerializeToString())
    (got,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(got, model(x).numpy(), rtol=1e-5)


class Median(nn.Module):
    """Has an operator that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.median(-1).values


def test_an_operator_without_a_translation_is_refused_by_name() -> None:
    captured = capture(Median(), torch.randn(2, 7, 4), axes={"x": {0: "batch", 1: "sequence"}}, state={})
    with pytest.raises(ExportError, match=r"operator 'median' has no translation: .*formats=\['torchscript'\]"):
        to_onnx(captured)


class Cumulative(nn.Module):
    """Has an operator whose translation is a loop of rounds."""

    def forward(self, x: Tensor) -> Tensor:
        return x.logcumsumexp(1)


def test_a_graph_without_loops_is_refused_where_an_operator_is_one() -> None:
    captured = capture(Cumulative(), torch.randn(2, 7, 4), axes={"x": {0: "batch", 1: "sequence"}}, state={})
    assert any(node.op_type == "Loop" for node in to_onnx(captured).graph)
    with pytest.raises(ExportError, match=r"lowering='decomposed', but torch\.logcumsumexp is written as a Loop"):
        to_onnx(captured, "decomposed")
