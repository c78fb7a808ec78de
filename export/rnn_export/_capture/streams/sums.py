"""What goes on from step to step without a layer: sums, products and the like over all steps so far."""

from __future__ import annotations

import math
import operator
from typing import Any

import sympy
import torch
from torch import fx

from ..graph import aten
from .facts import bound
from .relation import Atom
from .rewrite import Rewriting, Rule
from .writer import LAST


def so_far(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """The result of the steps before is a state, put in front of the piece."""
    named = bound(node)
    source = named["self"]
    relation = stream.along(source)
    dim = named["dim"] % len(relation.dims)
    several = node.target in (aten.cummax.default, aten.cummin.default)
    if dim != relation.dim:
        return stream.copy(node), [relation, relation] if several else relation
    if not relation.alone:
        stream.refuse("goes over steps that share a dimension with others", "Give time its own dimension")
    piece, relation = stream.from_the_start(source)
    if several and any(user.args[1] == 1 and user.users for user in node.users):
        stream.refuse("gives the numbers of steps", "Use its values alone")
    stream.carried = True
    dtype = (node.meta["val"][0] if several else node.meta["val"]).dtype
    if dtype != source.meta["val"].dtype:
        piece = stream.emit(aten.to.dtype, piece, dtype)
    atoms = tuple(Atom(sympy.Integer(1)) if atom.steps else atom for atom in relation.atoms)
    state = stream.state(atoms, dtype)
    before = stream.emit(aten.reshape.default, state, stream.sizes(relation, 1))
    start = _START[node.target](dtype)
    if start:
        before = stream.emit(aten.masked_fill.Scalar, before, stream.fresh(relation), start)
    joined = stream.emit(aten.cat.default, [before, piece], dim)
    new = stream.emit(node.target, joined, dim)
    if several:
        new = stream.emit(operator.getitem, new, 0)
    new = stream.emit(aten.slice.Tensor, new, dim, 1, LAST)
    after = stream.emit(aten.slice.Tensor, new, dim, -1, LAST)
    stream.hold(state, after, "sum", f"{str(node.target).removesuffix('.default')} of the steps so far")
    return ([new, None], [relation, None]) if several else (new, relation)


def _least(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _most(dtype: torch.dtype) -> float:
    return math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


_START = {
    aten.cumsum.default: lambda _: 0,
    aten.cumprod.default: lambda _: 1,
    aten.logcumsumexp.default: _least,
    aten.cummax.default: _least,
    aten.cummin.default: _most,
}
"""What each starts from."""

RULES: dict[Any, Rule] = dict.fromkeys(_START, so_far)
