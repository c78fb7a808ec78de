"""Features about values: decisions, masks, state between calls."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from .feature import EFFECTS, Feature, effect
from .number import Number
from .source import Source

TESTS = (
    "x.abs().max() > {v}",
    "(x > {v}).any()",
    "x.max() - x.min() > {v}",
    "x.mean() < -{v}",
    "x.isnan().any()",
    "bool((x == 0).all())",
    "x.norm() > {v}",
    "float(x.abs().max()) >= {v}",
    "mask.any()",
    "mask.all()",
    "mask.sum() > {n}",
    "lengths.max() > {n}",
    "lengths.min() < {n}",
    "(lengths == lengths[0]).all()",
    "int(lengths.sum()) % {n} == 0",
)


@dataclass(frozen=True)
class Decision(Feature):
    """Another way through the model for some values."""

    number: Number
    threshold: float
    test: str
    effect: str

    PLAIN: ClassVar[dict[str, object]] = {"effect": EFFECTS[0]}

    @classmethod
    def draw(cls, rng: random.Random) -> Decision:
        threshold = rng.choice([0.5, 3.0, 10.0, 255.0, 1e4, 1e5])
        return cls(Number.draw(rng, 2, 300), threshold, rng.choice(TESTS), rng.choice(EFFECTS))

    def write(self, code: Source) -> None:
        if "mask" in self.test:
            code.take("mask", "mask", "batch", "time")
        if "lengths" in self.test:
            code.take("lengths", "lengths", "batch")
        test = self.test
        if "{n}" in test:
            test = test.format(n=self.number.read(code, "time"))
        elif "{v}" in test:
            code.near.setdefault("value", set()).add(self.threshold)
            test = test.format(v=self.threshold)
        with code.block(f"if {test}:"):
            effect(code, self.effect)


MASKED = (
    "x.masked_fill(~mask.unsqueeze(-1), 0.0)",
    "torch.where(mask[..., None], x, -x)",
    "x * mask.unsqueeze(-1)",
    "x - (x * mask.unsqueeze(-1)).sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]",
    "x * torch.softmax(x.mean(-1).masked_fill(~mask, -1e9), 1).unsqueeze(-1)",
    "x * (torch.arange(x.size(1)) < lengths.unsqueeze(1)).unsqueeze(-1)",
)


@dataclass(frozen=True)
class Mask(Feature):
    """Steps that a mask, or lengths, leave out. Only where the steps are still those of the input."""

    masked: str

    PLAIN: ClassVar[dict[str, object]] = {"masked": MASKED[0]}

    @classmethod
    def draw(cls, rng: random.Random) -> Mask:
        return cls(rng.choice(MASKED))

    def write(self, code: Source) -> None:
        if not code.whole:
            return
        if "lengths" in self.masked:
            code.take("lengths", "lengths", "batch")
        else:
            code.take("mask", "mask", "batch", "time")
        code.line(f"x = {self.masked}")


KEPT = ("mean", "counter", "peak", "deque", "line", "hidden", "list", "nested", "flag")


@dataclass(frozen=True)
class Kept(Feature):
    """State between calls, in an attribute, a buffer, a deque, a counter."""

    number: Number
    form: str

    PLAIN: ClassVar[dict[str, object]] = {"form": "mean"}

    @classmethod
    def draw(cls, rng: random.Random) -> Kept:
        return cls(Number.draw(rng, 1, 5), rng.choice(KEPT))

    def write(self, code: Source) -> None:
        code.kept, width = True, code.width
        zeros, mean = f"torch.zeros({width})", "x.mean((0, 1))"
        match self.form:
            case "mean":
                held = code.buffer("mean", zeros)
                code.line(f"{held} = 0.9 * {held} + 0.1 * {mean}", f"x = x - {held}")
            case "counter":
                calls = code.build("calls", "0")
                code.line(f"{calls} += 1")
                with code.block(f"if {calls} > {self.number.read(code, 'calls')}:"):
                    code.line("x = x * 0.5")
            case "peak":
                held = code.buffer("peak", "torch.zeros(())")
                code.line(f"{held} = torch.maximum({held}, x.abs().max())", f"x = x / {held}.clamp(min=100.0) * 100.0")
            case "deque":
                code.imports.add("from collections import deque")
                n = self.number.read(code, "calls")
                held = code.build("past", f"deque([{zeros}] * {self.number.value}, maxlen={self.number.value})")
                with code.block(f"if len({held}) >= {n}:"):
                    code.line(f"x = x + {held}[0]")
                code.line(f"{held}.append({mean})")
            case "line":
                held = code.buffer("past", f"torch.zeros({self.number.value + 1}, {width})")
                code.near.setdefault("calls", set()).add(self.number.value)
                code.line(f"x = x + {held}[0]", f"{held} = torch.cat([{held}[1:], {mean}.unsqueeze(0)])")
            case "hidden":
                layer = code.build("memory_cell", f"nn.GRU({width}, {width}, batch_first=True)")
                held = code.build("hidden", "None")
                with code.block(f"if {held} is None or {held}.size(1) != x.size(0):"):
                    code.line(f"{held} = x.new_zeros(1, x.size(0), {width})")
                code.line(f"x, {held} = {layer}(x, {held})")
            case "list":
                held = code.build("seen", "[]")
                with code.block(f"if len({held}) >= {self.number.read(code, 'calls')}:"):
                    code.line(f"x = x + torch.stack({held}).mean(0)")
                code.line(f"{held}.append({mean})")
            case "nested":
                held = code.build("memory_of", f'{{"mean": {zeros}, "calls": 0}}')
                code.line(f'{held}["mean"] = {held}["mean"] * 0.5 + {mean}', f'x = x - {held}["mean"]')
            case _:
                held = code.build("warm", "False")
                with code.block(f"if {held}:"):
                    code.line("x = x + 1.0")
                code.line(f"{held} = True")
