"""Inputs like the example, at any size."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnn_runtime import LengthsSpec, Signature

from .axes import Axes, dynamic


@dataclass(frozen=True)
class Sampler:
    """Draws inputs of chosen sizes.

    Their values are drawn from the example's own, so that ids stay ids and one-hot rows stay zeros and ones. Where the
    example is constant, numbers are drawn from a normal distribution and booleans by a coin.

    Attributes:
        lengths: the inputs that hold lengths, once known, each with the axis that they count along, or an expression
            in the axes.
        fixed_length: what all rows but the longest have.
        sorted_lengths: longest first, as enforce_sorted=True wants them.
        full_lengths: the longest length is the whole axis, as a model needs that adds packed to padded data.
        short_lengths: the longest length is always below the axis; else in half of the draws.
        masks: the masks of an example whose rows are first one value and then the other are drawn so; else any.
        normal: inputs drawn from a normal distribution whatever the example holds (initial states, whose example is
            zeros).
    """

    names: Sequence[str]
    axes: Axes
    example: Sequence[Tensor]
    lengths: tuple[LengthsSpec, ...] = ()
    fixed_length: int | None = None
    sorted_lengths: bool = False
    full_lengths: bool = False
    short_lengths: bool = False
    masks: bool = False
    normal: frozenset[str] = frozenset()

    @classmethod
    def of(cls, signature: Signature, example: Sequence[Tensor], lengths: Sequence[LengthsSpec] = ()) -> Sampler:
        """The sampler of a model whose signature is known, and all inputs that hold lengths, where there are more."""
        return cls(
            names=[spec.name for spec in signature.inputs],
            axes={spec.name: dynamic(spec) for spec in signature.inputs},
            example=example,
            lengths=tuple(lengths) or ((signature.lengths,) if signature.lengths else ()),
            normal=frozenset(state.input for state in signature.states),
        )

    def ways(self) -> list[Sampler]:
        """This one and, where there are lengths, those that draw what every model takes.

        Models that pack with enforce_sorted=True, or add packed to padded data, refuse other lengths. The same with
        masks that tell lengths, where the example has such.
        """
        more = [replace(self, sorted_lengths=True), replace(self, sorted_lengths=True, full_lengths=True)]
        ways = [self, *(more if self.lengths else [])]
        masks = any(self._is_mask(name, example) for name, example in zip(self.names, self.example, strict=True))
        return [*ways, *(replace(way, masks=True) for way in ways if masks)]

    def _is_mask(self, name: str, example: Tensor) -> bool:
        """Whether each row along the last axis is one of two values first, and then the other, not all rows alike."""
        if example.dim() < 2 or example.dim() - 1 not in self.axes[name] or example.unique().tolist() != [0, 1]:
            return False
        changes = (example[..., 1:] != example[..., :-1]).sum(-1)
        first = example[..., 0][changes > 0].unique()
        return bool((changes <= 1).all()) and len(first) == 1

    def draw(self, sizes: Mapping[str, int], seed: int) -> list[Tensor]:
        """Inputs in order. The same sizes and seed give the same values."""
        generator = torch.Generator().manual_seed(seed)
        return [
            self._one(name, example, sizes, generator) for name, example in zip(self.names, self.example, strict=True)
        ]

    def _one(self, name: str, example: Tensor, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
        shape = [
            sizes[self.axes[name][dim]] if dim in self.axes[name] else size for dim, size in enumerate(example.shape)
        ]
        for spec in self.lengths:
            if name == spec.input:
                return self._lengths(spec, shape[0], size_of(spec.axis, sizes), generator).to(example.dtype)
        setting = any(self.axes.values()) or example.numel() == 1  # of one size among others that change: no data
        if not self.axes[name] and setting and name not in self.normal:
            return example.clone()
        values = example.flatten()
        constant = values.numel() == 0 or bool((values == values[0]).all())
        if name in self.normal or (constant and example.dtype.is_floating_point):
            return torch.randn(shape, generator=generator).to(example.dtype)
        if constant and example.dtype is torch.bool:
            return torch.randint(0, 2, shape, generator=generator).bool()
        if self.masks and self._is_mask(name, example):
            first = int(example[..., 0][example[..., 0] != example[..., -1]][0])
            ends = torch.randint(1, shape[-1] + 1, (*shape[:-1], 1), generator=generator)
            return torch.where(torch.arange(shape[-1]) < ends, first, 1 - first).to(example.dtype)
        return values[torch.randint(0, values.numel(), shape, generator=generator)]

    def _lengths(self, spec: LengthsSpec, batch: int, longest: int, generator: torch.Generator) -> Tensor:
        # Half of the draws leave the last steps of every row empty: PyTorch then returns fewer steps than it was given.
        short = self.short_lengths or bool(torch.randint(0, 2, (), generator=generator))
        least = spec.minimum
        if longest > max(least, 1) and short and not (self.full_lengths or spec.full):
            longest -= 1
        lengths = torch.randint(min(least, longest), longest + 1, (batch,), generator=generator)
        if self.fixed_length is not None:
            lengths.fill_(self.fixed_length)
        lengths[int(torch.randint(0, batch, (), generator=generator))] = longest
        return lengths.sort(descending=True).values if self.sorted_lengths else lengths


def size_of(axis: str, sizes: Mapping[str, int]) -> int:
    """The size of an axis, or of an expression in the names of axes such as "((width-3)//2)+1"."""
    if axis in sizes:
        return sizes[axis]
    known = {"Max": max, "Min": min, "Mod": operator.mod, "ceiling": math.ceil, "floor": math.floor}
    return int(eval(axis, {"__builtins__": {}}, {**known, **sizes}))  # made by SymPy from the traced program
