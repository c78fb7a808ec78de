"""The loop program: what a model with loops over time computes, at one length or at any.

`loops` finds like steps in an unrolled program, `outline` writes the program down in these types and makes one for any
length of those of several, and `emit` reads it. Each type is a tree for `torch.utils._pytree`: its parts may hold
values and numbers, and its other fields are the same in like programs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, dataclass_transform

import sympy
from torch import fx
from torch.fx.node import Target
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

if TYPE_CHECKING:
    from .unify import Loop

T = TypeVar("T")
Number: TypeAlias = int | float | sympy.Expr
"""A number; where it follows lengths, an expression in `numbers.length(...)`."""


class Unalike(Exception):
    """The pieces of a run are not the steps of one loop; says why.

    Attributes:
        final: other lengths would show nothing else.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass_transform(frozen_default=True)
def _tree(*parts: str) -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass that is a tree of these of its fields."""

    def register(plain: type[T]) -> type[T]:
        cls: Callable[..., T] = dataclass(frozen=True)(plain)
        others = [one.name for one in fields(plain) if one.name not in parts]  # type: ignore[arg-type]
        pytree.register_pytree_node(
            plain,
            lambda value: ([getattr(value, k) for k in parts], tuple(getattr(value, k) for k in others)),
            lambda given, same: cls(**dict(zip(parts, given, strict=True)), **dict(zip(others, same, strict=True))),
        )
        return plain

    return register


@dataclass(frozen=True)
class Part:
    """A read, as of one step of a tensor or of one of several results: an operator, and what follows the tensor."""

    target: Target
    args: tuple[PyTree, ...]


def result(k: int) -> Part:
    """The read of one of several results."""
    return Part(operator.getitem, (k,))


Path = tuple[Part, ...]
"""Reads on top of a value, the innermost first."""


class Place(NamedTuple):
    """A value of a step: the position of what makes it, and the reads on top."""

    position: int
    path: Path


# Values of the program


@dataclass(frozen=True)
class Input:
    """A placeholder: an input, a weight or a constant."""

    name: str


@dataclass(frozen=True)
class Made:
    """What a `Call` or a `Join` makes, by its number among the program's items."""

    item: int


@_tree("step")
class OfStep:
    """What a step of a `Repeat` makes."""

    loop: int
    place: Place
    step: Number


@_tree("source", "args")
class Read:
    """A part of another value."""

    target: Target
    source: Value
    args: tuple[PyTree, ...]


Value = Input | Made | OfStep | Read

# What a step takes, apart from values, which are the same in each step


@dataclass(frozen=True)
class Same:
    """A value that this step made."""

    place: Place


@dataclass(frozen=True)
class Carried:
    """A value that an earlier step made, by the number of its `Carry`."""

    carry: int


@dataclass(frozen=True)
class Each:
    """A value from outside of which each step has its own, by its number among the loop's."""

    number: int


@_tree("factor", "start")
class Count:
    """A number that grows with the step, factor * step + start, or one over that."""

    factor: Number
    start: Number
    inverse: bool = False


Form = Same | Carried | Each | Count | Input | Made | OfStep | Read


@dataclass(frozen=True)
class Moving:
    """In the place of a number in a value of a `Run`: it starts there, and grows by `stride` from value to value."""

    start: Number
    stride: int


@_tree("values", "count")
class Run:
    """Values in turn, `count` times, with `Moving` in the place of numbers that grow from time to time."""

    values: tuple[Value, ...]
    count: Number


Row = tuple[Input | Made | OfStep | Read | Run, ...]


def first_of(row: Row) -> Value:
    """The first value of a row."""
    first = row[0].values[0] if isinstance(row[0], Run) else row[0]
    value: Value = pytree.tree_map(lambda leaf: leaf.start if isinstance(leaf, Moving) else leaf, first)
    return value


def moves(tree: PyTree) -> bool:
    """Whether a number in it moves."""
    return any(isinstance(leaf, Moving) for leaf in pytree.tree_leaves(tree))


@_tree("args", "kwargs")
class Call:
    """An operator; in a loop's body forms stand among its arguments, and else values."""

    target: Target
    args: PyTree
    kwargs: PyTree


@_tree("row")
class Join:
    """A stack or a concatenation of a row of values."""

    target: Target
    row: Row
    dim: int


@_tree("initial")
class Carry:
    """What steps take of earlier ones, and its value before the first step: several where they lie further back."""

    place: Place
    initial: tuple[Value, ...]


@_tree("count", "body", "carries", "each")
class Repeat:
    """A loop: `body` in order, `count` times; `each` are the rows of which each step takes its own."""

    count: Number
    body: tuple[Call, ...]
    carries: tuple[Carry, ...]
    each: tuple[Row, ...]


@_tree("items", "output")
class Program:
    """Items, each after what it needs, results, and the node or loop of the unrolled program behind each item."""

    items: tuple[Call | Join | Repeat, ...]
    output: PyTree
    sources: tuple[fx.Node | Loop, ...] = ()


def is_form(leaf: object) -> bool:
    """Whether it is what a step may take: no plain argument."""
    return isinstance(leaf, Form)


def is_value(leaf: object) -> bool:
    """Whether it is a value of the program."""
    return isinstance(leaf, Value)


def forms(tree: PyTree) -> list[Form]:
    """The forms in a tree, each whole."""
    return [leaf for leaf in pytree.tree_leaves(tree, is_leaf=is_form) if is_form(leaf)]


def changed(tree: PyTree, change: Callable[[Form], object]) -> PyTree:
    """A tree with another thing in the place of each form."""
    return pytree.tree_map(lambda leaf: change(leaf) if is_form(leaf) else leaf, tree, is_leaf=is_form)
