"""State that the model itself takes and returns: which input goes with which output."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from torch import fx
from torch.export import ExportedProgram

from .graph import arguments, aten, initial_states, origins, recurrent, user_inputs, user_outputs

Slots = list[tuple[fx.Node, int]]


def pairs(program: ExportedProgram, taken: Mapping[int, int]) -> dict[int, int]:
    """Which output gives the next value of which input: {input position: output position}.

    An input and an output are a pair when the input's values reach the initial states of some recurrent calls, moved
    about or masked at most, the final states of the same calls reach the output in the same order, and both have the
    same shape. Pairs that are `taken` already are left out.
    """
    found: dict[int, int] = {}
    initial = [_initial(program, node) for node in user_inputs(program)]
    final = [_final(program, node) for node in user_outputs(program)]
    for i, source in enumerate(user_inputs(program)):
        for j, output in enumerate(user_outputs(program)):
            free = i not in taken and j not in taken.values() and j not in found.values()
            if free and initial[i] and initial[i] == final[j] and _alike(source, output):
                found[i] = j
                break
    return found


def returned(program: ExportedProgram) -> list[int]:
    """The positions of outputs that are final states of calls which start from zeros at each run."""
    given = {slot for source in user_inputs(program) for slot in _initial(program, source)}
    finals = [_final(program, output) for output in user_outputs(program)]
    return [j for j, slots in enumerate(finals) if slots and not given & set(slots)]


def _initial(program: ExportedProgram, source: fx.Node) -> Slots:
    """The state arguments of recurrent calls that take their values from `source`, by where in it they begin."""
    found: list[tuple[tuple[int, ...], tuple[fx.Node, int]]] = []
    for leaf in recurrent(program):
        for slot, state in initial_states(leaf):
            way = origins(state, scaled=True) if state is not None else []
            # Of a product of two inputs of one shape nobody can tell which is the state and which the mask.
            rivals = [other for other in user_inputs(program) if other in way and _alike(other, source)]
            if rivals == [source]:
                starts = tuple(start for node in reversed(way) if (start := _start(node)) is not None)
                found.append((starts, (leaf, slot)))
    return [slot for _, slot in sorted(found, key=lambda item: item[0])]


def _start(node: fx.Node) -> int | None:
    """Where a part begins in what it is taken from."""
    if node.target in (aten.slice.Tensor, aten.select.int):
        return int(node.args[2]) if len(node.args) > 2 else 0  # type: ignore[arg-type]
    if node.target is operator.getitem:
        return int(node.args[1])  # type: ignore[arg-type]
    return None


def _final(program: ExportedProgram, output: fx.Node) -> Slots:
    """The final states of recurrent calls whose values reach `output`, in its order."""
    leaves = set(recurrent(program))
    results = (arguments(node) for node in origins(output) if node.target is operator.getitem)
    return [(leaf, slot) for leaf, slot in results if leaf in leaves and slot in dict(initial_states(leaf))]


def _alike(a: fx.Node, b: fx.Node) -> bool:
    x, y = a.meta["val"], b.meta["val"]
    return x.dtype == y.dtype and [str(size) for size in x.shape] == [str(size) for size in y.shape]
