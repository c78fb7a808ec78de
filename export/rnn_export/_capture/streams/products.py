"""Products of matrices and tables, in which the steps are no dimension that is summed over."""

from __future__ import annotations

from typing import Any

from torch import fx

from ..graph import arguments, aten
from .facts import expressions
from .relation import STEPS, Along, Atom
from .rewrite import Rewriting, Rule


def linear(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """The same matrix for each step."""
    source, *others = node.all_input_nodes
    relation = stream.relations[source]
    if not isinstance(relation, Along) or any(isinstance(stream.relations[one], Along) for one in others):
        stream.refuse("has weights that follow the steps", "Use an operator item by item")
    if relation.dim == len(relation.dims) - 1:
        stream.refuse("goes over all steps together", "Move time away from the last dimension")
    out = expressions(node)[-1]
    return stream.copy(node), relation.with_dims([*relation.dims[:-1], (Atom(out),) if out != 1 else ()])


def product(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A product of matrices, in each of which the steps are no dimension that is summed over."""
    left, right = arguments(node)
    pair = [stream.relations[left], stream.relations[right]]
    for relation, summed in zip(pair, (-1, -2), strict=True):
        if isinstance(relation, Along) and relation.dim == max(len(relation.dims) + summed, 0):
            stream.refuse("goes over all steps together", "Bound what a step looks at")
    every = [source for source in (left, right) if isinstance(stream.relations[source], Along)]
    lead = min(stream.along(source).lead for source in every)
    pieces = {source: stream.aligned(source, lead) for source in every}
    sizes = expressions(node)
    dims: list[Any] = [(Atom(size),) if size != 1 else () for size in sizes]
    places = set()
    for source, (_, along) in pieces.items():
        moved = len(sizes) - len(along.dims) + (source is left and len(expressions(right)) == 1)
        for k, dim in enumerate(along.dims):
            if len(dim) > 1 or STEPS in dim:
                dims[moved + k] = dim
        places.add(moved + along.dim)
    if len(places) != 1:
        stream.refuse("holds every step against every other one", "Bound what a step looks at")
    args = [pieces[source][0] if source in pieces else stream.now(source) for source in node.all_input_nodes]
    return stream.emit(node.target, *args), pieces[every[0]][1].with_dims(dims)


def summed(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """An einsum in which the steps have one letter, which the result has too."""
    equation, sources = arguments(node)[:2]
    terms, _, result = equation.replace(" ", "").partition("->")
    every = [source for source in sources if isinstance(stream.relations[source], Along)]
    letters = {
        term[stream.along(source).dim]
        for term, source in zip(terms.split(","), sources, strict=True)
        if isinstance(stream.relations[source], Along) and "." not in equation
    }
    if not result or len(letters) != 1 or not letters <= set(result):
        stream.refuse("goes over all steps together", "Bound what a step looks at")
    (letter,) = letters
    for term, source in zip(terms.split(","), sources, strict=True):
        if letter in term and source not in every:
            stream.refuse("multiplies steps by what has another axis", "Use constant weights")
    lead = min(stream.along(source).lead for source in every)
    pieces = {source: stream.aligned(source, lead) for source in every}
    dims: list[tuple[Atom, ...]] = [(Atom(size),) if size != 1 else () for size in expressions(node)]
    for term, source in zip(terms.split(","), sources, strict=True):
        if source in pieces:
            for own, dim in zip(term, pieces[source][1].dims, strict=True):
                if own in result and (len(dim) > 1 or STEPS in dim):
                    dims[result.index(own)] = dim
    args = [pieces[source][0] if source in pieces else stream.now(source) for source in sources]
    return stream.emit(node.target, equation, args), pieces[every[0]][1].with_dims(dims)


def looked_up(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A row of a table for each item."""
    table, index, *_ = arguments(node)
    relation = stream.relations[index]
    if not isinstance(relation, Along) or isinstance(stream.relations[table], Along):
        stream.refuse("looks up in a table that follows the steps", "Use a constant table")
    return stream.copy(node), relation.with_dims([*relation.dims, (Atom(expressions(node)[-1]),)])


RULES: dict[Any, Rule] = {
    aten.linear.default: linear,
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), product),
    aten.einsum.default: summed,
    aten.embedding.default: looked_up,
}
