"""A case: a file of Python that holds a model, its inputs, how to export it, and the numbers to try it at."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .source import WIDTH

LARGEST = 4100
BATCHES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 33)
TIMES = (1, 2, 3, 4, 6, 8, 11, 13, 20, 21, 31, 32, 33, 50, 64, 65, 100, 127, 128, 129, 257, 500)
SOURCES = (1, 2, 5, 9, 17, 40, 100)


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        sizes: axis -> size.
        kind: of the values of floats.
        near: the largest value, where that matters.
    """

    sizes: dict[str, int]
    kind: str = "normal"
    near: float = 0.0

    def __str__(self) -> str:
        sizes = ", ".join(f"{axis} {size}" for axis, size in self.sizes.items())
        return (
            sizes
            + (f", {self.kind} values" if self.kind != "normal" else "")
            + (f" to {self.near:g}" * bool(self.near))
        )


@dataclass(frozen=True)
class Case:
    """What a file of a case says; the names are those of the file, in lower case."""

    path: Path
    seed: int
    inputs: dict[str, tuple[Any, ...]]
    example: dict[str, int]
    export: dict[str, Any]
    near: dict[str, list[float]]
    calls: int
    values: tuple[str, ...]
    fails: str

    @staticmethod
    def read(path: Path) -> tuple[Case, type[nn.Module]]:
        """The case of a file, and its model's class."""
        spec = importlib.util.spec_from_file_location(f"fuzzed_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for their module
        spec.loader.exec_module(module)
        said = {name.lower(): value for name, value in vars(module).items() if name.isupper()}
        facts = ("seed", "inputs", "example", "export", "near", "calls", "values")
        return Case(path, **{fact: said[fact] for fact in facts}, fails=said.get("fails", "")), module.Model

    def axes(self) -> list[str]:
        """The axes that its inputs have, in the order of the inputs."""
        return list(dict.fromkeys(d for _, *dims in self.inputs.values() for d in dims if isinstance(d, str)))

    def free(self) -> set[str]:
        """The axes that the export leaves dynamic; the others keep the example's size."""
        return {axis for axes in self.export["axes"].values() for axis in axes.values()}

    def at(self, **sizes: int) -> dict[str, int]:
        """Sizes for all axes: those given where the axis is free, else the example's."""
        free = self.free()
        return {
            axis: sizes.get(axis, self.example[axis]) if axis in free else self.example[axis] for axis in self.axes()
        }

    def arguments(self, call: Call, rng: torch.Generator) -> tuple[torch.Tensor, ...]:
        """The model's arguments for a call, in order."""
        return tuple(
            _drawn(kind, [d if isinstance(d, int) else call.sizes[d] for d in dims], call, rng)
            for kind, *dims in self.inputs.values()
        )


def plan(case: Case) -> list[list[Call]]:
    """Sequences of calls to compare: one each, or as many as state between calls needs."""
    rng = random.Random(case.seed)
    around = [case.at(**sizes) for sizes in _around(case)]
    any_size = [
        case.at(batch=rng.choice(BATCHES), time=rng.choice(TIMES), source=rng.choice(SOURCES)) for _ in range(8)
    ] + [case.at(batch=1, time=rng.randint(1, 300), source=rng.choice(SOURCES)) for _ in range(16)]
    if case.calls > 1:
        return [
            [
                Call(case.at(batch=batch, time=rng.choice(TIMES[3:12])), rng.choice(case.values))
                for _ in range(case.calls)
            ]
            for batch in (2, 1, 3)
        ] + [[Call(sizes)] for sizes in around]
    small = case.at(batch=3, time=17, source=11)
    kinds = [Call(small, kind) for kind in case.values] + [Call(case.example | case.at(), "normal")]
    values = [Call(small, "to", v * f) for v in case.near.get("value", []) for f in (0.5, 0.999, 1.001, 3.0)]
    apart: list[Call] = []
    for call in (*(Call(sizes) for sizes in (*around, *any_size)), *kinds, *values):
        if call not in apart:
            apart.append(call)
    return [[call] for call in apart]


def _around(case: Case) -> list[dict[str, int]]:
    """Sizes just around each number of the model, and around its double."""
    found: list[dict[str, int]] = []
    for axis, numbers in case.near.items():
        for number in map(int, numbers):
            if axis in ("batch", "time", "source"):
                more = [2 * number - 1, 2 * number, 2 * number + 1] if number <= LARGEST // 4 else []
                for size in [number - 1, number, number + 1, number + 2, *more]:
                    if 1 <= size <= LARGEST:
                        found.append({"batch": 1 if size > 300 else 2, "time": 6, axis: size})
            elif axis == "elements":
                found += [
                    {"batch": b, "time": t + d}
                    for b in (1, 3)
                    for t in (max(1, number // (WIDTH * b)),)
                    for d in (0, 1)
                ]
    return found


def _drawn(kind: str, shape: Sequence[int], call: Call, rng: torch.Generator) -> torch.Tensor:
    steps = call.sizes.get("time", 1)
    match kind:
        case "ids":
            extreme = {"zeros": 0, "loud": 49}.get(call.kind)
            return torch.randint(0, 50, shape, generator=rng) if extreme is None else torch.full(shape, extreme)
        case "mask":
            extreme = {"zeros": False, "loud": True}.get(call.kind)
            return torch.rand(shape, generator=rng) < 0.7 if extreme is None else torch.full(shape, extreme)
        case "lengths":
            extreme = {"zeros": 1, "loud": steps}.get(call.kind)
            if extreme is None:
                return torch.randint(1, steps + 1, shape, generator=rng)
            return torch.full(shape, extreme)
    x = torch.randn(shape, generator=rng)
    match call.kind:
        case "zeros":
            return torch.zeros(shape)
        case "loud":
            return x * 100
        case "huge":
            return x * 1e6
        case "tiny":
            return x * 1e-6
        case "negative":
            return -x.abs()
        case "equal":
            return x[:1].expand(*shape).clone()
        case "offset":
            return x + 1000
        case "ties":
            return x.round()
        case "to":
            return x / x.abs().max() * call.near
        case "nan" | "infinite":
            x.view(-1)[0] = float("nan" if call.kind == "nan" else "inf")
    return x
