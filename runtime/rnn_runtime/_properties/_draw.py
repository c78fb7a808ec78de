"""Inputs like a recorded example, at any size, from plain numbers that can be written into a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._signature import Signature, TensorSpec

Arrays = dict[str, NDArray[Any]]

VALUES = ("zeros", "one", "ones", "integers", "drawn")
"""What floats are filled with, the simplest first: all zeros; a single one; all ones; whole numbers from -2 to 2;
values like the example's. Ids, booleans and lengths are drawn like the example's in all but the first, which repeats
one."""

DRAWN = VALUES.index("drawn")


@dataclass(frozen=True)
class Draw:
    """Draws all inputs of a model.

    Attributes:
        signature: what the model takes.
        example: one input of each name, whose values others are drawn from.
        sorted_lengths: lengths come longest first, as `enforce_sorted=True` wants them.
        full_lengths: every row fills the axis.
    """

    signature: Signature
    example: Mapping[str, NDArray[Any]]
    sorted_lengths: bool = False
    full_lengths: bool = False

    def __call__(self, sizes: Mapping[str, int], seed: int = 0, values: int = DRAWN) -> Arrays:
        """All inputs by name, of these sizes; the same arguments give the same values."""
        generator = np.random.default_rng(seed)
        return {spec.name: self._one(spec, sizes, generator, VALUES[values]) for spec in self.signature.inputs}

    def _one(
        self, spec: TensorSpec, sizes: Mapping[str, int], generator: np.random.Generator, values: str
    ) -> NDArray[Any]:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes]
        example = self.example[spec.name]
        lengths = self.signature.lengths
        if lengths is not None and spec.name == lengths.input:
            return self._lengths(shape[0], sizes[lengths.axis], lengths.minimum, generator, values).astype(spec.dtype)
        for more in self.signature.more_lengths:
            longest = int(more.axis) if more.axis.isdigit() else sizes.get(more.axis)
            if spec.name == more.input and longest is not None:
                return self._lengths(shape[0], longest, more.minimum, generator, values, more.full).astype(spec.dtype)
        if not any(isinstance(axis, str) for axis in spec.axes):
            return example.copy()  # of one size always: more likely a setting than data
        known = example.ravel()
        constant = not known.size or bool((known == known[0]).all())
        if example.dtype.kind != "f":
            if values == "zeros" and known.size:
                return np.full(shape, known[0], example.dtype)
            if constant and example.dtype == bool:
                return generator.integers(0, 2, shape).astype(bool)
            return known[generator.integers(0, max(1, known.size), shape)]
        state = spec.name in {pair.input for pair in self.signature.states}
        drawn = (
            generator.standard_normal(shape) if constant or state else known[generator.integers(0, known.size, shape)]
        )
        if values == "zeros":
            drawn = np.zeros(shape)
        elif values == "ones":
            drawn = np.ones(shape)
        elif values == "integers":
            drawn = generator.integers(-2, 3, shape)
        elif values == "one":
            drawn = np.zeros(shape)
            if drawn.size:
                drawn.flat[int(generator.integers(0, drawn.size))] = 1
        return np.asarray(drawn, spec.dtype)

    def _lengths(
        self,
        rows: int,
        longest: int,
        minimum: int,
        generator: np.random.Generator,
        values: str,
        full: bool = False,
    ) -> NDArray[Any]:
        if self.full_lengths or values == "zeros" or longest <= minimum:
            return np.full(rows, longest)
        drawn = generator.integers(minimum, longest + 1, rows)
        if rows and (full or self.signature.lengths is None or self.signature.lengths.full):
            drawn[int(generator.integers(0, rows))] = longest
        return np.sort(drawn)[::-1] if self.sorted_lengths else drawn
