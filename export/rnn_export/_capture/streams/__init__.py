"""Streams: a captured program as one that takes a piece of a sequence and the states that the steps before left.

A pass over the program gives each value its relation to the streamed axis (relation.py), by a table of operators
(operators.py), and writes the program anew (rewrite.py): where a window looks back, a state holds the last steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.traceback import preserve_node_meta

from rnn_runtime import InputError

from ..builtins import traced
from ..graph import arguments, user_inputs
from ..lift import Slot
from ..module import REFUSED, Flat
from ..prepare import Prepared
from .facts import expression
from .numbers import with_numbers
from .operators import rule
from .prove import require_equal
from .relation import Atom
from .rewrite import Rewriting
from .writer import Held, Unstreamable
from .writes import without_writes

__all__ = ["Found", "StreamedFlat", "Unstreamable", "find", "put"]


class Streamed(nn.Module):
    """A model of flat tensors that takes pieces of a stream."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.streamed = graph

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        if not traced():
            return tuple(self.streamed(*flat))
        with preserve_node_meta():  # the lines of code and the modules' names come along into a trace
            return tuple(fx.Interpreter(self.streamed).run(*flat))


class StreamedFlat(Flat):
    """A model written anew for streams, with its states among its inputs and results.

    It stands for the model, which cannot be given these states, once it has been proven equal to it from zeros.

    Attributes:
        axis: the one that a stream is cut along.
    """

    stands_in = True

    def __init__(self, flat: Flat, streamed: nn.Module, slots: tuple[Slot, ...], axis: str) -> None:
        super().__init__(flat.model, flat.inputs)
        self.streamed = streamed
        self.kept = flat.kept
        self.lifted = slots
        self.axis = axis

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.streamed(*flat))


@dataclass(frozen=True)
class Found:
    """A program that has been written anew.

    Attributes:
        axis: the one that a stream is cut along.
        module: the program, with its weights.
        rewriting: what became of it.
    """

    axis: str
    module: fx.GraphModule
    rewriting: Rewriting


def put(prepared: Prepared, settled: Prepared, found: Found) -> tuple[Prepared, nn.Module]:
    """`settled` with the model written anew for streams, and what runs in its place.

    Args:
        prepared: the model, with the limits that were declared.
        settled: the same with what it asks of its sizes settled for whole sequences.
        found: the program.

    Raises:
        ExportError: what was written is not the model.
    """
    held, graph = found.rewriting.held, found.rewriting.graph
    placed = [node for node in graph.nodes if node.op == "placeholder"]
    held.sort(key=lambda one: placed.index(one.input))
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = ((*arguments(output)[0], *(one.output for one in held)),)
    graph.eliminate_dead_code()
    graph.lint()
    module = Streamed(fx.GraphModule(found.module, graph))
    declared, asked = prepared.limits.get(found.axis), settled.limits.get(found.axis)
    least = 1
    if asked is not None and asked != declared:
        if asked.max != (declared.max if declared else None):
            raise Unstreamable(
                f"state='lift', but the model takes whole sequences of {asked.sizes} alone ({asked.reason}), and a "
                "stream has no end. Use state='none'"
            )
        least = asked.min
    streamed = _streamed(_any_length(prepared, settled, found.axis), module, _slots(prepared, found, held), found.axis)
    require_equal(prepared, streamed, found.axis, least, [one.span for one in held])
    return streamed, module


def _any_length(prepared: Prepared, settled: Prepared, axis: str) -> Prepared:
    """`settled` without the limit that whole sequences have: a piece may be shorter."""
    limits = {**{name: limit for name, limit in settled.limits.items() if name != axis}}
    if axis in prepared.limits:
        limits[axis] = prepared.limits[axis]
    how = "shorter sequences, in pieces and whole, give what eager PyTorch gives"
    assumptions = tuple(
        replace(one, settled="tried", how=how) if one.settled == "limited" and one.how.startswith(axis) else one
        for one in settled.assumptions
    )
    return replace(settled, limits=limits, assumptions=assumptions)


def _streamed(prepared: Prepared, module: nn.Module, own: Sequence[Slot], axis: str) -> Prepared:
    flat = StreamedFlat(prepared.flat, module, (*prepared.flat.lifted, *own), axis)
    flat.inputs = replace(
        flat.inputs, example=[*flat.inputs.example, *(slot.zeros(prepared.example_sizes) for slot in own)]
    )
    return replace(
        prepared,
        flat=flat.eval(),
        names=[*prepared.names, *(slot.input for slot in own)],
        axes={**prepared.axes, **{slot.input: slot.axes for slot in own}},
        traced=[*prepared.traced, *(slot.zeros(prepared.sizes) for slot in own)],
        output_paths=[*prepared.output_paths, *((slot.output,) for slot in own)],
        unlifted=None,
    )


def find(prepared: Prepared, program: ExportedProgram) -> Found | None:
    """The program written anew for streams along the one axis where that can be; None where nothing is to do.

    Raises:
        Unstreamable: an operator has no form on a stream; names it.
    """
    good: list[Found] = []
    bad: list[Unstreamable] = []
    for axis in prepared.sizes:
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        without_writes(module.graph)
        try:
            rewriting = _rewriting(prepared, program, module, axis)
            rewriting.run()
        except Unstreamable as error:
            bad.append(error)
            continue
        if rewriting.held or rewriting.carried:
            good.append(Found(axis, module, rewriting))
    carried = [one for one in good if one.rewriting.carried]
    if len(carried or good) > 1:
        axes = " and ".join(repr(one.axis) for one in carried or good)
        raise Unstreamable(f"state='lift', but {axes} could be streamed: leave one of them out of `axes`")
    if carried or (good and not bad):
        found = (carried or good)[0]
        return found if found.rewriting.held else None
    if bad:
        raise bad[-1]
    return None


def _rewriting(prepared: Prepared, program: ExportedProgram, module: fx.GraphModule, axis: str) -> Rewriting:
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    # a graph that was made a module has lost the types of its values on the way to its inputs
    for node, source in zip(inputs, user_inputs(program), strict=True):
        node.meta.setdefault("val", source.meta["val"])
    streamed = {
        node.name: dim
        for name, node in zip(prepared.names, inputs, strict=True)
        for dim, own in prepared.axes[name].items()
        if own == axis
    }
    first = next(node for node in inputs if node.name in streamed)
    steps = expression(first.meta["val"].shape[streamed[first.name]])
    return Rewriting(module, streamed, steps, rule, with_numbers, _Probe(prepared, module))


class _Probe:
    """Values that follow from weights and sizes, and from inputs that have no steps."""

    def __init__(self, prepared: Prepared, module: fx.GraphModule) -> None:
        self._module = module
        self._inputs = prepared.traced
        self._known: dict[fx.Node, object] = {}

    def __call__(self, node: fx.Node) -> Tensor | None:
        try:
            with torch.no_grad():
                value = self._value(node)
        except REFUSED:
            return None
        return value if isinstance(value, Tensor) else None

    def _value(self, node: fx.Node) -> object:
        if node not in self._known:
            if node.op == "placeholder":
                place = [one for one in node.graph.nodes if one.op == "placeholder"].index(node)
                value: object = self._inputs[place]
            elif node.op == "get_attr":
                value = self._module
                for part in str(node.target).split("."):
                    value = getattr(value, part)
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)  # type: ignore[arg-type]
                value = node.target(*args, **kwargs)  # type: ignore[operator]
            self._known[node] = value
        return self._known[node]


def _slots(prepared: Prepared, found: Found, held: Sequence[Held]) -> tuple[Slot, ...]:
    names = {
        str(expression(node.meta["val"].shape[dim])): axis
        for name, node in zip(
            prepared.names, (n for n in found.module.graph.nodes if n.op == "placeholder"), strict=True
        )
        for dim, axis in prepared.axes[name].items()
    }
    slots: list[Slot] = []
    for one in held:
        shape = tuple(_size(atom, names, one) for atom in one.atoms)
        known = {*prepared.names, *(slot.input for slot in slots)}
        for again in range(1, len(known) + 2):
            more = [str(again)] if again > 1 else []
            name = "_".join([one.stem, *more, one.letter] if one.stem else [one.letter, *more])
            if f"{name}_0" not in known:
                slots.append(Slot(-1, f"{name}_0", f"{name}_n", shape, one.dtype, one.holds))
                break
        else:
            raise InputError("the lifted states have the names of inputs: rename those with input_names")
    return tuple(slots)


def _size(atom: Atom, names: dict[str, str], held: Held) -> int | str:
    if atom.size.is_Integer:
        return int(atom.size)
    if str(atom.size) in names:
        return names[str(atom.size)]
    raise Unstreamable(
        f"state='lift', but {held.holds} has a size ({atom.size}) that is no axis of the inputs. Use state='none'"
    )
