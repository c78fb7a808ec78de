"""What the captured program says in more words than ONNX needs: zero states, and padding of what is padded already."""

from __future__ import annotations

import operator

from torch import fx
from torch.export import ExportedProgram

from . import leaves
from .graph import JOINS, MOVES, arguments, aten, recurrent, state_slots


def tidy(program: ExportedProgram) -> None:
    """Simplify `program` in place; its results stay the same."""
    _drop_zero_states(program)
    _drop_idle_pads(program)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _drop_zero_states(program: ExportedProgram) -> None:
    """Leave out initial states that are zeros by construction: without one, a leaf starts from zeros by itself."""
    for node in recurrent(program):
        args = list(node.args)
        for slot in state_slots(node):
            state = args[slot]
            if isinstance(state, fx.Node) and _is_zeros(state):
                args[slot] = None
        node.args = tuple(args)


_ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default}
_FULL = {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2}


def _is_zeros(node: fx.Node) -> bool:
    if node.target in _FULL:
        return bool(node.args[_FULL[node.target]] == 0)
    if node.target in MOVES:
        return _is_zeros(node.all_input_nodes[0])
    if node.target in JOINS:
        return all(map(_is_zeros, node.all_input_nodes))
    return node.target in _ZEROS


def _drop_idle_pads(program: ExportedProgram) -> None:
    """Leave out padding with zeros of a recurrent output to its own length: past a row's end it is zero already."""
    for node in list(program.graph.nodes):
        if node.target is not leaves.pad:
            continue
        y, lengths, value, _total = arguments(node)
        if y.target is not operator.getitem or value != 0:
            continue
        leaf, position = arguments(y)
        packed = leaf.target in leaves.RECURRENT and position == 0 and leaf.args[-5] is lengths
        if packed and str(node.meta["val"].shape[0]) == str(y.meta["val"].shape[0]):
            node.replace_all_uses_with(y)
