"""Whether the rolled module is the model, at lengths far from those that it was made from."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._capture.module import REFUSED, float64, wide_copy
from .._capture.prepare import Prepared
from .._capture.sample import Sampler
from .._quiet import quiet
from .loops import Unalike

LENGTHS = (1, 2, 3, 13, 64)
LONG = 257
LONGEST = 2050
TOLERANCE = 1e-6
"""Times the largest value where that is above 1. In float64 rounding stays far below, and a wrong step far above."""


def require_equal(prepared: Prepared, rolled: nn.Module, axis: str) -> None:
    """Run both in float64 at several lengths of the axis.

    One of them is beyond every whole number in the model's code and attributes: a loop that does something else from
    some step on, or stops there, shows.

    Raises:
        Unalike: they differ.
    """
    model, other = wide_copy(prepared.flat), wide_copy(rolled)
    longest = max([LONG, *(number + 2 for number in _numbers(prepared.flat.model) if number + 2 <= LONGEST)])
    sampler = Sampler(prepared.names, prepared.axes, prepared.traced)
    for length in (*LENGTHS, longest):
        drawn = sampler.draw({**prepared.sizes, axis: length}, seed=length)
        inputs = [tensor.double() if tensor.is_floating_point() else tensor for tensor in drawn]
        with quiet(), torch.no_grad(), float64():
            try:
                want = model(*(tensor.clone() for tensor in inputs))
            except (*REFUSED, NameError):
                continue  # a length that the model itself does not take
            try:
                got = other(*(tensor.clone() for tensor in inputs))
            except REFUSED as error:
                reason = str(error).strip().splitlines()[0]
                raise Unalike(f"the loop of {length} steps is another one than that of few ({reason})") from None
        if not all(_equal(a, b) for a, b in zip(want, got, strict=True)):
            raise Unalike(f"the loop of {length} steps does something else than that of few")


def _equal(want: Tensor, got: Tensor) -> bool:
    if want.shape != got.shape:
        return False
    if not want.is_floating_point():
        return torch.equal(want, got)
    finite = want[want.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    return bool(torch.allclose(want, got.to(want.dtype), rtol=0, atol=TOLERANCE * scale, equal_nan=True))


def _numbers(model: nn.Module) -> Iterator[int]:
    """The whole numbers in the attributes and the code of a model's modules."""
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        yield from (value for value in vars(module).values() if _is_number(value))
        for owner in type(module).__mro__:
            if owner is not nn.Module and not owner.__module__.startswith("torch."):
                for value in vars(owner).values():
                    if isinstance(value, types.FunctionType):
                        yield from _constants(value.__code__)
                    elif _is_number(value):
                        yield value


def _constants(code: types.CodeType) -> Iterator[int]:
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _constants(value)
        elif _is_number(value):
            yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
