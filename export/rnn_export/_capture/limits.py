"""Limits of axes: what a user declares, and sizes that stay within them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rnn_runtime import InputError, LimitSpec, Signature, TensorSpec

from .._axis import Axis
from .axes import dynamic

Limits = Mapping[str, LimitSpec]
"""By the name of the axis; one that is not there has none."""

NEAR = 16
"""How many sizes below a largest one are tried where twice as much is too large."""


def split(axes: Any) -> tuple[Any, dict[str, LimitSpec]]:
    """`axes` as names alone, and the limits that they state. What is of another form stays, for others to refuse.

    Raises:
        InputError: one axis is given two limits.
    """
    if not isinstance(axes, Mapping):
        return axes, {}
    seen: dict[str, Axis] = {}

    def name(axis: Any) -> Any:
        if not isinstance(axis, Axis):
            return axis
        before = seen.setdefault(axis.name, axis)
        if before != axis:
            raise InputError(f"axes names one axis with two limits, {before} and {axis}: give it the same twice")
        return axis.name

    plain = {
        key: {dim: name(axis) for dim, axis in given.items()} if isinstance(given, Mapping) else given
        for key, given in axes.items()
    }
    return plain, {axis.name: axis.limit for axis in seen.values() if axis.limit is not None}


def stated(signature: Signature, spec: TensorSpec) -> dict[int, str | Axis]:
    """The dynamic axes of a tensor whose signature is known, with their limits: what `axes` of `export` takes."""
    return {
        dim: Axis(axis, limit.min, limit.max) if (limit := signature.limit(axis)) in signature.limits else axis
        for dim, axis in dynamic(spec).items()
    }


def of(limits: Limits, signature: Signature) -> tuple[LimitSpec, ...]:
    """The limits of a signature: those of the axes that its inputs have."""
    return tuple(limits[axis] for axis in signature.axis_names if axis in limits)


def narrowed(limits: Limits, new: LimitSpec) -> dict[str, LimitSpec]:
    """`limits` with another one, which holds beside what its axis has already; the reasons of both are kept."""
    old = limits.get(new.axis, LimitSpec(new.axis))
    ends = [end for end in (old.max, new.max) if end is not None]
    reasons = dict.fromkeys(limit.reason for limit in (old, new) if limit.reason)
    both = LimitSpec(new.axis, max(old.min, new.min), min(ends, default=None), "; ".join(reasons))
    return {**limits, new.axis: both}


def require(limits: Limits, sizes: Mapping[str, int]) -> None:
    """See that limits leave the example's own sizes, and more than one size each.

    Raises:
        InputError: they do not.
    """
    for axis, size in sizes.items():
        limit = limits.get(axis)
        if limit is None:
            continue
        because = f" ({limit.reason})" if limit.reason else ""
        if not limit.allows(size):
            raise InputError(
                f"the example has size {size} along {axis!r}, whose limit is {limit.sizes}{because}: "
                "give an example of a size within"
            )
        if limit.min == limit.max:
            raise InputError(
                f"the limit of {axis!r} leaves the size {size} alone{because}: leave the axis out of `axes`, so that "
                "it keeps the example's size, or take the decision by size out of the model"
            )


def require_declared(declared: Limits, found: Limits) -> None:
    """See that limits which the user declared were not found to be too wide.

    Raises:
        InputError: the model does something else within, or takes no such sizes; names the line.
    """
    for axis, limit in declared.items():
        new = found[axis]
        if not limit.reason and (new.min, new.max) != (limit.min, limit.max):
            raise InputError(
                f"the limit of {axis!r} is declared as {limit.sizes}, and the model allows {new.sizes} "
                f"({new.reason}): declare these sizes"
            )


def require_ends(
    limits: Iterable[LimitSpec], taken: Sequence[Mapping[str, int]], refused: Sequence[Mapping[str, int]]
) -> None:
    """See that the model itself takes the ends of the limits that were declared, as far as they were tried.

    Raises:
        InputError: it does not.
    """
    for limit in limits:
        for end in (limit.min, limit.max):
            tried = any(sizes.get(limit.axis) == end for sizes in refused)
            if tried and not limit.reason and not any(sizes.get(limit.axis) == end for sizes in taken):
                raise InputError(
                    f"the limit of {limit.axis!r} is {limit.sizes}, and eager PyTorch itself takes no input of size "
                    f"{end} there: declare the sizes that the model takes"
                )


def allowed(limits: Limits, sizes: Mapping[str, int]) -> bool:
    """Whether all sizes are within."""
    return all(limit.allows(sizes[axis]) for axis, limit in limits.items() if axis in sizes)


def fitted(limits: Limits, shapes: Iterable[Mapping[str, int]]) -> Iterator[dict[str, int]]:
    """Each of these sizes, of an axis with a limit the nearest one within."""
    for sizes in shapes:
        yield {axis: limits[axis].nearest(size) if axis in limits else size for axis, size in sizes.items()}


def others(limits: Limits, axis: str, wanted: int, besides: Collection[int]) -> Iterator[int]:
    """Sizes of an axis within its limit, none of `besides`: `wanted` where it is allowed, else the nearest first.

    They end after a few, and there are none where the limit leaves none of 2 or more: 1 is traced as a constant.
    """
    limit = limits.get(axis, LimitSpec(axis))
    most = wanted if limit.max is None else min(limit.max, max(wanted, limit.min))
    least = max(2, limit.min)
    found = (size for size in (*range(most, least - 1, -1), *range(most + 1, most + NEAR)) if limit.allows(size))
    for count, size in enumerate(size for size in found if size not in besides):
        if count == NEAR:
            return
        yield size


def larger(limits: Limits, sizes: Mapping[str, int]) -> dict[str, int]:
    """Another size for each axis, larger by 2, 3 and so on where its limit allows that; as it is where none is left.

    No two of them are alike, as far as limits allow, so that it shows which axis a size follows.
    """
    found: dict[str, int] = {}
    for j, (axis, size) in enumerate(sizes.items()):
        wanted = size + 2 + j
        apart = next(others(limits, axis, wanted, besides=(size, *found.values())), None)
        found[axis] = apart or next(others(limits, axis, wanted, besides=(size,)), size)
    return found
