"""The rolled program: a loop program of any length as a module with a scan in the place of each loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from .body import counts, with_tensor
from .emitter import Emitter, Nodes
from .ir import Call, Join, OfStep, Program, Repeat
from .lengths import Length
from .rows import join
from .scans import emit_loop
from .unify import Loop


def emit(
    program: ExportedProgram, fitted: Program, lengths: Sequence[Length], axes: Mapping[str, tuple[str, int]]
) -> fx.GraphModule:
    """A module for any lengths.

    Args:
        program: one of the unrolled programs.
        fitted: what holds at any length; its sources are nodes of `program`.
        lengths: what the numbers in it follow.
        axes: for each axis the name of a placeholder of the program that has it, and the dimension.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    emitter = Emitter(Nodes(fx.Graph()), fitted, lengths, axes, nodes)
    root = nn.Module()
    _bind(program, emitter, root)
    _want(fitted, emitter)
    for number, (item, source) in enumerate(zip(fitted.items, fitted.sources, strict=True)):
        emitter.v.at(source if isinstance(source, fx.Node) else source.model_step[0])
        match item:
            case Call(target, args, kwargs):
                target = with_tensor(target) if counts((args, kwargs)) else target
                emitter.made[number] = emitter.v.add(target, *emitter.plain(args), **emitter.plain(kwargs))
            case Join():
                emitter.made[number] = join(emitter, item)
            case Repeat():
                assert isinstance(source, Loop)
                emitter.loops[number] = emit_loop(emitter, number, item, source)
    emitter.v.graph.output(tuple(emitter.plain(value) for value in fitted.output))
    emitter.v.graph.eliminate_dead_code()
    return fx.GraphModule(root, emitter.v.graph)


def _bind(program: ExportedProgram, emitter: Emitter, root: nn.Module) -> None:
    """Make the inputs, and what holds weights and constants in `root`."""
    signature = program.graph_signature
    buffers = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    held = {**signature.inputs_to_parameters, **buffers}
    values = {**program.state_dict, **program.constants}
    placeholders = program.graph.find_nodes(op="placeholder")
    for node in placeholders:
        if node.name not in held:
            emitter.inputs[node.name] = emitter.v.graph.placeholder(node.name)
            emitter.inputs[node.name].meta["val"] = node.meta["val"]
    for node in placeholders:
        if node.name in held:
            value = values[held[node.name]].detach()
            if node.name in buffers:
                root.register_buffer(node.name, value)
            else:
                root.register_parameter(node.name, nn.Parameter(value, requires_grad=False))
            emitter.inputs[node.name] = emitter.v.graph.get_attr(node.name)


def _want(fitted: Program, emitter: Emitter) -> None:
    """Note which values of which loops are taken from outside them, and at which steps."""
    for leaf in pytree.tree_leaves(fitted, is_leaf=lambda leaf: isinstance(leaf, OfStep)):
        if isinstance(leaf, OfStep):
            emitter.taken.setdefault(leaf.loop, {}).setdefault(leaf.place, []).append(leaf.step)
