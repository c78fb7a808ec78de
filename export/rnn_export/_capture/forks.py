"""Where a model compares sizes, and other sizes would have gone another way: `x.size(1) == 20`, `x.size(1) % 5 == 0`.

torch.export notes what the trace took for granted, and drops what is no range: the program holds one way for all sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram

from .axes import Axes
from .graph import user_inputs
from .limits import Limits, allowed

LARGEST = 4096
"""Sizes that are tried: larger ones take long."""
FEW = 64
"""Up to this size, all are tried."""


def forks(
    program: ExportedProgram,
    names: Sequence[str],
    axes: Axes,
    shapes: Sequence[Mapping[str, int]],
    limits: Limits,
) -> list[dict[str, int]]:
    """Sizes at which a comparison of sizes goes another way than in the trace, where none of `shapes` has such sizes.

    Args:
        program: the model.
        names: of its inputs.
        axes: the axes of each.
        shapes: sizes that the program is held against the model at, the traced ones last.
        limits: of the axes; outside of them nobody asks for anything.
    """
    values = [(name, node.meta["val"]) for name, node in zip(names, user_inputs(program), strict=True)]
    symbols = {
        tensor.shape[dim].node.expr: axis
        for name, tensor in values
        for dim, axis in axes[name].items()
        if isinstance(tensor.shape[dim], torch.SymInt) and tensor.shape[dim].node.expr.is_Symbol
    }
    environment = next((tensor.fake_mode.shape_env for _, tensor in values if symbols), None)
    found: list[dict[str, int]] = []
    for guard in environment.guards if environment is not None else ():
        if not guard.expr.free_symbols or not guard.expr.free_symbols <= symbols.keys():
            continue
        if any(_fails(guard.expr, symbols, shape) for shape in (*shapes, *found)):
            continue
        found += next(
            (
                [shape]
                for shape in _near(guard.expr, symbols, shapes[-1])
                if allowed(limits, shape) and _fails(guard.expr, symbols, shape)
            ),
            [],
        )
    return found


def _fails(guard: Any, symbols: Mapping[Any, str], shape: Mapping[str, int]) -> bool:
    try:
        return bool(guard.subs({symbol: shape[axis] for symbol, axis in symbols.items()}) == sympy.false)
    except (ZeroDivisionError, AssertionError):  # PyTorch's functions of sizes assert what sizes have
        return False  # sizes that the model does not take


def _near(guard: Any, symbols: Mapping[Any, str], shape: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """`shape` with another size of one of the axes that are compared: small ones, and those that the guard names."""
    named = {int(number) + more for number in guard.atoms(sympy.Integer) for more in (-1, 0, 1)}
    sizes = sorted({*range(1, FEW + 1), *(size for size in named if 1 <= size <= LARGEST)})
    for symbol in sorted(guard.free_symbols, key=str):
        yield from ({**shape, symbols[symbol]: size} for size in sizes)
