"""Calls of copies of a model in which something that it keeps is overwritten."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._equal import all_equal
from .._quiet import quiet
from . import spots
from .module import Flat, copied
from .spots import Spot

TOLERANCE = 1e-6
"""Two runs of one model in float32, times the largest value where that is above 1."""
COUNTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 100, 10**6)
"""What is put in the place of whole numbers."""
PROBES = 2

Results = list[Tensor] | None
"""None where the model does not take the inputs."""


class Probes:
    """Calls of copies in which one place is overwritten.

    Attributes:
        moves: the other places that change where one is overwritten.
    """

    def __init__(self, bases: list[Flat], inputs: list[list[Tensor]], found: list[Spot]) -> None:
        self._bases, self._inputs, self._found = bases, inputs, found
        self._paths = {spot: paths(spot, bases[0], bases[1:]) for spot in found}
        self._wanted: dict[tuple[int, int], tuple[Results, Flat]] = {}
        self.moves: dict[Spot, set[Spot]] = {spot: set() for spot in found}

    def _want(self, base: int, probe: int) -> tuple[Results, Flat]:
        if (base, probe) not in self._wanted:
            model = copied(self._bases[base])
            self._wanted[base, probe] = call(model, self._inputs[probe]), model
        return self._wanted[base, probe]

    def replayed(self, spot: Spot, used: Sequence[Flat]) -> bool:
        """Whether results move where a fresh copy gets what calls have left at a place."""
        for one in used:
            for probe, given in enumerate(self._inputs):
                model = copied(self._bases[0])
                spot.write(model.model, spot.read(copied(one).model))
                if not alike(call(model, given), self._want(0, probe)[0]):
                    return True
        return False

    def overwritten(self, spot: Spot) -> bool:
        """Whether results move where other values are written to a place."""
        generator = torch.Generator().manual_seed(0)
        for count in COUNTS:
            for base, probe in itertools.product(range(len(self._bases)), range(len(self._inputs))):
                results, after = self._want(base, probe)
                model = copied(self._bases[base])
                value = spot.read(model.model)
                if not spots.leaves(value).keys() & self._paths[spot]:
                    continue  # nothing there yet
                wrong = functools.partial(_other, count=count, generator=generator)
                spot.write(model.model, spots.overwritten(value, self._paths[spot], wrong))
                if not alike(call(model, self._inputs[probe]), results):
                    return True
                self.moves[spot] |= {s for s in self._found if s != spot and changes(s, after, model)}
        return False


def paths(spot: Spot, fresh: Flat, used: Sequence[Flat]) -> set[spots.Path]:
    """The ways to what changes at a place, and to what stands in one list with it."""
    was = spot.read(fresh.model)
    found: set[spots.Path] = set()
    for one in used:
        value = spot.read(one.model)
        direct = spots.changed(was, value)
        rows = {path[:-1] for path in direct if path and isinstance(path[-1], int)}
        found |= direct | {path for path in spots.leaves(value) if path[:-1] in rows}
    return found


def changes(spot: Spot, before: Flat, after: Flat) -> bool:
    return bool(spots.changed(spot.read(before.model), spot.read(after.model)))


def _other(leaf: Any, count: int, generator: torch.Generator) -> Any:
    """Another value of the same kind, the `count`-th: large and random ones, zeros, and small whole numbers."""
    if isinstance(leaf, np.ndarray):
        return _other(torch.from_numpy(leaf), count, generator).numpy() if leaf.dtype.kind in "biuf" else leaf
    if isinstance(leaf, Tensor):
        if leaf.dtype is torch.bool:
            return torch.full_like(leaf, bool(count % 2))
        if leaf.is_floating_point() or leaf.is_complex():
            noise = torch.randn(leaf.shape, generator=generator).to(leaf.dtype)
            return [torch.zeros_like(leaf), noise, noise * 1e3, noise.abs() * 1e6, noise * 1e-3][count % 5]
        return torch.full_like(leaf, min(count, torch.iinfo(leaf.dtype).max))
    if isinstance(leaf, bool):
        return not leaf
    if isinstance(leaf, int | float):
        return type(leaf)(count)
    return leaf


def clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]  # a model may write into its inputs


def call(model: Any, inputs: Sequence[Tensor]) -> Results:
    with quiet(), torch.no_grad():
        try:
            return [tensor.clone() for tensor in model(*clones(inputs))]
        except Exception:  # inputs that the model does not take: the first ones are called elsewhere, where it is said
            return None


def alike(a: Results, b: Results) -> bool:
    return a is b if a is None or b is None else all_equal(a, b, TOLERANCE)
