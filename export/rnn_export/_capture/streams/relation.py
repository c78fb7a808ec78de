"""How a value of a captured program lies along the axis that a stream is cut along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sympy


@dataclass(frozen=True)
class Atom:
    """A size that a dimension is made of: `batch * 9` is two of them.

    Attributes:
        size: an expression in the sizes of the inputs; of the steps, 0.
        steps: whether these are the steps of the stream.
    """

    size: sympy.Expr
    steps: bool = False


STEPS = Atom(sympy.Integer(0), steps=True)

Dims = tuple[tuple[Atom, ...], ...]


@dataclass(frozen=True)
class Along:
    """A value that has the steps of the stream in one of its dimensions.

    In a whole run it has `lead` items before that of the first step, and `tail` items after that of the last one; both
    may be negative, where items are missing. On a stream it has one item for each step of a piece.

    Attributes:
        dims: what each dimension is made of, the outermost first.
        lead, tail: items beyond those of the steps, at either end.
    """

    dims: Dims
    lead: int = 0
    tail: int = 0

    @property
    def dim(self) -> int:
        """The dimension that has the steps."""
        return next(k for k, dim in enumerate(self.dims) if STEPS in dim)

    @property
    def alone(self) -> bool:
        """Whether the steps have their dimension for themselves."""
        return self.dims[self.dim] == (STEPS,)

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """All sizes in their order, also across dimensions."""
        return tuple(atom for dim in self.dims for atom in dim)

    def whole(self, steps: sympy.Expr) -> list[sympy.Expr]:
        """Its shape in a whole run of so many steps."""
        length = steps + self.lead + self.tail
        return [sympy.Mul(*(length if atom.steps else atom.size for atom in dim)) for dim in self.dims]

    def with_dims(self, dims: Sequence[Sequence[Atom]]) -> Along:
        """The same items in other dimensions."""
        return replace(self, dims=tuple(tuple(dim) for dim in dims))

    def moved(self, lead: int, tail: int) -> Along:
        """The same with so many items more at either end."""
        return replace(self, lead=self.lead + lead, tail=self.tail + tail)


class Numbered(Along):
    """A value of the numbers of steps, which on a stream has the rows of the batch before its own dimensions."""


@dataclass(frozen=True)
class Latest:
    """A value that follows the last step alone, such as a layer's final state."""


Relation = Along | Latest | None
"""None: the same for every piece of a stream."""


def same(a: sympy.Expr, b: sympy.Expr) -> bool:
    """Whether two sizes are equal whatever the axes are."""
    return bool(a == b) or bool(sympy.expand(a - b) == 0)


def atoms_of(sizes: Iterable[sympy.Expr]) -> list[tuple[Atom, ...]]:
    """Dimensions that are made of one size each."""
    return [() if size == 1 else (Atom(size),) for size in sizes]


def regroup(along: Along, sizes: Sequence[sympy.Expr], steps: sympy.Expr) -> Along | None:
    """The same items in order in a shape of these sizes; None where it cuts the steps, or fits not."""
    left = [atom for atom in along.atoms if atom.steps or atom.size != 1]
    dims: list[list[Atom]] = []
    for size in sizes:
        dim: list[Atom] = []
        missing = size
        while missing != 1:
            if not left:
                return None
            atom = left.pop(0)
            own = steps + along.lead + along.tail if atom.steps else atom.size
            rest = sympy.cancel(missing / own)
            if sympy.fraction(rest)[1] == 1:
                dim.append(atom)
                missing = rest
                continue
            inner = sympy.cancel(own / missing)
            if atom.steps or sympy.fraction(inner)[1] != 1:
                return None
            dim.append(Atom(missing))
            left.insert(0, Atom(inner))
            missing = sympy.Integer(1)
        dims.append(dim)
    return None if left else along.with_dims(dims)


def broadcast(values: Sequence[Along], sizes: Sequence[sympy.Expr]) -> Along | None:
    """What a calculation item by item gives, of a shape of these sizes; None where steps meet other steps.

    The values have the same lead and tail.
    """
    dims: list[tuple[Atom, ...]] = atoms_of(sizes)
    places = set()
    for value in values:
        moved = len(sizes) - len(value.dims)
        places.add(moved + value.dim)
        for k, dim in enumerate(value.dims):
            if len(dim) > 1 or STEPS in dim:
                dims[moved + k] = dim
    return values[0].with_dims(dims) if len(places) == 1 else None
