"""Recurrent layers and loops: over the steps they carry their states, over something else they stay as they are."""

from __future__ import annotations

import operator
from typing import Any

import sympy
from torch import fx

from .. import leaves, scan_leaf
from ..graph import arguments, aten
from ..zeros import is_zeros
from .facts import expression, name_of
from .relation import STEPS, Along, Atom, Latest
from .rewrite import Rewriting, Rule


def layer(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A recurrent layer: over the steps it carries its state; over something else it stays as it is."""
    args = list(arguments(node))
    lengths, both = args[-5], args[-1]
    states = args[1:-5]
    if lengths is not None:
        stream.refuse("runs over packed sequences", "Give it padded ones")
    relation = stream.along(args[0])
    rows = relation.dims[1]
    if relation.dim == 1:
        return _beside(stream, node, relation)
    if relation.dim != 0 or not relation.alone:
        stream.refuse("runs over steps and something else together", "Give time a dimension of its own")
    if both:
        stream.refuse("is bidirectional: it reads each sequence from its end", "Use one direction")
    piece, relation = stream.from_the_start(args[0])
    stream.carried = True
    new_args = [piece]
    given = []
    for k, (letter, state, value) in enumerate(zip("hc", states, node.meta["val"][1:], strict=False), 1):
        if state is not None and not is_zeros(state):
            new_args.append(stream.now(state))
            continue
        sizes = [Atom(sympy.Integer(value.shape[0])), *rows, Atom(sympy.Integer(value.shape[2]))]
        own = stream.state(sizes, value.dtype)
        given.append((k, letter, own))
        flat = [stream.number(expression(s)) for s in value.shape]
        new_args.append(stream.emit(aten.reshape.default, own, flat) if len(rows) != 1 else own)
    weights = fx.node.map_arg(args[-4], stream.now)
    new = stream.emit(node.target, *new_args, lengths, weights, *args[-3:])
    for k, letter, own in given:
        final = stream.emit(operator.getitem, new, k)
        stream.hold(own, final, letter, f"the state {letter} of {name_of(node)}")
    out = (Atom(sympy.Integer(node.meta["val"][0].shape[2])),)
    return new, [relation.with_dims([*relation.dims[:2], out]), *(Latest() for _ in states)]


def _beside(stream: Rewriting, node: fx.Node, relation: Along) -> tuple[Any, Any]:
    """A layer over another axis, with the steps among its rows."""
    args = list(arguments(node))
    states = args[1:-5]
    if not all(state is None or is_zeros(state) for state in states):
        stream.refuse("takes a state for each step", "Start it from zeros")
    weights = fx.node.map_arg(args[-4], stream.now)
    new = stream.emit(node.target, stream.now(args[0]), *(None for _ in states), None, weights, *args[-3:])
    values = node.meta["val"]
    found = [
        relation.with_dims(
            [(Atom(expression(value.shape[0])),), relation.dims[1], (Atom(sympy.Integer(value.shape[2])),)]
        )
        for value in values
    ]
    return new, found


def loop(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A scan: over the steps it carries its states."""
    _, states, xs, closure, reverse = arguments(node)
    relations = [stream.relations[x] for x in xs]
    if reverse or any(isinstance(stream.relations[one], Along) for one in [*states, *closure]):
        stream.refuse("reads each sequence from its end, or takes what follows the steps", "Run it forward")
    if not all(isinstance(one, Along) and one.dim == 0 and one.alone for one in relations):
        stream.refuse("runs over something else than the steps", "Give time a dimension of its own")
    pieces = [stream.from_the_start(x) for x in xs]
    if any(state is None or is_zeros(state) for state in states):
        stream.refuse("starts from a state of its own", "Give it a state that is lifted")
    stream.carried = True
    new = stream.copy(node, {2: [piece for piece, _ in pieces]})
    along = pieces[0][1]
    results = [
        along.with_dims([(STEPS,), *((Atom(expression(s)),) if s != 1 else () for s in value.shape[1:])])
        for value in node.meta["val"][len(states) :]
    ]
    return new, [*(Latest() for _ in states), *results]


RULES: dict[Any, Rule] = {**dict.fromkeys(leaves.RECURRENT, layer), scan_leaf.scan: loop}
