"""The trace: torch.export under the capture's function mode, at two sizes; and what it refuses, in the user's terms."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch._export.verifier import SpecViolationError
from torch.export import Dim, ExportedProgram

from rnn_runtime import LimitSpec

from .._errors import ExportError
from .._quiet import quiet
from . import axes as axis_map
from . import fixed
from .graph import user_inputs
from .limits import allowed, others
from .mode import Capture
from .module import REFUSED, copied, twin
from .prepare import Prepared
from .sample import Sampler
from .survey import Record, Survey
from .values import way_out

Size = int | Callable[[Mapping[str, Any]], Any]
"""The size of an axis, or how it follows from the sizes of the others."""


class FixedAxes(ExportError):
    """The model fixes axes to the traced size, as a Python loop does.

    Attributes:
        axes: their names.
        places: the lines of code that do it.
        size: the size that became a number, an expression of SymPy in the axes' names; None where it is not known.
        loops: whether a line did it that ran more than once, comparing sizes, where `places` is empty.
    """

    def __init__(
        self, text: str, axes: Sequence[str], places: Sequence[fixed.Place], size: Any = None, *, loops: bool = False
    ) -> None:
        super().__init__(text)
        self.axes = list(dict.fromkeys(axes))
        self.places = list(dict.fromkeys(places))
        self.size = size
        self.loops = loops


def at_other_sizes(prepared: Prepared, axes: Sequence[str]) -> Prepared:
    """`prepared` with other sizes of some axes.

    A model may compare a size with one that it has kept, such as the batch it last saw: that fixes the axis where they
    are equal, and there alone.
    """
    sizes = {
        axis: next(others(prepared.limits, axis, 2 * size + 1, besides=(size,)), size) if axis in axes else size
        for axis, size in prepared.sizes.items()
    }
    return at_sizes(prepared, sizes)


def at_sizes(prepared: Prepared, sizes: dict[str, int]) -> Prepared:
    """`prepared` with other sizes of its axes."""
    return replace(prepared, sizes=sizes, traced=_drawn(prepared, sizes))


def trace(prepared: Prepared, rolled: nn.Module | None = None, *, whole: bool = False) -> ExportedProgram:
    """The captured program; traced at two sizes, which have to give the same one.

    Args:
        prepared: the model, bound to its inputs.
        rolled: what stands for the model where its loops have been rolled.
        whole: one row of what is packed always fills the padded axis, so that packing cuts nothing.

    Raises:
        FixedAxes: the model makes a plain number of a size.
        ExportError: the model cannot be traced, or what it does depends on the traced sizes.
    """
    program = _trace_once(prepared, prepared.traced, rolled, whole=whole)
    larger = _larger(prepared)
    unlike = _unlike(program, _trace_once(prepared, _drawn(prepared, larger), rolled, whole=whole))
    if unlike is None:
        return program
    # The model may ask something that turns between the two, which is settled later; nearby it is the same then.
    for step in (1, -1):
        near = {axis: max(2, size + step) for axis, size in prepared.sizes.items()}
        if near != prepared.sizes and allowed(prepared.limits, near) and _takes(prepared, near):
            other = _trace_once(prepared, _drawn(prepared, near), rolled, whole=whole)
            if _unlike(program, other) is None:
                return program
    line = user_line(unlike.meta.get("stack_trace") or "")
    where = f": {line}" if line else ""
    raise ExportError(
        f"what the model computes depends on the traced sizes ({prepared.sizes}, then {larger}){where}. Use "
        "sizes of tensors only in tensor operations, or leave the axis out of `axes`"
    )


def _unlike(program: ExportedProgram, again: ExportedProgram) -> torch.fx.Node | None:
    """The first operator in which two programs differ, or in a plain value that it takes."""
    for node, other in zip_longest(program.graph.nodes, again.graph.nodes):
        if node is None or other is None or _literals(node) != _literals(other):
            found: torch.fx.Node = node if node is not None else other
            return found
    return None


def _larger(prepared: Prepared) -> dict[str, int]:
    """Sizes for a second trace: twice keeps what has to be even; some more than others, so that no ratio stays."""
    even = {axis: _another(prepared, axis, size) for axis, size in prepared.sizes.items()}
    for k in range(len(even) if len(even) > 1 else 0):
        uneven = {axis: size * (2 if j == k else 1) for j, (axis, size) in enumerate(even.items())}
        if allowed(prepared.limits, uneven) and _takes(prepared, uneven):
            return uneven
    return even


def _another(prepared: Prepared, axis: str, size: int) -> int:
    """Twice the size, or where the limit of the axis does not allow that, one that the model takes.

    Raises:
        ExportError: there is none, so that what the trace has of the size cannot be told from a constant.
    """
    if allowed(prepared.limits, {axis: 2 * size}):
        return 2 * size
    for other in others(prepared.limits, axis, 2 * size, besides=(size,)):
        if _takes(prepared, {**prepared.sizes, axis: other}):
            return other
    limit = prepared.limits[axis]
    raise ExportError(
        f"the limit of {axis!r} is {limit.sizes}, and of these sizes the model takes the example's {size} alone: "
        "widen the limit, or leave the axis out of `axes`"
    )


def trace_fixed(prepared: Prepared, sizes: Mapping[str, Size]) -> ExportedProgram:
    """The program with some axes fixed to given sizes, or to what follows from the others; loops are unrolled.

    Raises:
        ExportError: the model cannot be traced.
    """
    numbers = {axis: size for axis, size in sizes.items() if isinstance(size, int)}
    follow = {axis: size for axis, size in sizes.items() if not isinstance(size, int)}
    known = {**prepared.sizes, **numbers}
    inputs = _drawn(prepared, {**known, **{axis: size(known) for axis, size in follow.items()}})
    return _trace_once(prepared, inputs, fixed_axes=set(numbers), follow=follow)


def _drawn(prepared: Prepared, sizes: Mapping[str, int]) -> list[Tensor]:
    return Sampler(prepared.names, prepared.axes, prepared.traced).draw(sizes, seed=0)


def guards(prepared: Prepared, program: ExportedProgram) -> Survey:
    """What a trace took for granted of the sizes, in the form of a survey."""
    values = [(name, node.meta["val"]) for name, node in zip(prepared.names, user_inputs(program), strict=True)]
    symbols = {
        axis: tensor.shape[dim].node.expr
        for name, tensor in values
        for dim, axis in prepared.axes[name].items()
        if isinstance(tensor.shape[dim], torch.SymInt) and tensor.shape[dim].node.expr.is_Symbol
    }
    environment = next((tensor.fake_mode.shape_env for _, tensor in values), None)
    if environment is None:
        return Survey(dict(prepared.sizes))
    records = [Record(guard.expr, True, "") for guard in environment.guards]
    return Survey(dict(prepared.sizes), symbols, records)


def _takes(prepared: Prepared, sizes: Mapping[str, int]) -> bool:
    inputs = _drawn(prepared, sizes)
    try:
        with quiet(), torch.no_grad():
            copied(prepared.flat)(*inputs)
    except REFUSED:
        return False
    return True


def _literals(node: torch.fx.Node) -> tuple[str, str]:
    """A node's operator and the plain values among its arguments."""
    plain = torch.fx.node.map_arg((node.args, node.kwargs), lambda _: None)
    return str(node.target) if node.op == "call_function" else node.op, str(plain)


def _trace_once(
    prepared: Prepared,
    inputs: Sequence[Tensor],
    rolled: nn.Module | None = None,
    fixed_axes: Collection[str] = (),
    *,
    follow: Mapping[str, Size] | None = None,
    whole: bool = False,
) -> ExportedProgram:
    names = prepared.names
    axes = {n: {dim: axis for dim, axis in prepared.axes[n].items() if axis not in fixed_axes} for n in names}
    dynamic = tuple({dim: _range(prepared.limits.get(axis)) for dim, axis in axes[name].items()} for name in names)
    flat = twin(prepared.flat if rolled is None else rolled)
    seen: dict[str, Any] = {}
    flat.register_forward_pre_hook(lambda _, inputs: _unify(inputs, names, axes, seen, follow or {}))
    watched = fixed.Watched()
    try:
        with quiet(), torch.no_grad(), fixed.watching(flat, watched), Capture(whole=whole):
            return torch.export.export(flat, tuple(inputs), dynamic_shapes={"flat": dynamic}, strict=False)
    except ExportError:
        raise
    except Exception as error:
        if not watched.raised:
            raise _refusal(error, prepared, inputs, watched.repeated) from error
        size, place = watched.raised[-1].size, watched.raised[-1].place
        if watched.raised[-1].function:
            raise ExportError(fixed.unfollowed(watched.raised[-1].function, place)) from None
        found = {axis: own for axis, own in seen.items() if isinstance(own, torch.SymInt)}
        # Of axes that were made equal, the size has one symbol, which need not be that of the first.
        symbols = {axis: own.node._expr.free_symbols | own.node.expr.free_symbols for axis, own in found.items()}
        fixes = [axis for axis, own in symbols.items() if own & size.free_symbols]
        named = {symbol: sympy.Symbol(axis, integer=True, positive=True) for axis in fixes for symbol in symbols[axis]}
        owners = [next(name for name in names if axis in axes[name].values()) for axis in fixes]
        said = "; ".join(
            f"{axis!r} of {name!r} became {found[axis].node.hint}" for axis, name in zip(fixes, owners, strict=True)
        )
        raise FixedAxes(
            f"the model fixes an axis to the traced size: {said}, by {place}",
            fixes,
            [place],
            size.subs(named),
        ) from None


def _range(limit: LimitSpec | None) -> Any:
    """How torch.export takes an axis; what its limit decides, such as `x.size(1) > 512`, leaves no guard behind."""
    if limit is None:
        return Dim.DYNAMIC
    return Dim.DYNAMIC(min=limit.min if limit.min > 2 else None, max=limit.max)


def user_line(trace: str) -> str:
    """The innermost line of the user's code in a stack trace, or nothing."""
    lines = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.+)', trace)
    own = [line for line in lines if not line[0].startswith(fixed.OURS)]
    file, number, code = own[-1] if own else ("", "", "")
    return f"`{code.strip()}`, {file}:{number}" if file else ""


def _unify(
    inputs: tuple[Tensor, ...],
    names: list[str],
    axes: axis_map.Axes,
    seen: dict[str, Any],
    follow: Mapping[str, Size],
) -> None:
    """Tell the tracer that axes of one name have one size, which goes into `seen`, and how some follow from others."""
    for name, tensor in zip(names, inputs, strict=True):
        for dim, axis in axes[name].items():
            torch._check(tensor.shape[dim] == seen.setdefault(axis, tensor.shape[dim]))
    for axis, size in follow.items():
        assert callable(size)
        torch._check(seen[axis] == size(seen))


def _refusal(
    error: Exception, prepared: Prepared, inputs: Sequence[Tensor], repeated: fixed.Place | None
) -> ExportError:
    """torch.export's error in the user's terms: inputs and axes by name, and the line of code that it points to."""
    text = str(error)
    names, axes = prepared.names, prepared.axes
    found = re.findall(r"\['flat'\]\[(\d+)\]\.size\(\)\[(\d+)\].*?constant \((\d+)\)", text)
    if found:
        parts = [(names[int(i)], axes[names[int(i)]][int(dim)], int(size)) for i, dim, size in found]
        said = "; ".join(f"{axis!r} of {name!r} became {size}" for name, axis, size in parts)
        fixes = [axis for _, axis, _ in parts]
        if repeated is not None:
            return FixedAxes(
                f"the model fixes an axis to the traced size: {said}, by {repeated}", fixes, [], loops=True
            )
        sizes = {size for _, _, size in parts}
        fixed_elsewhere = [
            f"{name!r} has dimension {dim} of that size with no name"
            for name, tensor in zip(names, inputs, strict=True)
            for dim, size in enumerate(tensor.shape)
            if size in sizes and dim not in axes[name]
        ]
        hint = "; ".join(fixed_elsewhere) or "a size is used as a plain number, or an operator needs it fixed"
        return FixedAxes(
            f"the model fixes an axis to the traced size: {said}. {hint}: name it in `axes` too, or leave the axis out",
            fixes,
            [],
        )
    if "HigherOrder" in type(error).__name__:
        return ExportError(
            "a step of rnn_export.scan cannot be captured: it is made of cells (nn.LSTMCell and such) and tensor "
            f"operations, without whole recurrent layers or decisions by value. {text.strip().partition(chr(10))[0]}"
        )
    line = user_line(text) or user_line("".join(traceback.format_exception(error)))
    where = f" ({line})" if line else ""
    if "data-dependent" in text:
        return ExportError(
            f"the model decides by the value of a tensor{where}, and a graph has one way: use a number of that value "
            f"in tensor operations alone. {way_out(line.strip('`'))}"
        )
    if isinstance(error, TypeError | AttributeError | ValueError) and re.search(r"\bSym(Int|Float)\b", text):
        kind = "a key of a dict, a set or a cache" if "unhashable" in text else "a function of plain numbers alone"
        return ExportError(fixed.unfollowed(f"{kind} ({text.strip().partition(chr(10))[0]})", line))
    scripted = [name for name, part in prepared.flat.model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted and isinstance(error, SpecViolationError):
        return ExportError(
            f"the model cannot be captured: {scripted[0]!r} is TorchScript already, whose parameters torch.export "
            "cannot hold: give the model the module that it was made of"
        )
    return ExportError(
        f"the model cannot be captured{where}: {type(error).__name__}: {text.strip().partition(chr(10))[0]}"
    )
