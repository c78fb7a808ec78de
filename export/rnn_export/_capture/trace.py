"""The trace: torch.export under the capture's function mode, at two sizes; and what it refuses, in the user's terms."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from .._errors import ExportError
from .._quiet import quiet
from . import axes as axis_map
from . import fixed
from .graph import user_inputs
from .mode import Capture
from .module import REFUSED, copied
from .prepare import Prepared
from .sample import Sampler


def trace(prepared: Prepared, *, whole: bool = False) -> ExportedProgram:
    """The captured program; traced at two sizes, which have to give the same one.

    Args:
        prepared: the model, bound to its inputs.
        whole: one row of what is packed always fills the padded axis, so that packing cuts nothing.

    Raises:
        ExportError: the model cannot be traced, or what it does depends on the traced sizes.
    """
    program = _trace_once(prepared, prepared.traced, whole=whole)
    _require_no_limit(prepared, program)
    larger = _larger(prepared)
    again = _trace_once(
        prepared, Sampler(prepared.names, prepared.axes, prepared.traced).draw(larger, seed=0), whole=whole
    )
    for node, other in zip_longest(program.graph.nodes, again.graph.nodes):
        if node is None or other is None or _literals(node) != _literals(other):
            found = node if node is not None else other
            line = _user_line(found.meta.get("stack_trace") or "")
            where = f": {line}" if line else ""
            raise ExportError(
                f"what the model computes depends on the traced sizes ({prepared.sizes}, then {larger}){where}. Use "
                "sizes of tensors only in tensor operations, or leave the axis out of `axes`"
            )
    return program


def _larger(prepared: Prepared) -> dict[str, int]:
    """Sizes for a second trace: twice keeps what has to be even; some more than others, so that no ratio stays."""
    even = {axis: 2 * size for axis, size in prepared.sizes.items()}
    for k in range(len(even) if len(even) > 1 else 0):
        uneven = {axis: size * (2 if j == k else 1) for j, (axis, size) in enumerate(even.items())}
        if _takes(prepared, uneven):
            return uneven
    return even


def _require_no_limit(prepared: Prepared, program: ExportedProgram) -> None:
    """Refuse a model that does something else from some size on: the trace holds what it does below.

    A model that takes no larger sizes at all is another matter: eager PyTorch says so too.
    """
    for name, node in zip(prepared.names, user_inputs(program), strict=True):
        for dim, axis in prepared.axes[name].items():
            size = node.meta["val"].shape[dim]
            limits = program.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
            if limits is None or not limits.upper.is_finite or limits.upper >= _LARGE:
                continue
            if _takes(prepared, {**prepared.sizes, axis: int(limits.upper) + 1}):
                raise ExportError(
                    f"the model treats sizes of {axis!r} above {limits.upper} in another way, and a graph has one: "
                    "take the decision by size out of the model, or leave the axis out of `axes`"
                )


def _takes(prepared: Prepared, sizes: Mapping[str, int]) -> bool:
    inputs = Sampler(prepared.names, prepared.axes, prepared.traced).draw(sizes, seed=0)
    try:
        with quiet(), torch.no_grad():
            copied(prepared.flat)(*inputs)
    except REFUSED:
        return False
    return True


_LARGE = 2**31
"""Larger limits come from the number of bits, and not from the model."""


def _literals(node: torch.fx.Node) -> tuple[str, str]:
    """A node's operator and the plain values among its arguments."""
    plain = torch.fx.node.map_arg((node.args, node.kwargs), lambda _: None)
    return str(node.target) if node.op == "call_function" else node.op, str(plain)


def _trace_once(prepared: Prepared, inputs: Sequence[Tensor], *, whole: bool) -> ExportedProgram:
    # What is traced may stay in the model's attributes, so a copy is.
    flat, names, axes = copied(prepared.flat), prepared.names, prepared.axes
    dynamic = tuple(dict.fromkeys(axes[name], Dim.DYNAMIC) for name in names)
    places: list[fixed.Place] = []
    hook = flat.register_forward_pre_hook(lambda _, inputs: _unify(inputs, names, axes))
    try:
        with quiet(), torch.no_grad(), fixed.watching(flat) as places, Capture(whole=whole):
            return torch.export.export(flat, tuple(inputs), dynamic_shapes={"flat": dynamic}, strict=False)
    except ExportError:
        raise
    except Exception as error:
        raise _refusal(error, prepared, inputs, places) from error
    finally:
        hook.remove()


def _user_line(trace: str) -> str:
    """The innermost line of the user's code in a stack trace, or nothing."""
    lines = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.+)', trace)
    own = [line for line in lines if not line[0].startswith(fixed.OURS)]
    file, number, code = own[-1] if own else ("", "", "")
    return f"`{code.strip()}`, {file}:{number}" if file else ""


def _unify(inputs: tuple[Tensor, ...], names: list[str], axes: axis_map.Axes) -> None:
    """Tell the tracer that axes of one name have one size."""
    seen: dict[str, Any] = {}
    for name, tensor in zip(names, inputs, strict=True):
        for dim, axis in axes[name].items():
            torch._check(tensor.shape[dim] == seen.setdefault(axis, tensor.shape[dim]))


def _refusal(
    error: Exception, prepared: Prepared, inputs: Sequence[Tensor], places: Sequence[fixed.Place]
) -> ExportError:
    """torch.export's error in the user's terms: inputs and axes by name, and the line of code that it points to."""
    text = str(error)
    names, axes = prepared.names, prepared.axes
    found = re.findall(r"\['flat'\]\[(\d+)\]\.size\(\)\[(\d+)\].*?constant \((\d+)\)", text)
    if found:
        parts = [(names[int(i)], axes[names[int(i)]][int(dim)], int(size)) for i, dim, size in found]
        said = "; ".join(f"{axis!r} of {name!r} became {size}" for name, axis, size in parts)
        sizes = {size for _, _, size in parts}
        loops = list(dict.fromkeys(str(place) for place in places if place.size in sizes))
        if loops:
            return ExportError(
                f"the model fixes an axis to the traced size: {said}, by {'; '.join(loops[:3])}. A Python loop over an "
                "axis is unrolled when it is traced: let a recurrent layer run over it, write the loop with "
                "rnn_export.scan, or leave the axis out of `axes`"
            )
        fixed_elsewhere = [
            f"{name!r} has dimension {dim} of that size with no name"
            for name, tensor in zip(names, inputs, strict=True)
            for dim, size in enumerate(tensor.shape)
            if size in sizes and dim not in axes[name]
        ]
        hint = "; ".join(fixed_elsewhere) or "a size is used as a plain number, or an operator needs it fixed"
        return ExportError(
            f"the model fixes an axis to the traced size: {said}. {hint}: name it in `axes` too, or leave the axis out"
        )
    if "HigherOrder" in type(error).__name__:
        return ExportError(
            "a step of rnn_export.scan cannot be captured: it is made of cells (nn.LSTMCell and such) and tensor "
            f"operations, without whole recurrent layers or decisions by value. {text.strip().partition(chr(10))[0]}"
        )
    line = _user_line(text) or _user_line("".join(traceback.format_exception(error)))
    where = f" ({line})" if line else ""
    if "data-dependent" in text:
        return ExportError(
            f"the model decides by the value of a tensor{where}, and a graph has one way: compute both and choose with "
            "torch.where, use a number of that value in tensor operations alone, or take the decision out of the model"
        )
    return ExportError(
        f"the model cannot be captured{where}: {type(error).__name__}: {text.strip().partition(chr(10))[0]}"
    )
