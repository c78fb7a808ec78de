"""A whole model: how it begins, its features, what it returns, and how it is exported."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pprint import pformat

from .feature import Feature
from .layers import Piece, Recurrent
from .loops import Loop
from .operators import Operator
from .shaping import Cut, Guard, Lag, Memory, Table
from .source import WIDTH, Source
from .values import Decision, Kept, Mask

BEGINNINGS = ("batch", "time", "ids")
RETURNED = ("tensor", "tuple", "dict", "dataclass", "named", "last", "mean", "list", "valid")
AROUND: dict[type[Feature], int] = {
    Guard: 6,
    Cut: 3,
    Operator: 5,
    Piece: 5,
    Lag: 2,
    Table: 2,
    Decision: 2,
    Mask: 2,
    Memory: 1,
    Kept: 2,
}
"""What stands before and after the recurrent part, and how often."""
VALUES = ("normal", "zeros", "loud", "huge", "tiny", "negative", "equal", "offset", "ties")


@dataclass(frozen=True)
class Options:
    """How a model is exported and compared: all options of the export, the example's sizes, and kinds of values."""

    state: str = "auto"
    named: tuple[str, ...] = ("batch", "time", "source")
    batch: int = 2
    time: int = 7
    values: tuple[str, ...] = VALUES

    @staticmethod
    def draw(rng: random.Random) -> Options:
        """Mostly what people write first."""
        state = rng.choices(["auto", "lift", "none"], [8, 2, 1])[0]
        named = rng.choices([("batch", "time", "source"), ("time", "source"), ("batch", "source")], [8, 1, 1])[0]
        values = VALUES + (("nan", "infinite") if rng.random() < 0.1 else ())
        return Options(state, named, rng.choice([2, 2, 3]), rng.choice([5, 7, 7, 9, 16]), values)

    def simpler(self) -> list[Options]:
        """With one option at its default."""
        plain = Options()
        found = [replace(self, state=plain.state)] if self.state != plain.state else []
        found += [replace(self, named=plain.named)] if self.named != plain.named else []
        return found + ([replace(self, values=VALUES)] if self.values != VALUES else [])


@dataclass(frozen=True)
class Model:
    """A model as its features; `text` is the module that they make.

    Attributes:
        seed: what it was drawn from.
        begins: batch or time first, or ids of an embedding.
        features: in order.
        returned: the form of the result.
        options: of the export.
    """

    seed: int
    begins: str
    features: tuple[Feature, ...]
    returned: str
    options: Options = field(default_factory=Options)

    def text(self) -> str:
        """The module, with what a harness has to know at its end."""
        code = Source()
        _begin(self.begins, code)
        for feature in self.features:
            feature.write(code)
        _return(self.returned, code)
        facts = {
            "SEED": self.seed,
            "INPUTS": code.inputs,
            "EXAMPLE": {"batch": self.options.batch, "time": self.options.time, "source": 9},
            "EXPORT": {"state": self.options.state, "axes": _axes(code, self.options.named)},
            "NEAR": {axis: sorted(numbers) for axis, numbers in sorted(code.near.items())},
            "CALLS": 3 + max((int(n) for n in code.near.get("calls", ())), default=1) if code.kept else 1,
            "VALUES": self.options.values,
        }
        tail = [f"{name} = {pformat(value, width=110, sort_dicts=False)}" for name, value in facts.items()]
        return code.text() + "\n\n" + "\n".join(tail) + "\n"

    def simpler(self) -> list[Model]:
        """Models that are a step smaller: fewer features first, then simpler ones."""
        n = len(self.features)
        found = [replace(self, features=self.features[i : i + n // 2]) for i in (0, n - n // 2)] if n > 3 else []
        found += [replace(self, features=self.features[:i] + self.features[i + 1 :]) for i in range(n) if n > 1]
        found += [replace(self, options=options) for options in self.options.simpler()]
        found += [replace(self, begins="batch")] if self.begins != "batch" else []
        found += [replace(self, returned="tensor")] if self.returned != "tensor" else []
        for i, feature in enumerate(self.features):
            found += [
                replace(self, features=(*self.features[:i], simple, *self.features[i + 1 :]))
                for simple in feature.simpler()
            ]
        return found


def draw(seed: int, again: int = 0) -> Model:
    """A model of a seed: the first, or another of the same seed. It need not run."""
    rng = random.Random(f"{seed} {again}")

    def around(*often: int) -> list[Feature]:
        count = rng.choices(range(len(often)), often)[0]
        return [kind.draw(rng) for kind in rng.choices(list(AROUND), list(AROUND.values()), k=count)]

    def core() -> Feature:
        return Loop.draw(rng) if rng.random() < 0.55 else Recurrent.draw(rng)

    features = [*around(3, 5, 3, 1), core(), *around(5, 3, 1)]
    if rng.random() < 0.12:
        features += [core(), *around(2, 1)]
    begins = rng.choices(BEGINNINGS, [8, 1, 1])[0]
    returned = rng.choices(RETURNED, [6, 2, 2, 1, 1, 3, 1, 1, 1])[0]
    return Model(seed, begins, tuple(features), returned, Options.draw(rng))


def _axes(code: Source, named: tuple[str, ...]) -> dict[str, dict[int, str]]:
    """The axes of each input that has data in it; a state's follow by themselves."""
    axes = {
        name: {i: axis for i, axis in enumerate(dims[1:]) if isinstance(axis, str) and axis in named}
        for name, dims in code.inputs.items()
    }
    return {name: dims for name, dims in axes.items() if dims}


def _begin(begins: str, code: Source) -> None:
    match begins:
        case "time":
            code.take("x", "float", "time", "batch", WIDTH)
            code.line("x = x.transpose(0, 1)")
        case "ids":
            code.take("x", "ids", "batch", "time")
            code.line(f"x = {code.build('embed', f'nn.Embedding(50, {WIDTH})')}(x)")
        case _:
            code.take("x", "float", "batch", "time", WIDTH)


def _return(returned: str, code: Source) -> None:
    results = code.results
    match returned:
        case "last":
            results["y"] = "x[:, -1]"
        case "mean":
            results["y"] = "x.mean(1)"
        case "valid" if code.whole:
            code.take("lengths", "lengths", "batch")
            results["y"] = "x[torch.arange(x.size(0)), lengths - 1]"
    values = ", ".join(results.values())
    match returned:
        case "dict":
            code.line("return {" + ", ".join(f'"{name}": {value}' for name, value in results.items()) + "}")
        case "dataclass":
            code.imports.add("import dataclasses")
            fields = "".join(f"    {name}: torch.Tensor\n" for name in results)
            code.module.append(f"\n@dataclasses.dataclass\nclass Output:\n{fields}")
            code.line(f"return Output({values})")
        case "named":
            code.imports.add("from typing import NamedTuple")
            code.module.append("\nclass Output(NamedTuple):\n" + "".join(f"    {n}: torch.Tensor\n" for n in results))
            code.line(f"return Output({values})")
        case "list":
            code.line(f"return [{values}]")
        case "tuple":
            code.line(f"return {values}, x.mean(1)")
        case _:
            code.line(f"return {values}")
