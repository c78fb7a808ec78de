"""Whether the rolled module is the model, at lengths far from those that it was made from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from rnn_runtime import LimitSpec

from .._capture.limits import allowed, narrowed
from .._capture.prepare import Prepared
from .._capture.trials import LONGEST_LOOP, Trials
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
FAR = 4099
"""As many steps are tried where it does."""


def require_alike(prepared: Prepared, trials: Trials, lengths: Sequence[Length]) -> None:
    """See that the rolled module is the model at lengths near those that it was made from.

    Raises:
        Unalike: it is not, so that the loop was not understood.
    """
    _require(prepared, trials, [((n,) * len(lengths), 0) for n in LENGTHS[:4]], lengths, others=(0,))


def require_equal(prepared: Prepared, trials: Trials, lengths: Sequence[Length]) -> dict[str, LimitSpec]:
    """Run both in float64 at several lengths of the axes that loops go over, within the limits.

    Among them are the whole numbers in the model's code and attributes, and one beyond them all: a loop that does
    something else at some length, at some step or from there on, or stops there, shows, also where later steps forget.
    What a model asks of its sizes has been settled before; this finds what it asks of numbers that it counts itself.

    Returns:
        The limits, narrowed to the lengths that were tried where the model counts its steps itself.

    Raises:
        Unalike: they differ, or no limit says which lengths were tried.
    """
    names = prepared.counts
    numbers = whole_numbers(prepared.flat.model, everywhere=bool(names))
    named = {number for number in numbers if 0 < number <= LONGEST - 2}
    plain = [prepared.limits[one.axis] for one in lengths if one.size is None and one.axis in prepared.limits]
    ends = {end for limit in plain for end in (limit.min, limit.max) if end is not None}
    named |= {end for end in ends if end <= LONGEST - 2}
    longest = max([LONG, *(number + 2 for number in named), *([FAR] if names else [])])
    if names:
        longest = max([longest, *(limit.max for limit in plain if limit.max is not None)])
    longest = min([longest, *(limit.max for limit in plain if limit.max is not None)])
    while longest > LONG and max(_sizes(prepared, lengths, (longest,) * len(lengths), 0, 0).values()) > LONGEST_LOOP:
        longest = longest * 3 // 4  # in steps of several each
    compared = _require(prepared, trials, _trials(named, longest, lengths), lengths)
    limits = dict(prepared.limits)
    for one in lengths if names else ():
        if len(one.number.free_symbols) > 1:
            raise Unalike(
                f"the model counts {', '.join(names)} itself, over as many steps as {one.number} says, which no limit "
                "of one axis bounds: count with a tensor"
            )
        most = max(sizes[one.axis] for sizes in compared)
        known = limits.get(one.axis, LimitSpec(one.axis)).max
        if known is None or most < known:
            reason = f"the model counts {', '.join(names)} itself, and longer sequences were not tried"
            limits = narrowed(limits, LimitSpec(one.axis, max=most, reason=reason))
    return limits


def _require(
    prepared: Prepared,
    trials: Trials,
    points: Iterable[tuple[tuple[int, ...], int]],
    lengths: Sequence[Length],
    others: Sequence[int] = OTHERS,
) -> list[dict[str, int]]:
    """See that the candidate is the model at these lengths; the sizes that were compared."""
    compared = []
    for k, (point, rest) in enumerate(points):
        sizes = _sizes(prepared, lengths, point, rest, others[k % len(others)])
        if not allowed(prepared.limits, sizes):
            continue  # nobody asks for them
        outcome = trials.at(sizes)
        if outcome == "different":
            said = _said(point)
            if (failure := trials.failure(sizes)) is not None:
                reason = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
                raise Unalike(f"the loop of {said} steps is another one than that of few ({reason})")
            raise Unalike(f"the loop of {said} steps does something else than that of few")
        if outcome == "same":
            compared.append(sizes)
    if not compared:
        raise Unalike("there is no length at which the rolled loop can be held against the model")
    return compared


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
