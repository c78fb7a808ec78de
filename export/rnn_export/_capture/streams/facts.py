"""Reading a node of a captured program: its sizes, its arguments, its name."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx

from ..graph import OPERATORS


def is_number(node: fx.Node) -> bool:
    """Whether a node is a size or computed from sizes."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)


def expression(size: Any) -> sympy.Expr:
    """A size as an expression."""
    return size.node.expr if isinstance(size, torch.SymInt | torch.SymFloat) else sympy.sympify(size)


def expressions(node: fx.Node) -> list[sympy.Expr]:
    """The shape of a node's value."""
    return [expression(size) for size in node.meta["val"].shape]


def name_of(node: fx.Node) -> str:
    """An operator by its name in PyTorch."""
    if node.op != "call_function":
        return f"the input {node.name!r}"
    return OPERATORS.get(node.target) or str(node.target).removesuffix(".default")


def bound(node: fx.Node) -> dict[str, Any]:
    """A node's arguments by their names, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    found = {}
    for k, argument in enumerate(schema.arguments):
        if k < len(node.args):
            found[argument.name] = node.args[k]
        else:
            found[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return found
