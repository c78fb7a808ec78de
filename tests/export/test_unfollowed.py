"""What a model computes of a size in Python: followed in every format, or refused with the function and the line."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnn_export
from rnn_export._capture import capture
from rnn_runtime import load

AXES = {"x": {0: "batch", 1: "sequence"}}
TABLE = {11: 2}


class Scaled(nn.Module):
    """A layer whose result is multiplied by what `number` makes of the number of steps."""

    def __init__(self, number: Callable[[Any], Any]) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y * self.number(x.size(1))


@functools.lru_cache
def half(n: int) -> int:
    return n // 2


def followed(n: Any) -> Any:
    return (
        math.isqrt(n)
        + 10 * isqrt(n + 2)
        + 100 * divmod(n, 4)[0]
        + 1000 * divmod(n, 4)[1]
        + math.trunc(n / 3)
        + math.fabs(-n)
    )


def test_integer_roots_and_remainders_follow_a_size_in_every_format(tmp_path: Path) -> None:
    model = Scaled(followed).eval()
    bundle = rnn_export.export(model, torch.randn(2, 11, 4), tmp_path / "b", axes=AXES, formats=["onnx", "torchscript"])
    assert bundle.signature.limits == ()
    scripted = torch.jit.load(tmp_path / "b" / "model.pt")
    for steps in (1, 2, 3, 4, 8, 9, 15, 16, 24, 25, 99, 100, 168):
        x = torch.randn(2, steps, 4)
        want = model(x).detach().numpy()
        np.testing.assert_allclose(load(bundle).run(x.numpy())[0], want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
        np.testing.assert_allclose(scripted(x)[0].detach().numpy(), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("number", "function"),
    [
        (lambda n: math.gcd(n, 6), "math.gcd"),
        (lambda n: math.log10(n), "math.log10"),
        (lambda n: math.sin(n), "math.sin"),
        (lambda n: n.bit_length(), "int.bit_length"),
        (lambda n: len(str(n)), "text"),
        (lambda n: TABLE.get(n, 3), "a key of a dict, a set or a cache"),
        (lambda n: 1 + (n in {11, 12}), "a key of a dict, a set or a cache"),
        (lambda n: half(n), "a key of a dict, a set or a cache"),
        (lambda n: np.log2(n), "a function of plain numbers alone"),
        (lambda n: pow(n, 2, 7), "a function of plain numbers alone"),
    ],
)
def test_what_cannot_be_followed_is_named_with_its_line(number: Callable[[Any], Any], function: str) -> None:
    wanted = rf"a size leaves what a graph can follow in {re.escape(function)}.*{Path(__file__).name}:\d+.*torch\.log\("
    with pytest.raises(rnn_export.ExportError, match=wanted):
        capture(Scaled(number).eval(), torch.randn(2, 11, 4), axes=AXES)


def test_a_number_of_a_size_outside_of_loops_is_not_called_a_loop() -> None:
    with pytest.raises(rnn_export.ExportError, match=r"bin\(n\).*not in a loop over it.*torch\.log\(") as caught:
        capture(Scaled(lambda n: len(bin(n))).eval(), torch.randn(2, 11, 4), axes=AXES)
    assert "cannot be rolled" not in str(caught.value)


def test_functions_of_math_are_put_back() -> None:
    capture(Scaled(lambda n: isqrt(n)).eval(), torch.randn(2, 11, 4), axes=AXES)
    assert (isqrt, math.isqrt(17), globals()["math"]) == (math.isqrt, 4, math)
