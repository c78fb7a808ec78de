"""A number that a model compares a size with, and the ways in which people write one."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from .source import Source

WAYS = (
    "literal",
    "attribute",
    "config",
    "dict",
    "tuple",
    "default",
    "property",
    "closure",
    "product",
    "seconds",
    "class",
    "module",
    "buffer",
)
NAMES = ("max_len", "limit", "window", "chunk", "period", "horizon", "span", "burn_in", "cut")
RATE = 50


@dataclass(frozen=True)
class Number:
    """A whole number, and where the source has it from.

    Attributes:
        value: the number.
        way: one of WAYS.
        name: what it is called.
    """

    value: int
    way: str = "literal"
    name: str = "limit"

    @staticmethod
    def draw(rng: random.Random, low: int = 2, high: int = 4096) -> Number:
        """A number from low to high: mostly small, at times far above what an export is likely to try."""
        top = rng.choices([12, 40, 150, 700, 4096], [3, 4, 4, 3, 1])[0]
        value = rng.randint(low, max(low, min(high, top)))
        return Number(value, rng.choice(WAYS), rng.choice(NAMES))

    def simpler(self) -> list[Number]:
        """The same as a literal, and smaller ones."""
        plain = [replace(self, way="literal")] if self.way != "literal" else []
        return plain + [replace(self, value=v) for v in (20, 40, 300) if v < self.value]

    def read(self, code: Source, *axes: str) -> str:
        """An expression of the number; the sizes around it are tried along the axes."""
        for axis in axes:
            code.near.setdefault(axis, set()).add(self.value)
        return self._written(code)

    def _written(self, code: Source) -> str:
        name = code.fresh(self.name) if self.way != "literal" else ""
        match self.way:
            case "attribute":
                return code.build(f"own_{name}", str(self.value))
            case "config":
                code.config[name] = f"int = {self.value}"
                return f"self.cfg.{name}"
            case "dict":
                return code.build(f"options_{name}", f'{{"{name}": {self.value}, "bias": True}}') + f'["{name}"]'
            case "tuple":
                return code.build(f"sizes_{name}", f"(1, {self.value})") + "[1]"
            case "default":
                code.defaults[name] = str(self.value)
                return name
            case "property":
                code.members.append(f"@property\ndef {name}(self):\n    return {self.value}")
                return f"self.{name}"
            case "closure":
                made = f"make_{name}"
                code.module.append(f"\ndef {made}(n):\n    def get():\n        return n\n\n    return get\n")
                return code.build(f"get_{name}", f"{made}({self.value})") + "()"
            case "product":
                part = next((d for d in (2, 3, 5, 7) if self.value % d == 0), 1)
                one, other = code.build(f"fps_{name}", str(part)), code.build(f"for_{name}", str(self.value // part))
                return f"({one} * {other})"
            case "seconds":
                seconds = code.build(f"seconds_{name}", str(self.value / RATE))
                return f"int({seconds} * {RATE})"
            case "class":
                code.members.append(f"{name} = {self.value}")
                return f"self.{name}"
            case "module":
                code.module.append(f"{name.upper()} = {self.value}")
                return name.upper()
            case "buffer":
                return f"int({code.buffer(f'held_{name}', f'torch.tensor({self.value})')})"
        return str(self.value)
