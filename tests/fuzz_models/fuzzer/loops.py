"""Cells in a Python loop over time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from .feature import HIDDEN, Feature, one_of
from .number import Number
from .source import Source

CELLS = ("gru", "lstm", "rnn", "own", "leaky", "gated")
FORMS = ("range", "enumerate", "zip", "while", "reversed", "stride", "split", "pairs", "fixed")
EVENTS = {
    "none": "",
    "reset": "if t and t % {n} == 0:\n    h = torch.zeros_like(h)",
    "at": "if t == {n}:\n    h = h + 1.0",
    "from": "if t >= {n}:\n    h = h * 0.5",
    "until": "if t < {n}:\n    h = h * 0.5",
    "seconds": "if t * 0.02 >= {n} * 0.02:\n    h = h + 1.0",
    "among": "if t in ({n}, 2 * {n}):\n    h = -h",
    "left": "if x.size(1) - t <= {n}:\n    h = h * 0.5",
    "lag": "if len(out) >= {n}:\n    h = h + 0.1 * out[-{n}].reshape(h.shape)",
    "recent": "if len(out) > 1:\n    h = h + 0.1 * torch.stack(out[-{n}:]).mean(0).reshape(h.shape)",
    "long": "if x.size(1) > {n}:\n    h = h * 0.5",
    "wide": "if x.size(0) > {n}:\n    h = h - h.mean(0)",
    "anneal": "h = h * min(1.0, t / {n})",
    "loud": "if h.abs().max() > {n}:\n    h = h * 0.5",
    "masked": "h = torch.where(mask[:, t, None], h, torch.zeros_like(h))",
}


@dataclass(frozen=True)
class Loop(Feature):
    """A cell, a way to go over the steps, something that happens at some of them, and how the results are collected."""

    cell: str
    hidden: int
    form: str
    stride: int
    event: str
    number: Number
    collect: str
    start: str
    early: bool
    last: Number

    PLAIN: ClassVar[dict[str, object]] = {
        "cell": "leaky",
        "form": "range",
        "event": "none",
        "collect": "stack",
        "start": "zeros",
    }

    @classmethod
    def draw(cls, rng: random.Random) -> Loop:
        event = one_of(rng, list(EVENTS), 0.25)
        high = {"lag": 40, "recent": 40, "wide": 40}.get(event, 3000)
        return cls(
            rng.choice(CELLS),
            rng.choice(HIDDEN),
            one_of(rng, FORMS, 0.3),
            rng.choice([2, 3]),
            event,
            Number.draw(rng, 1, high),
            rng.choices(["stack", "cat", "fill", "last"], [5, 2, 2, 2])[0],
            rng.choices(["zeros", "given", "learned"], [5, 2, 1])[0],
            rng.random() < 0.1,
            Number.draw(rng, 2, 600),
        )

    def write(self, code: Source) -> None:
        step = self._cell(code)
        code.line("out = []")
        head, xt = self._head(code)
        filled = self.collect == "fill" and self.form in ("range", "reversed")
        if filled:
            code.line(f"y = x.new_zeros(x.size(0), x.size(1), {self.hidden})")
        with code.block(head):
            if self.early:
                with code.block(f"if t >= {self.last.read(code, 'time')}:"):
                    code.line("break")
            code.line(*(text.replace("xt", xt) for text in step))
            self._event(code)
            if filled:
                code.line("y[:, t] = h")
            code.line("out.append(h.unsqueeze(1))" if self.collect == "cat" else "out.append(h)")
            if self.form == "while":
                code.line("t += 1")
        joined = {"cat": "torch.cat(out, 1)", "last": "h.unsqueeze(1)"}.get(self.collect, "torch.stack(out, 1)")
        code.line(f"x = {'y' if filled else joined}")
        plain = self.form in ("range", "enumerate", "zip", "while", "reversed")
        code.whole = code.whole and plain and self.collect != "last" and not self.early
        code.width = self.hidden

    def _cell(self, code: Source) -> list[str]:
        """The start of the state, and the lines of a step, in which `xt` stands for its input."""
        width, hidden = code.width, self.hidden
        zeros = f"x.new_zeros(x.size(0), {hidden})"
        start = zeros
        if self.start == "given":
            start = code.take(code.fresh("state"), "float", "batch", hidden)
            code.results[code.fresh("last")] = "h"
        elif self.start == "learned":
            start = code.build("start", f"nn.Parameter(torch.randn(1, {hidden}))") + ".expand(x.size(0), -1)"
        code.line(f"h = {start}", *([f"c = {zeros}"] if self.cell == "lstm" else []))
        match self.cell:
            case "gru" | "rnn":
                kind = {"gru": "GRUCell", "rnn": "RNNCell"}[self.cell]
                return [f"h = {code.build('cell', f'nn.{kind}({width}, {hidden})')}(xt, h)"]
            case "lstm":
                return [f"h, c = {code.build('cell', f'nn.LSTMCell({width}, {hidden})')}(xt, (h, c))"]
            case "own":
                into = code.build("into", f"nn.Linear({width}, {hidden})")
                again = code.build("again", f"nn.Linear({hidden}, {hidden}, bias=False)")
                return [f"h = torch.tanh({into}(xt) + {again}(h))"]
            case "gated":
                gate = code.build("gate", f"nn.Linear({width + hidden}, {hidden})")
                into = code.build("into", f"nn.Linear({width}, {hidden})")
                return [f"z = torch.sigmoid({gate}(torch.cat([xt, h], 1)))", f"h = z * h + (1 - z) * {into}(xt)"]
        return [f"h = 0.9 * h + 0.1 * {code.build('into', f'nn.Linear({width}, {hidden})')}(xt)"]

    def _head(self, code: Source) -> tuple[str, str]:
        """The head of the loop, and what a step reads."""
        match self.form:
            case "enumerate":
                return "for t, xt in enumerate(x.unbind(1)):", "xt"
            case "zip":
                pairs = "zip(x.unbind(1), torch.sigmoid(x).unbind(1))"
                return f"for t, (xt, weight) in enumerate({pairs}):", "(xt * weight)"
            case "while":
                code.line("t = 0")
                return "while t < x.size(1):", "x[:, t]"
            case "reversed":
                return "for t in reversed(range(x.size(1))):", "x[:, t]"
            case "stride":
                return f"for t in range(0, x.size(1), {self.stride}):", "x[:, t]"
            case "split":
                return f"for t, part in enumerate(x.split({self.stride}, 1)):", "part.mean(1)"
            case "pairs":
                return "for t in range(1, x.size(1)):", "(x[:, t] - x[:, t - 1])"
            case "fixed":
                return f"for t in range(min(x.size(1), {self.last.read(code, 'time')})):", "x[:, t]"
        return "for t in range(x.size(1)):", "x[:, t]"

    def _event(self, code: Source) -> None:
        text = EVENTS[self.event]
        if self.event == "masked":
            if not code.whole:
                return
            code.take("mask", "mask", "batch", "time")
        if "{n}" in text:
            axis = {"wide": "batch", "loud": "value"}.get(self.event, "time")
            text = text.format(n=self.number.read(code, axis))
        code.line(*text.splitlines())
