"""Operators that change their argument in place, as such that give a new value."""

from __future__ import annotations

import torch
from torch import fx

from ..graph import MOVES, arguments, aten
from ..zeros import changes


def without_writes(graph: fx.Graph) -> None:
    """Put the form that gives a new value in the place of every `relu_` and the like that changes a value of its own.

    A value that something else has a view of stays as it is, and is refused later by name.
    """
    order = {node: k for k, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op != "call_function" or not changes(node) or torch.Tag.pointwise not in node.target.tags:
            continue
        source = arguments(node)[0]
        packet = getattr(aten, node.target._schema.name.removeprefix("aten::").removesuffix("_"), None)
        plain = getattr(packet, node.target._overloadname, None)
        views = any(user.target in MOVES and order[user] < order[node] for user in source.users)
        if plain is None or views or source.op != "call_function" or source.target in MOVES:
            continue
        node.target = plain
        later = [user for user in source.users if order[user] > order[node]]
        for user in later:
            user.replace_input_with(source, node)
