"""The leaf of rnn_export.scan: a step function, captured as a graph of its own, run over the first axis of tensors.

PyTorch's scan operator takes the step's closure apart. It does not pass all of the tools that follow, so its node is
then replaced by this leaf, which names the step's graph by a number.
"""

# No `from __future__ import annotations`: custom_op reads the operator's schema from the real annotations.
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from .._errors import ExportError
from .leaves import NAMESPACE

STEPS: dict[int, fx.GraphModule] = {}
"""Number -> the graph of a step: (states..., x..., closure...) -> (next states..., outputs...)."""

_NUMBERS = itertools.count()


@torch.library.custom_op(f"{NAMESPACE}::scan", mutates_args=())
def _scan(step: int, states: list[Tensor], xs: list[Tensor], closure: list[Tensor], reverse: bool) -> list[Tensor]:
    length = xs[0].shape[0]
    outputs: list[Sequence[Tensor]] = []
    for t in reversed(range(length)) if reverse else range(length):
        results = STEPS[step](*states, *(x[t] for x in xs), *closure)
        states, output = list(results[: len(states)]), results[len(states) :]
        outputs.append(output)
    if reverse:
        outputs.reverse()
    return [*(state.clone() for state in states), *(torch.stack(values) for values in zip(*outputs, strict=True))]


@_scan.register_fake
def _(step: int, states: list[Tensor], xs: list[Tensor], closure: list[Tensor], reverse: bool) -> list[Tensor]:
    results = STEPS[step](*states, *(x[0] for x in xs), *closure)
    outputs = results[len(states) :]
    return [*map(torch.empty_like, states), *(y.new_empty(xs[0].shape[0], *y.shape) for y in outputs)]


scan = torch.ops.rnn_export.scan.default


def add_step(step: fx.GraphModule) -> int:
    """A number for a step's graph, by which the leaf names it."""
    number = next(_NUMBERS)
    STEPS[number] = step
    return number


def replace_scans(program: ExportedProgram) -> None:
    """Put this leaf in the place of PyTorch's scan operator, in place."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.higher_order.scan:
            continue
        body, states, xs, extra = node.args[:4]
        step = getattr(program.graph_module, body.target)
        closure = _without_sizes(step, list(extra), len(states) + len(xs))
        number = add_step(step)
        reverse = node.kwargs.get("reverse", node.args[4] if len(node.args) > 4 else False)
        node.target, node.args, node.kwargs = scan, (number, list(states), list(xs), closure, bool(reverse)), {}
    graph.eliminate_dead_code()


def _without_sizes(step: fx.GraphModule, extra: list[Any], before: int) -> list[fx.Node]:
    """The tensors among a step's closure; a size among it is taken from a tensor inside the step that has it."""
    placeholders = [node for node in step.graph.nodes if node.op == "placeholder"]
    tensors = [node for node in placeholders if isinstance(node.meta["val"], Tensor)]
    closure = []
    for value, inner in zip(extra, placeholders[before:], strict=True):
        size = inner.meta["val"]
        if isinstance(size, Tensor):
            closure.append(value)
            continue
        places = [(t, d) for t in tensors for d, s in enumerate(t.meta["val"].shape) if str(s) == str(size)]
        if not places:
            raise ExportError(
                f"a step of rnn_export.scan uses the size {size}, which no tensor in it has: take it from one's shape"
            )
        with step.graph.inserting_after(placeholders[-1]):
            own = step.graph.call_function(torch.ops.aten.sym_size.int, places[0])
        own.meta["val"] = size
        inner.replace_all_uses_with(own)
        step.graph.erase_node(inner)
    step.recompile()
    return closure
