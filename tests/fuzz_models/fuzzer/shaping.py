"""Features about sizes: guards, slices, strides, tables, lags, a second sequence."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from .feature import EFFECTS, Feature, effect
from .number import Number
from .source import Source

SIZES = {
    "batch": ("x.size(0)", "x.shape[0]", "len(x)"),
    "time": ("x.size(1)", "x.shape[1]", "x.shape[-2]"),
    "elements": ("x.numel()", "x[..., 0].numel() * x.size(2)", "x.size(0) * x.size(1) * x.size(2)"),
}
COMPARED = (
    "{s} > {n}",
    "{s} >= {n}",
    "{s} < {n}",
    "not {s} <= {n}",
    "{s} == {n}",
    "{s} % {n} == 0",
    "{s} % {n}",
    "{s} // {n} >= 2",
    "{s} in ({n}, 2 * {n})",
    "min({s}, {n}) == {n}",
    "{s} * 0.02 >= {n} * 0.02",
    "{s} / {n} > 1.0",
    "max({s} - {n}, 0)",
    "abs({s} - {n}) < 2",
)


@dataclass(frozen=True)
class Guard(Feature):
    """Another way through the model at some sizes."""

    number: Number
    axis: str
    size: str
    compared: str
    effect: str

    PLAIN: ClassVar[dict[str, object]] = {"compared": COMPARED[0], "effect": EFFECTS[0]}

    @classmethod
    def draw(cls, rng: random.Random) -> Guard:
        axis = rng.choices(list(SIZES), [3, 5, 2])[0]
        number = Number.draw(rng, *{"batch": (2, 48), "time": (2, 4096), "elements": (40, 4096)}[axis])
        return cls(number, axis, rng.choice(SIZES[axis]), rng.choice(COMPARED), rng.choice(EFFECTS))

    def write(self, code: Source) -> None:
        test = self.compared.format(s=self.size, n=self.number.read(code, self.axis))
        with code.block(f"if {test}:"):
            effect(code, self.effect)


CUTS = (
    "x[:, :{n}]",
    "x[:, -{n}:]",
    "x[:, ::{n}]",
    "x[:, {n}:]",
    "x[:, :-{n}]",
    "x[: {n}]",
    "x.narrow(1, 0, min({n}, x.size(1)))",
    "x[:, : x.size(1) // {n} * {n}]",
    "x[:, : int(x.size(1) * 0.7)]",
    "torch.cat([x[:, :{n}], x[:, {n}:] * 0.5], 1)",
    "x[:, max(0, x.size(1) - {n}) :]",
    "x.split({n}, 1)[0]",
    "x.chunk(3, 1)[-1]",
)


@dataclass(frozen=True)
class Cut(Feature):
    """A part of the sequence, or of the batch."""

    number: Number
    cut: str

    @classmethod
    def draw(cls, rng: random.Random) -> Cut:
        cut = rng.choice(CUTS)
        few = "::" in cut or "//" in cut
        return cls(Number.draw(rng, 2, 5 if few else 1500), cut)

    def write(self, code: Source) -> None:
        if "{n}" not in self.cut:
            code.line(f"x = {self.cut}")
        else:
            number = self.number.read(code, "batch" if self.cut == "x[: {n}]" else "time")
            code.line(f"x = {self.cut.format(n=number)}")
        code.whole = False


TABLES = ("sliced", "looked up", "clamped", "wrapped", "blocks", "sine")


@dataclass(frozen=True)
class Table(Feature):
    """Positions, from a table of so many rows."""

    number: Number
    form: str

    PLAIN: ClassVar[dict[str, object]] = {"form": "sliced"}

    @classmethod
    def draw(cls, rng: random.Random) -> Table:
        return cls(Number.draw(rng, 4, 1500), rng.choice(TABLES))

    def write(self, code: Source) -> None:
        n, steps = self.number.read(code, "time"), "torch.arange(x.size(1))"
        rows, width = self.number.value, code.width
        match self.form:
            case "sliced":
                table = code.build("positions", f"nn.Parameter(torch.randn({rows}, {width}))")
                code.line(f"x = x + {table}[: x.size(1)]")
            case "looked up":
                code.line(f"x = x + {code.build('positions', f'nn.Embedding({rows}, {width})')}({steps})")
            case "clamped":
                table = code.build("positions", f"nn.Embedding({rows}, {width})")
                code.line(f"x = x + {table}({steps}.clamp(max={n} - 1))")
            case "wrapped":
                table = code.build("positions", f"nn.Embedding({rows}, {width})")
                code.line(f"x = x + {table}({steps} % {n})")
            case "blocks":
                table = code.build("positions", f"nn.Embedding({4096 // rows + 2}, {width})")
                code.line(f"x = x + {table}({steps} // {n})")
            case _:
                code.line(f"x = x + torch.sin({steps} / {n}).unsqueeze(-1)")


LAGS = (
    "torch.cat([x[:, :{n}] * 0.0, x[:, :-{n}]], 1)",
    "F.pad(x, (0, 0, {n}, 0))[:, :-{n}]",
    "x - x.roll({n}, 1)",
    "x - F.pad(x, (0, 0, {n}, 0))[:, : x.size(1)]",
    "x[:, {n}:] - x[:, :-{n}]",
    "x.cumsum(1) - F.pad(x.cumsum(1), (0, 0, {n}, 0))[:, : x.size(1)]",
    "x.unfold(1, {n}, 1).mean(-1)",
    "x.cumsum(1) / torch.arange(1, x.size(1) + 1).clamp(max={n}).unsqueeze(-1)",
)


@dataclass(frozen=True)
class Lag(Feature):
    """What came n steps before, or the last n steps."""

    number: Number
    lag: str

    @classmethod
    def draw(cls, rng: random.Random) -> Lag:
        return cls(Number.draw(rng, 1, 200), rng.choice(LAGS))

    def write(self, code: Source) -> None:
        code.line(f"x = {self.lag.format(n=self.number.read(code, 'time'))}")
        code.whole = code.whole and "x[:, {n}:]" not in self.lag and "unfold" not in self.lag


READS = ("memory", "memory[:, -{n}:]", "memory[:, :{n}]", "memory[:, ::2] if memory.size(1) > {n} else memory")


@dataclass(frozen=True)
class Memory(Feature):
    """Attention over a second sequence, of a length of its own."""

    number: Number
    read: str

    PLAIN: ClassVar[dict[str, object]] = {"read": "memory"}

    @classmethod
    def draw(cls, rng: random.Random) -> Memory:
        return cls(Number.draw(rng, 2, 300), rng.choice(READS))

    def write(self, code: Source) -> None:
        code.take("memory", "float", "batch", "source", 5)
        query, out = (
            code.build("query", f"nn.Linear({code.width}, 5)"),
            code.build("out", f"nn.Linear(5, {code.width})"),
        )
        code.line(f"seen = {self.read.format(n=self.number.read(code, 'source'))}")
        code.line(f"weights = torch.softmax({query}(x) @ seen.transpose(1, 2), -1)")
        code.line(f"x = x + {out}(weights @ seen)")
