"""Values that are zeros by construction."""

from __future__ import annotations

from torch import fx

from .graph import JOINS, MOVES, aten

_ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.zero.default, aten.zero_.default}
_FULL = {
    **{aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2},
    **{aten.fill.Scalar: 1, aten.fill_.Scalar: 1},
}


def is_zeros(node: fx.Node) -> bool:
    """Whether a node's value is zeros by construction."""
    if _written(node):
        return False
    if node.target in _FULL:
        return bool(node.args[_FULL[node.target]] == 0)
    if node.target in MOVES:
        return is_zeros(node.all_input_nodes[0])
    if node.target in JOINS:
        return all(map(is_zeros, node.all_input_nodes))
    return node.target in _ZEROS


def _written(node: fx.Node) -> bool:
    """Whether some operator changes a node's value in place, or a view of it."""
    return any(changes(user) or (user.target in MOVES and _written(user)) for user in node.users)


def changes(node: fx.Node) -> bool:
    """Whether an operator changes its argument in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)
