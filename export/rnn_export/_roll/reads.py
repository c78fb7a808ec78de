"""How the nodes of an unrolled program are told apart: those that work from reads, and like ones from others."""

from __future__ import annotations

import operator
from collections.abc import Collection

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from .ir import Part, Path
from .rewrite import aten

VIRTUAL = {aten.select.int, aten.slice.Tensor, operator.getitem}
"""Reads: what they give is seen as a part of what they read, and not as a step's own work."""

JOINS = {aten.stack.default, aten.cat.default}


def is_work(node: fx.Node) -> bool:
    """Whether a node computes something: no input, no read, no size."""
    value = node.meta.get("val")
    return node.op == "call_function" and node.target not in VIRTUAL and isinstance(value, Tensor | tuple | list)


def stem(node: fx.Node) -> tuple[fx.Node, Path]:
    """A node without the reads on top of it, and those reads, innermost first."""
    path: list[Part] = []
    while node.op == "call_function" and node.target in VIRTUAL:
        path.insert(0, Part(node.target, node.args[1:]))
        (node,) = (arg for arg in node.args[:1] if isinstance(arg, fx.Node))
    return node, tuple(path)


def value_numbers(graph: fx.Graph) -> dict[fx.Node, int]:
    """Equal numbers for nodes that compute the same from the same."""
    numbers: dict[fx.Node, int] = {}
    seen: dict[object, int] = {}
    for node in graph.nodes:
        key: object = node
        if node.op == "call_function" and not (set(getattr(node.target, "tags", ())) & _RANDOM):
            shown = fx.node.map_arg((node.args, node.kwargs), lambda a: f"%{numbers[a]}")
            key = (str(node.target), repr(shown))
        numbers[node] = seen.setdefault(key, len(seen))
    return numbers


_RANDOM = {torch.Tag.nondeterministic_seeded}


def token(node: fx.Node, held: Collection[str]) -> object:
    """What nodes of like steps share: operator, line of code, and what is plain or in `held` among the arguments."""

    def shown(value: Argument) -> object:
        if isinstance(value, fx.Node):
            return value.name if value.name in held else "*"
        if isinstance(value, tuple | list):
            made = [shown(item) for item in value]
            # A list that grows from step to step is found, and refused by its name.
            return ["*", ...] if node.target in JOINS and set(map(str, made)) == {"*"} else made
        if isinstance(value, dict):
            return {key: shown(item) for key, item in value.items()}
        return "#" if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)

    return str(node.target), repr(shown((node.args, dict(node.kwargs)))), node.meta.get("stack_trace")


def shapes(node: fx.Node) -> list[str]:
    """The sizes and dtype of each tensor that a node gives, as text."""
    values = node.meta["val"]
    return [
        f"{tuple(map(str, v.shape))} {v.dtype}"
        for v in (values if isinstance(values, tuple | list) else [values])
        if isinstance(v, Tensor)
    ]
