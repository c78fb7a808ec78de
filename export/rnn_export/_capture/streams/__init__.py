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

from ..graph import user_inputs
from ..lift import Slot
from ..module import REFUSED, Flat
from ..prepare import Prepared
from .operators import rule
from .prove import require_equal
from .relation import Atom
from .rewrite import Held, Rewriting, Unstreamable, expression

__all__ = ["StreamedFlat", "Unstreamable", "stream"]


class Streamed(nn.Module):
    """A model of flat tensors that takes pieces of a stream."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.streamed = graph

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
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
class _Found:
    axis: str
    module: fx.GraphModule
    rewriting: Rewriting


def stream(prepared: Prepared, program: ExportedProgram) -> tuple[Prepared, nn.Module] | None:
    """`prepared` with the model written anew for streams, and what runs in its place; None where nothing is to do.

    Raises:
        Unstreamable: an operator has no form on a stream; names it.
        ExportError: what was written is not the model.
    """
    found = _found(prepared, program)
    if found is None:
        return None
    held = found.rewriting.held
    if not held:
        return None
    graph = found.rewriting.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = ((*output.args[0], *(one.output for one in held)),)  # type: ignore[misc]
    placed = [node for node in graph.nodes if node.op == "placeholder"][len(prepared.names) :]
    held.sort(key=lambda one: placed.index(one.input))
    output.args = ((*output.args[0][: -len(held)], *(one.output for one in held)),)  # type: ignore[index]
    graph.eliminate_dead_code()
    graph.lint()
    module = Streamed(fx.GraphModule(found.module, graph))
    own = _slots(prepared, found, held)
    streamed = _streamed(prepared, module, own, found.axis)
    require_equal(prepared, streamed, found.axis)
    return streamed, module


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


def _found(prepared: Prepared, program: ExportedProgram) -> _Found | None:
    """The one axis along which the program can be written for streams."""
    good: list[_Found] = []
    bad: list[Unstreamable] = []
    for axis in prepared.sizes:
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        try:
            rewriting = _rewriting(prepared, program, module, axis)
            rewriting.run()
        except Unstreamable as error:
            bad.append(error)
            continue
        if rewriting.held or rewriting.carried:
            good.append(_Found(axis, module, rewriting))
    carried = [one for one in good if one.rewriting.carried]
    if len(carried or good) > 1:
        axes = " and ".join(repr(one.axis) for one in carried or good)
        raise Unstreamable(f"state='lift', but {axes} could be streamed: leave one of them out of `axes`")
    if carried or (good and not bad):
        return (carried or good)[0]
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
    return Rewriting(module, streamed, steps, rule, _Probe(prepared, module, inputs, streamed))


class _Probe:
    """Values of a whole run of no steps."""

    def __init__(
        self, prepared: Prepared, module: fx.GraphModule, inputs: Sequence[fx.Node], streamed: dict[str, int]
    ) -> None:
        self._module = module
        self._known: dict[fx.Node, object] = {}
        for node, tensor in zip(inputs, prepared.traced, strict=True):
            self._known[node] = tensor.narrow(streamed[node.name], 0, 0) if node.name in streamed else tensor

    def __call__(self, node: fx.Node) -> Tensor | None:
        try:
            with torch.no_grad():
                value = self._value(node)
        except REFUSED:
            return None
        return value if isinstance(value, Tensor) else None

    def _value(self, node: fx.Node) -> object:
        if node not in self._known:
            if node.op == "get_attr":
                value: object = self._module
                for part in str(node.target).split("."):
                    value = getattr(value, part)
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)  # type: ignore[arg-type]
                value = node.target(*args, **kwargs)  # type: ignore[operator]
            self._known[node] = value
        return self._known[node]


def _slots(prepared: Prepared, found: _Found, held: Sequence[Held]) -> tuple[Slot, ...]:
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
            name = "_".join(filter(None, [one.stem, str(again) if again > 1 else "", one.letter]))
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
