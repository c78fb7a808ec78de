"""Rows of values in the new graph: stacked, joined, and as what each step of a loop takes."""

from __future__ import annotations

import operator

import sympy
import torch
from torch import fx

from .emitter import Emitter
from .ir import Join, Moving, Number, OfStep, Read, Row, Run, Unalike, Value, first_of, moves
from .rewrite import aten


def join(e: Emitter, item: Join) -> fx.Node:
    """A stack or a concatenation, whose parts may be as many as a length says."""
    stacked = item.target is aten.stack.default
    dim = item.dim % (e.rank(first_of(item.row)) + (1 if stacked else 0))
    if not any(isinstance(segment, Run) for segment in item.row):
        return e.v.add(item.target, e.plain(list(item.row)), dim)
    parts = []
    for segment in item.row:
        if isinstance(segment, Run):
            part = _to(e, _many(e, segment), 0, dim)
            parts.append(part if stacked else e.v.add(aten.flatten.using_ints, part, dim, dim + 1))
        else:
            part = e.value(segment)
            parts.append(e.v.add(aten.unsqueeze.default, part, dim) if stacked else part)
    return parts[0] if len(parts) == 1 else e.v.add(aten.cat.default, parts, dim)


def filled(e: Emitter, row: Row, count: Number) -> fx.Node:
    """The values that the steps of a loop take, stacked; with zeros where the steps that nothing needs have none.

    Raises:
        Unalike: they are not as many as the steps, but for a few of these.
    """
    total = sum(one.count * len(one.values) if isinstance(one, Run) else 1 for one in row)
    short = _difference(count, total)
    if short is None or short < 0:
        raise Unalike("what the steps take does not go with the number of steps")
    parts = [
        _many(e, segment, none=short > 0)
        if isinstance(segment, Run)
        else e.v.add(aten.unsqueeze.default, e.value(segment), 0)
        for segment in row
    ]
    meta = e.meta(first_of(row))
    if short and meta.dtype is torch.bool:
        parts[0] = e.v.add(aten.to.dtype, parts[0], torch.uint8)
    node = parts[0] if len(parts) == 1 else e.v.add(aten.cat.default, parts, 0)
    if short:
        node = e.v.add(aten.constant_pad_nd.default, node, [0] * (2 * meta.dim() + 1) + [short])
        return e.v.add(aten.to.dtype, node, torch.bool) if meta.dtype is torch.bool else node
    return node


def _difference(a: Number, b: Number) -> int | None:
    """The difference of two numbers, where it is the same at any length."""
    found = sympy.sympify(a - b)
    return int(found) if found.is_Integer else None


def _many(e: Emitter, run: Run, *, none: bool = False) -> fx.Node:
    """The values of a run, stacked along a new first dimension; `none`: there may be no value."""
    rows = [_stacked(e, value, run.count, none=none) for value in run.values]
    return rows[0] if len(rows) == 1 else e.v.add(aten.flatten.using_ints, e.v.add(aten.stack.default, rows, 1), 0, 1)


def _stacked(e: Emitter, value: Value, count: Number, *, none: bool) -> fx.Node:
    if not moves(value):
        node = e.v.add(aten.unsqueeze.default, e.value(value), 0)
        return e.v.add(aten.expand.default, node, [e.number(count), *[-1] * e.rank(value)])
    match value:
        case OfStep(loop, place, Moving() as step):
            return _stretch(e, e.loops[loop].all(place), step, count)
        case Read(aten.select.int, source, (int(dim), Moving() as index)) if not moves(source):
            return _stretch(e, _to(e, e.value(source), dim % e.rank(source), 0), index, count)
        case Read(aten.slice.Tensor, source, (int(dim), Moving() as start, Moving() as end, *step)) if (
            not moves(source) and start.stride == end.stride
        ):
            width = _difference(end.start, start.start)
            if width is None or any(one != 1 for one in step):
                raise Unalike("a step reads a part of the sequence whose size depends on the length")
            dim %= e.rank(source)
            if width == 1:
                steps = _stretch(e, _to(e, e.value(source), dim, 0), start, count)
                return e.v.add(aten.unsqueeze.default, steps, dim + 1)
            return _stretch(e, _windows(e, source, dim, width, none=none), start, count)
        case Read(target, source, (int(dim), *rest)) if not moves(rest):
            if target is operator.getitem:
                raise Unalike("a step takes one of several results of another in an unknown way")
            return e.v.add(target, _stacked(e, source, count, none=none), dim + 1, *e.plain(rest))
    raise Unalike("a step reads something else at each step")


def _windows(e: Emitter, value: Value, dim: int, width: int, *, none: bool) -> fx.Node:
    """Of each place along a dimension the window from there on, along a new first dimension."""
    source, rank = e.value(value), e.rank(value)
    if none and e.meta(value).dtype is not torch.bool:  # a window has to fit for there to be none
        source = e.v.add(aten.constant_pad_nd.default, source, [0, 0] * (rank - 1 - dim) + [0, width - 1])
    windows = e.v.add(aten.unfold.default, source, dim, width, 1)  # (.., windows, .., width)
    return _to(e, _to(e, windows, rank, dim + 1), dim, 0)


def _to(e: Emitter, node: fx.Node, source: int, dim: int) -> fx.Node:
    return node if source == dim else e.v.add(aten.movedim.int, node, source, dim)


def _stretch(e: Emitter, node: fx.Node, entries: Moving, count: Number) -> fx.Node:
    """`count` entries along the first dimension, from where they start on or from there backward."""
    step = abs(entries.stride)
    size = (count - 1) * step + 1  # from the first to just after the last
    begin = entries.start if entries.stride > 0 else entries.start + 1 - size
    ends = e.number(begin), e.number(begin + size)
    node = e.v.add(aten.slice.Tensor, node, 0, *ends, *([step] if step > 1 else []))
    return e.v.add(aten.flip.default, node, [0]) if entries.stride < 0 else node
