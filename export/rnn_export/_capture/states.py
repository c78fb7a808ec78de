"""State that the model itself takes and returns: which input goes with which output."""

from __future__ import annotations

from torch import fx
from torch.export import ExportedProgram

from .graph import arguments, origins, recurrent, state_slots, user_inputs, user_outputs

Slots = set[tuple[fx.Node, int]]


def pairs(program: ExportedProgram) -> dict[int, int]:
    """Which output gives the next value of which input: {input position: output position}.

    An input and an output are a pair when the input's values reach the initial states of some recurrent calls, moved
    about or masked at most, the final states of the same calls reach the output in the same way, and both have the
    same shape.
    """
    found: dict[int, int] = {}
    initial = [_initial(program, node) for node in user_inputs(program)]
    final = [_final(program, node) for node in user_outputs(program)]
    for i, source in enumerate(user_inputs(program)):
        for j, output in enumerate(user_outputs(program)):
            if initial[i] and initial[i] == final[j] and _alike(source, output) and j not in found.values():
                found[i] = j
                break
    return found


def _initial(program: ExportedProgram, source: fx.Node) -> Slots:
    """The state arguments of recurrent calls that take their values from `source`."""
    slots = ((leaf, slot) for leaf in recurrent(program) for slot in state_slots(leaf))
    return {
        (leaf, slot) for leaf, slot in slots if leaf.args[slot] is not None and source in origins(_node(leaf, slot))
    }


def _final(program: ExportedProgram, output: fx.Node) -> Slots:
    """The final states of recurrent calls whose values reach `output`."""
    leaves = set(recurrent(program))
    results = (arguments(node) for node in origins(output) if node.all_input_nodes[:1] and len(node.args) == 2)
    return {(leaf, slot) for leaf, slot in results if leaf in leaves and slot in state_slots(leaf)}


def _node(leaf: fx.Node, slot: int) -> fx.Node:
    node: fx.Node = arguments(leaf)[slot]
    return node


def _alike(a: fx.Node, b: fx.Node) -> bool:
    x, y = a.meta["val"], b.meta["val"]
    return x.dtype == y.dtype and [str(size) for size in x.shape] == [str(size) for size in y.shape]
