"""Numbers that follow lengths: SymPy expressions, found from their values at some lengths, and written into a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import sympy
import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree
from torch.utils._sympy.functions import FloorDiv

from .ir import Count, Number, Unalike
from .lengths import computed
from .rewrite import aten

Point = tuple[int, ...]
"""A value of each length."""
Add = Callable[..., fx.Node]
"""Adds an operator to a graph: (operator, arguments...) -> node."""
_PREFIX = "length "


def length(unit: int) -> sympy.Symbol:
    """The length of this number."""
    return sympy.Symbol(f"{_PREFIX}{unit}", integer=True, nonnegative=True)


def units(tree: PyTree) -> list[int]:
    """Which lengths the numbers in a tree follow."""
    found = [leaf.free_symbols for leaf in pytree.tree_leaves(tree) if isinstance(leaf, sympy.Expr)]
    return sorted({int(symbol.name.removeprefix(_PREFIX)) for symbols in found for symbol in symbols})


def at(number: Number, point: Sequence[int]) -> int:
    """A whole number at these lengths."""
    return int(sympy.sympify(number).subs({length(unit): value for unit, value in enumerate(point)}))


def is_part(number: object) -> bool:
    """Whether it has a point and follows a length: then it is written as a tensor."""
    return isinstance(number, sympy.Expr) and not number.is_integer


def whole(values: Sequence[int], points: Sequence[Point]) -> Number:
    """The rule that gives these whole numbers at these lengths: a sum of them, or one of them in strides.

    Raises:
        Unalike: there is none.
    """
    first = points[0]
    rows = [(unit, _moved(values, points, unit)) for unit in range(len(first))]
    slopes = [(unit, *divmod(row[1][1] - row[0][1], row[1][0] - row[0][0])) for unit, row in rows]
    offset = values[0] - sum(slope * first[unit] for unit, slope, _ in slopes)
    found = [offset + sum(slope * point[unit] for unit, slope, _ in slopes) for point in points]
    if found == list(values) and not any(rest for *_, rest in slopes):
        return sympy.Add(offset, *(slope * length(unit) for unit, slope, _ in slopes))
    for unit, row in rows:
        for divisor in range(2, len(row) // 2 + 1):
            factor = row[divisor][1] - row[0][1]
            most = max(divisor * value - factor * n for n, value in row)
            if [(factor * point[unit] + most) // divisor for point in points] == list(values):
                more, rest = divmod(most, divisor)  # one form for each rule, so that equal numbers are equal
                return FloorDiv(factor * length(unit) + rest, divisor) + more
    shown = ", ".join(f"{value} at {'by'.join(map(str, p))}" for value, p in zip(values, points, strict=True))
    raise Unalike(f"a size follows the length by no plain rule ({shown})")


def _moved(values: Sequence[int], points: Sequence[Point], unit: int) -> list[tuple[int, int]]:
    """(length, value) where no other length is another."""
    others = points[0][:unit] + points[0][unit + 1 :]
    return [(p[unit], value) for p, value in zip(points, values, strict=True) if p[:unit] + p[unit + 1 :] == others]


def part(values: Sequence[float], points: Sequence[Point]) -> sympy.Expr:
    """The rule top / (length + offset) that gives these values, as t / T grows by 1 / T from step to step.

    Raises:
        Unalike: there is none.
    """
    for unit, n in enumerate(points[0]):
        m, b = next((p[unit], v) for p, v in zip(points, values, strict=True) if p[unit] != n)
        offset = (b * m - values[0] * n) / (values[0] - b) if b != values[0] else math.nan
        if not math.isfinite(offset):
            continue
        top = values[0] * (n + round(offset))
        below = [point[unit] + round(offset) for point in points]
        if all(below) and all(
            math.isclose(top / size, value, rel_tol=1e-12) for size, value in zip(below, values, strict=True)
        ):
            return sympy.Float(top) / (length(unit) + round(offset))
    raise Unalike("a number follows the length by no plain rule")


def written(number: PyTree, add: Add, sizes: Callable[[int], fx.Node]) -> PyTree:
    """A number as a plain one or a node; one with a point as a tensor of no dimension.

    Args:
        number: may follow lengths; anything else comes back as it is.
        add: adds an operator.
        sizes: gives the node of a length.
    """
    if not isinstance(number, sympy.Expr):
        return number
    if is_part(number):
        top, below = number.as_numer_denom()
        node = add(aten.scalar_tensor.default, written(below, add, sizes), dtype=torch.float64)
        return add(aten.mul.Tensor, add(aten.reciprocal.default, node), float(top))
    more, rest = number.as_coeff_Add()
    if isinstance(rest, FloorDiv) and more:  # (a + more * d) // d is an operator less than a // d + more
        base, divisor = rest.args
        number = FloorDiv(base + more * divisor, divisor, evaluate=False)
    return computed(number, {length(unit).name: sizes(unit) for unit in units(number)}, add)


def counted(count: Count, step: fx.Node, add: Add, sizes: Callable[[int], fx.Node]) -> fx.Node:
    """A number that grows with the step, from the tensor of the step's number."""
    if any(isinstance(number, float) or is_part(number) for number in (count.factor, count.start)):
        step = add(aten.to.dtype, step, torch.float64)
    step = step if count.factor == 1 else add(aten.mul.Tensor, step, written(count.factor, add, sizes))
    step = add(aten.add.Tensor, step, written(count.start, add, sizes)) if count.start else step
    return add(aten.reciprocal.default, step) if count.inverse else step
