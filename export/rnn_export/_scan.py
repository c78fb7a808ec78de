"""scan(): a recurrence of one's own, a loop in eager PyTorch and one Scan in an export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan as _higher_order_scan
from torch.utils import _pytree as pytree

from ._errors import ExportError

WATCHERS: list[Callable[[Callable[[Any, Any], tuple[Any, Any]], Any, Any, bool], Any]] = []
"""Called with what an eager scan is given, to note it; what they return is the step that is then run."""


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]], initial_state: Any, xs: Any, *, reverse: bool = False
) -> tuple[Any, Any]:
    """Run `step` over the first axis of `xs`, each call with the state that the one before left.

    In eager mode it is a Python loop, so it trains and debugs as one. `rnn_export.export` keeps it whole, as a Scan
    with a dynamic number of steps. `step` may use modules and tensors from around it, such as an attention's memory.

    Args:
        step: (state, x) -> (next state, output). State and output keep their shapes and dtypes from step to step. x is
            `xs` at one step; x, state and output are tensors, or tuples, lists or dicts of them.
        initial_state: the state before the first step.
        xs: the sequence, (sequence, ...) for each tensor in it; at least one step.
        reverse: run from the last step to the first; outputs stay in the order of `xs`.

    Returns:
        The last state, and the outputs stacked along a new first axis.

    Raises:
        ValueError: `xs` holds no tensor or no step, its tensors differ in their number of steps, or a step changes the
            structure, a shape or a dtype of the state.
        ExportError: TorchScript is being traced, which would unroll the loop.
    """
    leaves = pytree.tree_leaves(xs)
    if not leaves or any(not isinstance(x, Tensor) or x.dim() == 0 for x in leaves):
        raise ValueError("scan: xs holds no tensors with a first axis to run over")
    if torch.compiler.is_exporting():
        return _exported(step, initial_state, xs, reverse=reverse)
    if torch._C._get_tracing_state() is not None:
        raise ExportError(
            "the model calls rnn_export.scan, and a TorchScript trace would unroll it at the traced length: export "
            "with formats=['onnx'] (--format onnx)"
        )
    steps = [x.shape[0] for x in leaves]
    if steps[0] == 0 or any(other != steps[0] for other in steps[1:]):
        raise ValueError(f"scan: the tensors in xs have {steps} steps; expected one number of 1 or more")
    for watcher in WATCHERS:
        step = watcher(step, initial_state, xs, reverse)
    rows = list(zip(*(x.unbind(0) for x in leaves), strict=True))
    structure = pytree.tree_structure(xs)
    state, outputs = initial_state, []
    for row in reversed(rows) if reverse else rows:
        new, output = step(state, pytree.tree_unflatten(row, structure))
        state = _like(initial_state, new)
        outputs.append(output)
    if reverse:
        outputs.reverse()
    return state, pytree.tree_map(lambda *values: torch.stack(values), *outputs)


def _like(initial: Any, new: Any) -> Any:
    """The new state in the structure of the initial one. Raises ValueError where it is another state."""
    if isinstance(initial, dict) and isinstance(new, dict) and initial.keys() == new.keys():
        return {key: _like(initial[key], new[key]) for key in initial}
    if isinstance(initial, tuple | list) and isinstance(new, tuple | list) and len(initial) == len(new):
        return type(initial)([_like(a, b) for a, b in zip(initial, new, strict=True)])
    if isinstance(initial, Tensor) and isinstance(new, Tensor):
        if initial.shape == new.shape and initial.dtype == new.dtype:
            return new
        raise ValueError(
            f"scan: a step turns a state of {initial.dtype} {tuple(initial.shape)} into one of {new.dtype} "
            f"{tuple(new.shape)}; shape and dtype have to stay"
        )
    raise ValueError("scan: a step returns a state of another structure than the initial one, or one that is no tensor")


def _exported(
    step: Callable[[Any, Any], tuple[Any, Any]], initial_state: Any, xs: Any, *, reverse: bool
) -> tuple[Any, Any]:
    """The same as PyTorch's scan operator, which wants every result to be a tensor of its own."""

    def own(value: Any) -> Any:
        return pytree.tree_map(torch.clone, value)

    def combine(state: Any, x: Any) -> tuple[Any, Any]:
        new, output = step(state, x)
        return own(_like(initial_state, new)), own(output)

    last, outputs = _higher_order_scan(combine, own(initial_state), own(xs), dim=0, reverse=reverse)
    return last, outputs
