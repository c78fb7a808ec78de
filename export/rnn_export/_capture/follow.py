"""Axes that follow others: the state of an input grows with its batch, and so do the lengths of its rows."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from .._quiet import quiet
from .axes import Axes, sizes
from .limits import Limits, others
from .module import Flat, copied

Way = tuple[tuple[int, int], ...]
"""(input, dimension) of all that grows along."""

MOST = 128
"""Combinations that are tried for one axis; a model has few inputs without a name for any of their dimensions."""


def follow(flat: Flat, names: list[str], axes: Axes, given: Collection[str], limits: Limits) -> Axes:
    """`axes` with the dimensions that have to grow along with a named axis, in inputs that are not `given` any.

    Eager PyTorch tells: of the dimensions that have the axis's size in such inputs, those are the axis too that have to
    grow for the model to take a larger one, or to give results that grow. Where there is more than one way, none is
    taken.
    """
    free = [k for k, name in enumerate(names) if name not in given and not axes[name]]
    if not free:
        return axes
    found = {name: dict(dimensions) for name, dimensions in axes.items()}
    example = flat.inputs.example
    taken = {size for tensor in example for size in tensor.shape}
    for axis, size in sizes(names, axes, example).items():
        ways = list(itertools.islice(_ways(example, free, size), MOST))
        if len(ways) == 1:
            continue
        wanted = next(size * factor for factor in itertools.count(2) if size * factor not in taken)
        larger = next(others(limits, axis, wanted, besides=taken), None)
        if larger is None:
            continue
        named = [(k, dim) for k, name in enumerate(names) for dim, other in axes[name].items() if other == axis]
        before = _shapes(flat, example)
        ranked: dict[tuple[int, int], list[Way]] = {}
        for way in ways:
            after = _shapes(flat, _grown(example, [*named, *way], larger))
            if before is not None and after is not None:
                sizes_of = zip(before, after, strict=True)
                growth = sum(a != b for one, other in sizes_of for a, b in zip(one, other, strict=False))
                ranked.setdefault((-growth, len(way)), []).append(way)
        best = ranked[min(ranked)] if ranked else []
        for k, dim in best[0] if len(best) == 1 else ():
            found[names[k]][dim] = axis
    return found


def _ways(example: list[Tensor], free: list[int], size: int) -> Iterator[Way]:
    """Sets of (input, dimension) of this size, at most one of each input: none first, then small ones."""
    candidates = [[(k, dim) for dim, own in enumerate(example[k].shape) if own == size] for k in free]
    candidates = [one for one in candidates if one]
    for count in range(len(candidates) + 1):
        for inputs in itertools.combinations(candidates, count):
            yield from itertools.product(*inputs)


def _grown(example: list[Tensor], dimensions: list[tuple[int, int]], size: int) -> list[Tensor]:
    """The example with these dimensions as large as `size`: its last entries again, so that sorted stays sorted."""
    grown = [tensor.clone() for tensor in example]
    for k, dim in dimensions:
        index = torch.arange(size).clamp(max=grown[k].shape[dim] - 1)
        grown[k] = grown[k].index_select(dim, index)
    return grown


def _shapes(flat: Flat, inputs: list[Tensor]) -> list[torch.Size] | None:
    """The shapes of the model's results; None where it does not take the inputs."""
    try:
        with quiet(), torch.no_grad():
            return [result.shape for result in copied(flat)(*inputs)]
    except Exception:  # where the example itself fails, whoever calls the model next says so
        return None
