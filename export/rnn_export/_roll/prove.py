"""Whether the rolled module is the model, at lengths far from those that it was made from."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._capture.module import REFUSED, float64, wide_copy
from .._capture.prepare import Prepared
from .._capture.sample import Sampler
from .._quiet import quiet
from .ir import Unalike
from .lengths import Length

LENGTHS = (1, 2, 3, 13, 64)
MOST = 21
"""Up to this length all are tried, so that what a model does at each nth length, or up to some length, shows."""
LONG = 257
LONGEST = 2050
LONGEST_NAMED = 512
"""Of the numbers in a model's code, up to this one each is tried by itself: longer loops take long."""
TOLERANCE = 1e-6
"""Times the largest value where that is above 1. In float64 rounding stays far below, and a wrong step far above."""


def require_equal(prepared: Prepared, rolled: nn.Module, lengths: Sequence[Length]) -> None:
    """Run both in float64 at several lengths of the axes that loops go over.

    Among them are the whole numbers in the model's code and attributes, and one beyond them all: a loop that does
    something else at some length, at some step or from there on, or stops there, shows, also where later steps forget.

    Raises:
        Unalike: they differ.
    """
    model, other = wide_copy(prepared.flat), wide_copy(rolled)
    named = {number for number in whole_numbers(prepared.flat.model) if 0 < number <= LONGEST - 2}
    longest = max([LONG, *(number + 2 for number in named)])
    sampler = Sampler(prepared.names, prepared.axes, prepared.traced)
    for point, rest in _trials(named, longest, lengths):
        drawn = sampler.draw(_sizes(prepared, lengths, point, rest), seed=point[0])
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
                raise Unalike(f"the loop of {_said(point)} steps is another one than that of few ({reason})") from None
        if not all(_equal(a, b) for a, b in zip(want, got, strict=True)):
            raise Unalike(f"the loop of {_said(point)} steps does something else than that of few")


def _points(longest: int, count: int) -> list[tuple[int, ...]]:
    """The lengths to try, short ones of one axis with long ones of another."""
    if count == 1:
        return [(length,) for length in (*LENGTHS, longest)]
    pairs = zip(LENGTHS, reversed(LENGTHS), strict=True)
    return [*pairs, (LENGTHS[0], LENGTHS[0]), (longest, LENGTHS[2]), (LENGTHS[2], longest)]


def _trials(named: Collection[int], longest: int, lengths: Sequence[Length]) -> Iterator[tuple[tuple[int, ...], int]]:
    """The lengths to try, and by how much the axes are larger than that needs.

    Args:
        named: lengths at which the model may do something else, and the steps after which it may.
        longest: the longest to try.
        lengths: what loops go over.
    """
    points = _points(longest, len(lengths))
    yield from ((point, 0) for point in points)
    rests = sorted({rest for length in lengths for rest in length.rests})
    for rest in rests:
        none = tuple(0 if rest in length.rests else LENGTHS[2] for length in lengths)
        yield from ((point, rest) for point in (none, *points[:-1]))
    near = {number + more for number in named if number <= LONGEST_NAMED for more in (0, 1)}
    others = sorted({*range(1, MOST), *near})
    middle = (LENGTHS[2],) * len(lengths)
    for k in range(len(lengths)):
        yield from (((*middle[:k], steps, *middle[k + 1 :]), 0) for steps in others)


def _said(point: tuple[int, ...]) -> str:
    return " and ".join(map(str, point))


def _sizes(prepared: Prepared, lengths: Sequence[Length], point: tuple[int, ...], rest: int) -> dict[str, int]:
    sizes = dict(prepared.sizes)
    for length, steps in zip(lengths, point, strict=True):
        size = length.at(steps)
        sizes[length.axis] = (size if isinstance(size, int) else size(sizes)) + (rest if rest in length.rests else 0)
    return sizes


def _equal(want: Tensor, got: Tensor) -> bool:
    if want.shape != got.shape:
        return False
    if not want.is_floating_point():
        return torch.equal(want, got)
    finite = want[want.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    return bool(torch.allclose(want, got.to(want.dtype), rtol=0, atol=TOLERANCE * scale, equal_nan=True))


def whole_numbers(model: nn.Module) -> set[int]:
    """The whole numbers in the attributes and the code of a model's modules, and of what that code calls by name."""
    found: set[int] = set()
    todo: list[Any] = []
    seen: set[int] = set()
    for module in model.modules():
        if not type(module).__module__.startswith("torch.nn."):
            todo += vars(module).values()
            owners = [owner for owner in type(module).__mro__ if owner is not nn.Module]
            todo += [value for owner in owners if not _is_torch(owner) for value in vars(owner).values()]
    while todo:
        value = todo.pop()
        if isinstance(value, types.MethodType | staticmethod | classmethod):
            value = value.__func__
        if _is_number(value):
            found.add(value)
        elif isinstance(value, types.FunctionType) and id(value) not in seen and not _is_torch(value):
            seen.add(id(value))
            for code in _codes(value.__code__):
                found.update(filter(_is_number, code.co_consts))
                todo += [value.__globals__[name] for name in code.co_names if name in value.__globals__]
    return found


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of the functions in it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _codes(value)


def _is_torch(owner: Any) -> bool:
    return str(owner.__module__).partition(".")[0] == "torch"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
