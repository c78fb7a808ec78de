"""Whether the rolled module is the model, at lengths far from those that it was made from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import nn

from rnn_runtime import LimitSpec

from .._capture.counting import counted
from .._capture.limits import allowed, narrowed
from .._capture.module import REFUSED, float64, wide_copy, widened
from .._capture.prepare import Prepared
from .._capture.sample import Sampler
from .._equal import all_equal
from .._quiet import quiet
from .ir import Unalike
from .lengths import Length
from .named import whole_numbers

LENGTHS = (1, 2, 3, 13, 64)
MOST = 21
"""Up to this length all are tried, so that what a model does at each nth length, or up to some length, shows."""
LONG = 257
LONGEST = 2050
LONGEST_NAMED = 512
"""Of the numbers in a model's code, up to this one each is tried by itself: longer loops take long."""
OTHERS = (0, -1, 3, 14)
"""How much larger the axes are that no loop goes over, in turn."""
COUNTED = (11, 14)
"""Two lengths at which it shows whether a model counts its steps itself."""
FAR = 4099
"""As many steps are tried where it does."""
TOLERANCE = 1e-6
"""Times the largest value where that is above 1. In float64 rounding stays far below, and a wrong step far above."""


def require_alike(prepared: Prepared, rolled: nn.Module, lengths: Sequence[Length]) -> None:
    """See that the rolled module is the model at lengths near those that it was made from.

    Raises:
        Unalike: it is not, so that the loop was not understood.
    """
    _require(prepared, rolled, [((n,) * len(lengths), 0) for n in LENGTHS[:4]], lengths, others=(0,))


def require_equal(prepared: Prepared, rolled: nn.Module, lengths: Sequence[Length]) -> dict[str, LimitSpec]:
    """Run both in float64 at several lengths of the axes that loops go over, within the limits.

    Among them are the whole numbers in the model's code and attributes, and one beyond them all: a loop that does
    something else at some length, at some step or from there on, or stops there, shows, also where later steps forget.
    What a model asks of its sizes has been settled before; this finds what it asks of numbers that it counts itself.

    Returns:
        The limits, narrowed to the lengths that were tried where the model counts its steps itself.

    Raises:
        Unalike: they differ.
    """
    few, more = (_sizes(prepared, lengths, (n,) * len(lengths), 0, 0) for n in COUNTED)
    names = counted(prepared, few, more) if allowed(prepared.limits, few) and allowed(prepared.limits, more) else []
    numbers = whole_numbers(prepared.flat.model, everywhere=bool(names))
    named = {number for number in numbers if 0 < number <= LONGEST - 2}
    plain = [prepared.limits[one.axis] for one in lengths if one.size is None and one.axis in prepared.limits]
    ends = {end for limit in plain for end in (limit.min, limit.max) if end is not None}
    named |= {end for end in ends if end <= LONGEST - 2}
    longest = max([LONG, *(number + 2 for number in named), *([FAR] if names else [])])
    if names:
        longest = max([longest, *(limit.max for limit in plain if limit.max is not None)])
    longest = min([longest, *(limit.max for limit in plain if limit.max is not None)])
    _require(prepared, rolled, _trials(named, longest, lengths), lengths)
    limits = dict(prepared.limits)
    for one in lengths if names else ():
        if one.size is None and (one.axis not in limits or limits[one.axis].max is None):
            reason = f"the model counts {', '.join(names)} itself, and longer sequences were not tried"
            limits = narrowed(limits, LimitSpec(one.axis, max=longest, reason=reason))
    return limits


def _require(
    prepared: Prepared,
    rolled: nn.Module,
    trials: Iterable[tuple[tuple[int, ...], int]],
    lengths: Sequence[Length],
    others: Sequence[int] = OTHERS,
) -> None:
    model, other = wide_copy(prepared.flat), wide_copy(rolled)
    compared = False
    sampler = Sampler(prepared.names, prepared.axes, prepared.traced)
    for k, (point, rest) in enumerate(trials):
        sizes = _sizes(prepared, lengths, point, rest, others[k % len(others)])
        if not allowed(prepared.limits, sizes):
            continue  # nobody asks for them
        drawn = sampler.draw(sizes, seed=point[0])
        inputs = [widened(tensor) for tensor in drawn]
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
        compared = True
        if not all_equal(got, want, TOLERANCE):
            raise Unalike(f"the loop of {_said(point)} steps does something else than that of few")
    if not compared:
        raise Unalike("there is no length at which the rolled loop can be held against the model")


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


def _sizes(
    prepared: Prepared, lengths: Sequence[Length], point: tuple[int, ...], rest: int, other: int
) -> dict[str, int]:
    """Sizes at which loops go over these lengths; the other axes are by `other` larger than in the trace."""
    over = {length.axis for length in lengths}
    sizes = {axis: size if axis in over else size + other for axis, size in prepared.sizes.items()}
    for length, steps in zip(lengths, point, strict=True):
        size = length.at(steps)
        sizes[length.axis] = (size if isinstance(size, int) else size(sizes)) + (rest if rest in length.rests else 0)
    return sizes
