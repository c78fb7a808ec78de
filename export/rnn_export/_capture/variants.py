"""One input changed in many ways, near ones first, so that a decision by its values turns."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Variant = tuple[str, Tensor]

MOST_VALUES = 32
"""Up to this number each whole number is tried, as an id or a length."""


def variants(
    x: Tensor, sizes: Mapping[str, int], numbers: Collection[float], flags: bool, *, few: bool
) -> Iterator[Variant]:
    """The changed inputs, each with what was done in words.

    Args:
        x: the input.
        sizes: of the axes.
        numbers: that were compared with.
        flags: it is a mask, and stays one.
        few: the first ones alone.
    """
    if x.numel() == 0 or x.is_complex():
        return
    if flags:
        found = _masks(x)
    elif x.is_floating_point():
        found = _floats(x, numbers)
    else:
        found = _whole(x, sizes, numbers)
    for k, (label, tensor) in enumerate(found):
        if few and k >= FEW:
            return
        yield label, tensor.to(x.dtype)


FEW = 12
"""Of the variants at larger sizes, the first: there a call takes long."""


def is_flags(x: Tensor) -> bool:
    """Whether an input is of booleans, or holds both 0 and 1 and nothing else."""
    return x.dtype is torch.bool or set(x.unique().tolist()) == {0, 1}


def _with(x: Tensor, index: Any, value: Any) -> Tensor:
    filled = x.clone()
    filled[index] = value
    return filled


def _flat(x: Tensor, index: int, value: Any) -> Tensor:
    filled = x.clone(memory_format=torch.contiguous_format)
    filled.view(-1)[index] = value
    return filled


def _masks(x: Tensor) -> Iterator[Variant]:
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    yield "all ones", ones
    yield "all zeros", zeros
    for index, place in ((0, "first"), (-1, "last")):
        yield f"zeros but the {place}", _flat(zeros, index, 1)
        yield f"ones but the {place}", _flat(ones, index, 0)
        if x.dim() > 1:
            yield f"ones but the {place} row", _with(ones, index, 0)
            yield f"zeros but the {place} row", _with(zeros, index, 1)
            yield f"ones but the {place} column", _with(ones, (slice(None), index), 0)
            yield f"zeros but the {place} column", _with(zeros, (slice(None), index), 1)
    if x.dim() > 1:
        yield "ones up to another place in each row", torch.ones(x.shape).transpose(0, 1).triu().transpose(0, 1)
        yield "ones from another place on in each row", torch.ones(x.shape).triu()


def _floats(x: Tensor, numbers: Collection[float]) -> Iterator[Variant]:
    powers = sorted(range(-7, 8), key=abs)
    finite = x[x.isfinite()].double()
    largest = (float(finite.abs().max()) if finite.numel() else 0.0) or 1.0
    yield "all zeros", torch.zeros_like(x)
    yield "negative", -x.abs()
    for power in powers[1:]:
        yield f"times 1e{power}", x * 10.0**power
    for number in sorted(numbers, key=abs):
        for share in (1.01, 0.99, 2.0):
            yield f"up to {number * share:g}", x * (number * share / largest)
            yield f"all {number * share:g}", torch.full_like(x, number * share)
        yield f"around {number:g}", x + number
    for power in powers:
        yield f"plus 1e{power}", x + 10.0**power
        yield f"minus 1e{power}", x - 10.0**power
        yield f"all 1e{power}", torch.full_like(x, 10.0**power)
        yield f"times -1e{power}", -x * 10.0**power
    yield "with one large value", _flat(x, 0, 1e6)
    yield "with one large negative value", _flat(x, -1, -1e6)
    yield "in order", x.flatten().sort().values.reshape(x.shape)
    yield "in falling order", x.flatten().sort(descending=True).values.reshape(x.shape)
    if x.dim():
        yield "with equal rows", x[:1].expand(x.shape).clone()
        yield "with a first row of zeros", _with(x, 0, 0.0)
        yield "with a last row of zeros", _with(x, -1, 0.0)
    if x.dim() > 1:
        yield "with equal columns", x[:, :1].expand(x.shape).clone()
        yield "with a first column of zeros", _with(x, (slice(None), 0), 0.0)
        yield "with a last column of zeros", _with(x, (slice(None), -1), 0.0)
    for special in (math.nan, math.inf, -math.inf):
        yield f"with one {special}", _flat(x, 0, special)
        yield f"with one {special} at the end", _flat(x, -1, special)
        yield f"all {special}", torch.full_like(x, special)


def _whole(x: Tensor, sizes: Mapping[str, int], numbers: Collection[float]) -> Iterator[Variant]:
    low, high = int(x.min()), int(x.max())
    largest = torch.iinfo(x.dtype).max
    named = sorted({int(n) + more for n in numbers if math.isfinite(n) for more in (0, 1, -1)}, key=abs)
    lengths = sorted(set(sizes.values()), reverse=True) if x.dim() == 1 else []
    values = [*lengths, high, low, *named, *range(MOST_VALUES + 1), -1, *(2**k for k in range(6, 17)), high + 1]
    for value in dict.fromkeys(v for v in values if -largest <= v <= largest):
        if value < 0 and not x.dtype.is_signed:
            continue
        yield f"all {value}", torch.full_like(x, value)
        yield f"with one {value}", _flat(x, 0, value)
        yield f"with one {value} at the end", _flat(x, -1, value)
    yield "in order", x.flatten().sort().values.reshape(x.shape)
    yield "in falling order", x.flatten().sort(descending=True).values.reshape(x.shape)
    if x.dim() == 1:  # lengths
        for longest in lengths:
            yield f"from {longest} down", torch.arange(longest, longest - x.numel(), -1).clamp(min=1)
            yield f"up to {longest}", torch.arange(longest - x.numel() + 1, longest + 1).clamp(min=1)
