"""What a loop's number of steps follows: the size of an axis, or a number computed of several, as steps // batch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
from torch.utils._sympy.functions import FloorDiv

from .._capture.trace import FixedAxes, Size
from .ir import Unalike


@dataclass(frozen=True)
class Length:
    """A length that a loop is unrolled at.

    Attributes:
        axis: the axis whose size is chosen.
        number: the length, an expression in the names of axes; the axis itself in most cases.
        size: that of the axis at which the length is `_CHOSEN`, where it follows from those of other axes.
    """

    axis: str
    number: Any
    size: Any = None

    @classmethod
    def of(cls, error: FixedAxes, *, strides: bool) -> Length:
        """The length by which the model fixes axes.

        Args:
            error: says what became a number.
            strides: of what goes over an axis in strides, take the number of these.

        Raises:
            Unalike: none of the axes can be chosen so that the length is a given one.
        """
        if not error.axes:
            raise Unalike("its number of steps is computed of sizes that are no axes", final=True)
        if len(error.axes) == 1 and not (strides and error.size is not None and error.size.has(FloorDiv)):
            return cls(error.axes[0], sympy.Symbol(error.axes[0]))
        symbols = {symbol.name: symbol for symbol in error.size.free_symbols}
        if set(symbols) == set(error.axes):
            plain = error.size.replace(FloorDiv, lambda a, b: a / b)
            for axis in error.axes:
                for size in _solved(plain, symbols[axis]):
                    whole = all(
                        p.is_Symbol or p.is_Integer or p.is_Add or p.is_Mul for p in sympy.preorder_traversal(size)
                    )
                    if whole and error.size.subs(symbols[axis], size) == _CHOSEN:
                        return cls(axis, error.size, size)
        if len(error.axes) == 1:
            return cls(error.axes[0], sympy.Symbol(error.axes[0]))
        raise Unalike(
            f"its number of steps, {error.size}, is computed of {' and '.join(map(repr, error.axes))}", final=True
        )

    @property
    def least(self) -> int:
        """The length where every axis is 1, which is none where a stride is longer."""
        return max(0, int(self.number.subs(dict.fromkeys(self.number.free_symbols, 1))))

    @property
    def rests(self) -> list[int]:
        """Some of the numbers by which the axis may be larger without a step more; the largest is among them."""
        stride = self.size.coeff(_CHOSEN) if self.size is not None else sympy.Integer(1)
        most = int(stride) - 1 if stride.is_Integer else 0
        return list(range(1, most + 1)) if most <= _FEW else sorted({1, (most + 1) // 2, most})

    def at(self, steps: int) -> Size:
        """The size of the axis at a number of steps."""
        if self.size is None:
            return steps
        size = self.size
        if size.free_symbols == {_CHOSEN}:
            return int(size.subs(_CHOSEN, steps))

        def follows(sizes: Mapping[str, Any]) -> Any:
            return computed(size, {**sizes, _CHOSEN.name: steps})

        return follows


_FEW = 8
_CHOSEN = sympy.Symbol("steps chosen", integer=True, positive=True)


def _solved(number: Any, axis: Any) -> list[Any]:
    try:
        return list(sympy.solve(sympy.Eq(number, _CHOSEN), axis))
    except NotImplementedError:
        return []


def computed(expression: Any, values: Mapping[str, Any], call: Callable[..., Any] = lambda f, *args: f(*args)) -> Any:
    """An expression's value, from numbers or, with `call` to add an operator, from nodes of a graph.

    Raises:
        Unalike: it is made of more than sums, products and quotients.
    """
    if expression.is_Symbol:
        return values[expression.name]
    if expression.is_Integer:
        return int(expression)
    functions = {sympy.Add: operator.add, sympy.Mul: operator.mul, FloorDiv: operator.floordiv}
    function = functions.get(expression.func)
    if function is None:
        raise Unalike(f"its number of steps is {expression}")
    parts = expression.args
    if function is not operator.floordiv:  # in the order of their names, numbers last: SymPy's own order is no promise
        parts = sorted(parts, key=lambda part: (part.is_Integer, sorted(map(str, part.free_symbols))))
    result, *others = [computed(part, values, call) for part in parts]
    for other in others:
        result = call(function, result, other)
    return result
