"""What a model is made of: small objects that write lines, draw themselves and know simpler forms."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

from .number import Number
from .source import Source

HIDDEN = (3, 6, 8)


@dataclass(frozen=True)
class Feature:
    """A step of a model: takes `x` (batch, time, width) and leaves another `x`.

    Attributes:
        PLAIN: field -> its simplest value, for shrinking; flags and numbers know theirs.
    """

    PLAIN: ClassVar[dict[str, object]] = {}

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """One at random."""
        raise NotImplementedError

    def write(self, code: Source) -> None:
        """Put its lines into the module."""
        raise NotImplementedError

    def simpler(self) -> list[Self]:
        """Forms of it with one field at its simplest, or nearer to that."""
        found: list[Self] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Number):
                found += [replace(self, **{field.name: number}) for number in value.simpler()]
            elif value is True:
                found.append(replace(self, **{field.name: False}))
            elif field.name in self.PLAIN and value != self.PLAIN[field.name]:
                found.append(replace(self, **{field.name: self.PLAIN[field.name]}))
        return found


EFFECTS = (
    "x * 0.5",
    "torch.tanh(x)",
    "x + 1.0",
    "x - x.mean(1, keepdim=True)",
    "x - x.mean(0)",
    "x.flip(1)",
    "x[:, ::2]",
    "F.pad(x, (0, 0, 1, 0))",
    "torch.cumsum(x, 1)",
)
KEEP_TIME = tuple(effect for effect in EFFECTS if "::" not in effect and "pad" not in effect)
"""What a guard does to `x`; those of KEEP_TIME leave its shape alone."""


def effect(code: Source, expression: str) -> None:
    """Write an effect."""
    code.whole = code.whole and expression in KEEP_TIME
    code.line(f"x = {expression}")


def one_of(rng: random.Random, values: Sequence[str], plain: float = 0.0) -> str:
    """One of the values; the first with at least the chance `plain`."""
    return values[0] if rng.random() < plain else rng.choice(list(values))
