"""The numbers of steps, `torch.arange(x.size(1))`: on a stream each row of the batch has its own.

What is computed from them has a dimension more on a stream, the rows, which comes first until a value with rows is met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import fx

from ..graph import arguments, aten
from .facts import bound, expressions
from .relation import STEPS, Along, Atom, Numbered, broadcast, regroup
from .rewrite import SHAPED, Rewriting
from .windows import cut


def numbered(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """`arange` over the steps."""
    named = bound(node)
    start = named.get("start", 0)
    if isinstance(start, fx.Node) or named.get("step", 1) != 1:
        stream.refuse("numbers the steps in strides, or from the end", "Number them from a plain start")
    length = sympy.expand(expressions(node)[0] - stream.steps)
    if not length.is_Integer:
        stream.refuse("numbers something else than the steps", "Number the steps")
    dtype = node.meta["val"].dtype
    new = stream.numbers()
    if dtype != torch.int64:
        new = stream.emit(aten.to.dtype, new, dtype)
    if start:
        new = stream.emit(aten.add.Scalar, new, start)
    return new, Numbered(((STEPS,),), 0, int(length))


def with_numbers(stream: Rewriting, node: fx.Node, rule: Callable[..., Any] | None) -> tuple[Any, Any]:
    """What is computed from numbers of steps: with more such, or item by item with a value that has rows."""
    found = {one: relation for one in node.all_input_nodes if isinstance(relation := stream.relations.get(one), Along)}
    numbers = {one: relation for one, relation in found.items() if isinstance(relation, Numbered)}
    if len(numbers) < len(found):
        return _met(stream, node, found, numbers, rule)
    source, relation = next(iter(numbers.items()))
    if len({(one.lead, one.tail) for one in numbers.values()}) > 1:
        stream.refuse("takes numbers of steps that are not in step", "Number the steps once")
    sizes = expressions(node)
    rank = len(relation.dims)
    if torch.Tag.pointwise in node.target.tags or node.target in _MOVED:  # type: ignore[union-attr]
        shape = broadcast(list(numbers.values()), sizes)
        if shape is None or any(len(one.dims) != len(sizes) for one in numbers.values()):
            stream.refuse("holds numbers of steps against each other", "Give them one shape before")
        return stream.copy(node), shape
    if node.target is aten.unsqueeze.default:
        dim = arguments(node)[1] % (rank + 1)
        dims = [*relation.dims[:dim], (), *relation.dims[dim:]]
        return stream.emit(aten.unsqueeze.default, stream.now(source), dim + 1), relation.with_dims(dims)
    if node.target in SHAPED and node.target is not aten.expand.default:
        shaped = regroup(relation, sizes, stream.steps)
        if shaped is not None:
            rows = stream.number(stream.rows.size)
            return stream.emit(aten.reshape.default, stream.now(source), [rows, *stream.sizes(shaped)]), shaped
    if node.target is aten.slice.Tensor:
        dim = arguments(node)[1] % rank
        if dim == relation.dim:
            return cut(stream, node)
    if node.target is aten.embedding.default and arguments(node)[1] is source:
        return stream.copy(node), relation.with_dims([*relation.dims, (Atom(sizes[-1]),)])
    stream.refuse("takes numbers of steps, for which no form on a stream is known", "Use them item by item")


_MOVED = {aten.to.dtype, aten._to_copy.default, aten.clone.default, aten.alias.default, aten.to.dtype_layout}


def _met(
    stream: Rewriting,
    node: fx.Node,
    found: dict[fx.Node, Along],
    numbers: Mapping[fx.Node, Along],
    rule: Callable[..., Any] | None,
) -> tuple[Any, Any]:
    """Numbers of steps and values with rows: the numbers get the dimensions of the result, and its rows."""
    others = [relation for one, relation in found.items() if one not in numbers]
    lead = min(relation.lead for relation in others)
    if torch.Tag.pointwise not in node.target.tags or rule is None:  # type: ignore[union-attr]
        stream.refuse("takes numbers of steps, for which no form on a stream is known", "Use them item by item")
    if any(relation.lead != lead for relation in numbers.values()):
        stream.refuse("takes numbers of steps that are not in step with it", "Number the steps that are there")
    shape = broadcast(others, expressions(node))
    if shape is None:
        stream.refuse("holds every step against every other one", "Bound what a step looks at")
    before = {one: (stream.env[one], stream.relations[one]) for one in numbers}
    for one, relation in numbers.items():
        stream.env[one], stream.relations[one] = _with_rows(stream, stream.now(one), relation, shape)
    result: tuple[Any, Any] = rule(stream, node)
    for one, (new, relation) in before.items():
        stream.env[one], stream.relations[one] = new, relation
    return result


def _with_rows(stream: Rewriting, value: fx.Node, relation: Along, shape: Along) -> tuple[fx.Node, Along]:
    """Numbers, rows first, in the dimensions of another value."""
    more = len(shape.dims) - len(relation.dims)
    dims = [*[()] * more, *relation.dims]
    if stream.rows.size == 1:
        return stream.emit(aten.select.int, value, 0, 0), Along(relation.dims, relation.lead, relation.tail)
    place = next((k for k, dim in enumerate(shape.dims) if dim == (stream.rows,)), None)
    if (
        place is None
        or dims[place] != ()
        or any(STEPS in a and STEPS not in b for a, b in zip(dims, shape.dims, strict=True))
    ):
        stream.refuse("takes numbers of steps where the rows of the batch are not seen", "Keep the batch apart")
    assert place is not None
    lengths = stream.sizes(replace(relation, dims=tuple(tuple(dim) for dim in dims)))
    value = stream.emit(aten.reshape.default, value, [stream.number(stream.rows.size), *lengths])
    value = stream.emit(aten.movedim.int, stream.emit(aten.squeeze.dim, value, place + 1), 0, place)
    dims[place] = (stream.rows,)
    return value, Along(tuple(tuple(dim) for dim in dims), relation.lead, relation.tail)


RULES = dict.fromkeys((aten.arange.default, aten.arange.start, aten.arange.start_step), numbered)
