"""The text of a module while features write it, and what a harness has to know of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Dims = tuple[str | int, ...]
"""An input: its kind, then for each dimension the name of an axis or a size."""

WIDTH = 4
"""Features of each time step that comes in."""


@dataclass
class Source:
    """A module that grows line by line; `x` is (batch, time, width) between any two features.

    Attributes:
        width: the last size of `x`, which features change.
        inputs: argument of forward -> its kind and dimensions.
        near: axis -> the numbers that the module compares it with.
        results: what forward returns, as name -> expression.
        kept: the module keeps state between calls.
        whole: `x` still has the time steps of the input.
    """

    width: int = WIDTH
    inputs: dict[str, Dims] = field(default_factory=dict)
    near: dict[str, set[float]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=lambda: {"y": "x"})
    kept: bool = False
    whole: bool = True
    imports: set[str] = field(default_factory=set)
    config: dict[str, str] = field(default_factory=dict)
    module: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    defaults: dict[str, str] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)
    _depth: int = 0

    def fresh(self, stem: str) -> str:
        """A name that nothing else has: the stem, and from the second on a number."""
        self._names[stem] = self._names.get(stem, 0) + 1
        return stem if self._names[stem] == 1 else f"{stem}{self._names[stem]}"

    def build(self, stem: str, value: str) -> str:
        """Put an attribute into __init__; gives how forward reads it."""
        name = self.fresh(stem)
        self.built.append(f"self.{name} = {value}")
        return f"self.{name}"

    def buffer(self, stem: str, value: str) -> str:
        """Put a buffer into __init__; gives how forward reads it."""
        name = self.fresh(stem)
        self.built.append(f'self.register_buffer("{name}", {value})')
        return f"self.{name}"

    def take(self, name: str, *dims: str | int) -> str:
        """An argument of forward, the same for all who ask for it."""
        self.inputs.setdefault(name, dims)
        return name

    def line(self, *texts: str) -> None:
        """Put lines into forward."""
        self.body += ["    " * self._depth + text for text in texts]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines below an `if`, `for` or `while`."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def text(self) -> str:
        """The module as Python, from its imports to the end of forward."""
        self._check_depth()
        lines = [*sorted(self.imports), *(["from dataclasses import dataclass"] if self.config else [])]
        lines = [*lines, *([""] if lines else []), "import torch", "import torch.nn.functional as F"]
        lines += ["from torch import nn"]
        if self.config:
            lines += ["", "", "@dataclass", "class Config:"]
            lines += [f"    {name}: {value}" for name, value in self.config.items()]
        for text in self.module:
            lines += ["", *text.splitlines()]
        lines += ["", "", "class Model(nn.Module):"]
        made = ["super().__init__()", *(["self.cfg = Config()"] if self.config else []), *self.built]
        lines += _function("def __init__(self):", made)
        for text in self.members:
            lines += ["", *("    " + line for line in text.splitlines())]
        taken = ", ".join(["self", *self.inputs, *(f"{name}={value}" for name, value in self.defaults.items())])
        return "\n".join([*lines, "", *_function(f"def forward({taken}):", [*self.first, *self.body])]) + "\n"

    def _check_depth(self) -> None:
        if self._depth:
            raise AssertionError("a block was left open")


def _function(head: str, lines: list[str]) -> list[str]:
    return [f"    {head}", *(f"        {line}" for line in lines)]
