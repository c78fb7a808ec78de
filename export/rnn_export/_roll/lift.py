"""Lifted state of rolled loops: where a loop starts from zeros, its state is an input, and its last value a result."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_runtime import InputError

from .._capture import leaves, scan_leaf
from .._capture.graph import arguments, module_path, state_slots
from .._capture.lift import Slot
from .._capture.module import Flat
from .._capture.prepare import Prepared
from .._capture.zeros import is_zeros
from .._errors import ExportError

aten: Any = torch.ops.aten


class RolledFlat(Flat):
    """A model whose loops are rolled, with the loops' states among its inputs and results.

    It stands for the model, which cannot be given these states, once it has been proven equal to it from zeros.
    """

    stands_in = True

    def __init__(self, flat: Flat, rolled: nn.Module, slots: tuple[Slot, ...]) -> None:
        super().__init__(flat.model, flat.inputs)
        self.rolled = rolled
        self.lifted = slots

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.rolled(*flat))


def lift(prepared: Prepared, rolled: nn.Module, graph: fx.GraphModule) -> Prepared:
    """`prepared` with the states of the loops in `graph`, which `rolled` runs, lifted; `graph` is changed.

    Raises:
        ExportError: a loop runs over the sequence from its end, or no loop and no layer starts from zeros.
    """
    own: list[Slot] = []
    finals: list[fx.Node] = []
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    names = _axis_names(prepared, inputs)
    for node in [n for n in graph.graph.nodes if n.target in leaves.RECURRENT or n.target is scan_leaf.scan]:
        states = _states(graph, node)
        if states and _from_the_end(node):
            raise ExportError(
                f"state='lift', but the loop in {module_path(node) or 'the model'!r} reads each sequence from its end, "
                "so it cannot run on a stream. Use state='none'"
            )
        for letter, state, put, position in states:
            slot = _slot(prepared, own, node, letter, state.meta["val"], names)
            own.append(slot)
            with graph.graph.inserting_after(inputs[-1]):
                inputs.append(graph.graph.placeholder(f"lifted_{len(own)}"))  # a module's path may begin with a digit
            _give(graph, node, put, inputs[-1])
            finals.append(_final(graph, node, position))
    if not own and not prepared.flat.lifted:
        raise ExportError("state='lift', but every loop is given its state by the model: use state='auto'")
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    output.args = ((*arguments(output)[0], *finals),)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    slots = (*prepared.flat.lifted, *own)
    inner = prepared.flat.inputs
    inner.example += [slot.zeros(prepared.example_sizes) for slot in own]
    return replace(
        prepared,
        flat=RolledFlat(prepared.flat, rolled, slots),
        names=[*prepared.names, *(slot.input for slot in own)],
        axes={**prepared.axes, **{slot.input: slot.axes for slot in own}},
        traced=[*prepared.traced, *(slot.zeros(prepared.sizes) for slot in own)],
        output_paths=[*prepared.output_paths, *((slot.output,) for slot in own)],
    )


def _states(graph: fx.GraphModule, node: fx.Node) -> list[tuple[str, fx.Node, Any, int]]:
    """(name, initial value, where it stands among the arguments, where its last value among the results)."""
    args = arguments(node)
    if node.target is scan_leaf.scan:
        named = ["h"] if len(args[1]) == 1 else [f"state_{k}" for k in range(len(args[1]))]
        return [(named[k], s, k, k) for k, s in enumerate(args[1]) if _zero(graph, s)]
    found = []
    for letter, slot in zip("hc", state_slots(node), strict=False):
        given = args[slot]
        if given is not None and given.target is aten.unsqueeze.default and _zero(graph, given.args[0]):
            found.append((letter, given.args[0], slot, slot))
    return found


def _zero(graph: fx.GraphModule, node: fx.Node) -> bool:
    if "val" not in node.meta:
        return False
    source = node
    while source.target in (aten.expand.default, aten.unsqueeze.default, aten.to.dtype):
        source = source.all_input_nodes[0]
    if source.op == "get_attr":  # a buffer, where it is no weight
        value = getattr(graph, str(source.target))
        return not isinstance(value, nn.Parameter) and not bool(value.any())
    return is_zeros(node)


def _from_the_end(node: fx.Node) -> bool:
    """Whether a loop's sequence comes out of a flip."""
    args = arguments(node)
    over = args[2] if node.target is scan_leaf.scan else [args[0]]
    return any(x.target is aten.flip.default and 0 in x.args[1] for x in over)


def _axis_names(prepared: Prepared, inputs: list[fx.Node]) -> dict[str, str]:
    """The axes by the symbol of their size."""
    return {
        str(node.meta["val"].shape[dim]): axis
        for name, node in zip(prepared.names, inputs, strict=True)
        for dim, axis in prepared.axes[name].items()
        if isinstance(node.meta["val"].shape[dim], torch.SymInt)  # a length that was traced is no one's name
    }


def _slot(
    prepared: Prepared, others: list[Slot], node: fx.Node, letter: str, value: Any, names: dict[str, str]
) -> Slot:
    shape = tuple(names.get(str(size), size) for size in value.shape)
    if any(not isinstance(size, int | str) for size in shape):
        raise ExportError(
            f"state='lift', but the state of the loop in {module_path(node) or 'the model'!r} has a size that is no "
            "axis of the inputs. Use state='none'"
        )
    stem = module_path(node).replace(".", "_")
    known = {*prepared.names, *(other.input for other in others)}
    for again in range(1, len(known) + 2):
        name = "_".join(filter(None, [stem, str(again) if again > 1 else "", letter]))
        if f"{name}_0" not in known:
            return Slot(-1, f"{name}_0", f"{name}_n", shape, value.dtype)
    raise InputError("the lifted states have the names of inputs: rename those with input_names")


def _give(graph: fx.GraphModule, node: fx.Node, place: Any, state: fx.Node) -> None:
    args = list(arguments(node))
    if node.target is scan_leaf.scan:
        args[1] = [state if k == place else other for k, other in enumerate(args[1])]
    else:
        with graph.graph.inserting_before(node):
            args[place] = graph.graph.call_function(aten.unsqueeze.default, (state, 0))
    node.args = tuple(args)


def _final(graph: fx.GraphModule, node: fx.Node, position: int) -> fx.Node:
    (output,) = (n for n in graph.graph.nodes if n.op == "output")
    with graph.graph.inserting_before(output):
        final: fx.Node = graph.graph.call_function(operator.getitem, (node, position))
        if node.target is not scan_leaf.scan:
            final = graph.graph.call_function(aten.squeeze.dim, (final, 0))
    return final
