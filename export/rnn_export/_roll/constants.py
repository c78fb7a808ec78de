"""Constants that each step makes anew, as `torch.tensor(0.9)` in a loop's body: numbers, or one for all steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from .rewrite import aten

_WHOLE = {torch.int64, torch.int32}


def settle_constants(program: ExportedProgram) -> None:
    """Write out constants of one whole number, which may count steps, and merge others that are equal; in place."""
    for node, value in _constants(program):
        if value.numel() == 1 and value.dtype in _WHOLE:
            _write_out(node, value)
    known: dict[object, fx.Node] = {}
    for node, value in _constants(program):
        one = known.setdefault(_bits(value), node)
        if one is not node:
            node.replace_all_uses_with(one)
    # A longer loop makes more constants before one that follows it: a name goes by the order of those that are left.
    for k, node in enumerate(known.values()):
        old = node.name
        node._rename(f"constant_{k}")
        node.target = node.name
        program.graph_signature.replace_all_uses(old, node.name)


def _constants(program: ExportedProgram) -> Iterator[tuple[fx.Node, Tensor]]:
    """The placeholders of constant tensors that something takes, and their values."""
    names = program.graph_signature.inputs_to_lifted_tensor_constants
    for node in program.graph.find_nodes(op="placeholder"):
        value = program.constants[names[node.name]] if node.name in names and node.users else None
        if isinstance(value, Tensor):
            yield node, value


def _bits(value: Tensor) -> object:
    """What two constants share that are the same to every bit."""
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return value.dtype, value.device, value.shape, plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _write_out(node: fx.Node, value: Tensor) -> None:
    for user in list(node.users):
        with node.graph.inserting_before(user):
            number = node.graph.call_function(
                aten.full.default, (list(value.shape), int(value)), {"dtype": value.dtype}
            )
        number.meta = {k: v for k, v in user.meta.items() if k in ("stack_trace", "nn_module_stack")}
        number.meta["val"] = node.meta["val"]
        user.replace_input_with(node, number)
