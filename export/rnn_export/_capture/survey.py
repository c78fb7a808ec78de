"""A survey: one run of the eager model on tensors without values, whose sizes are symbols, that answers and records.

Each comparison of sizes is answered as the sizes of this run say, and recorded as an expression over axes; so is each
size that becomes a plain number. Unlike a trace, a survey takes nothing for granted afterwards: a size that was
compared with 7 is still a symbol, so that the next comparison shows too. The number of a step in a Python loop is one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from .._errors import ExportError
from .._quiet import quiet
from . import builtins, fixed
from .counting import Numbers, watching
from .loops import Loops
from .mode import Capture
from .module import copied
from .prepare import Prepared
from .values import Decisions


@dataclass(frozen=True)
class Record:
    """One thing that a model asked of its sizes.

    Attributes:
        expression: what was asked, over axes and the numbers of steps: a comparison, or a size that became a number.
        value: the answer in this run.
        place: the line of the user's code; "" where there is none.
        own: whether the user's code asked itself, and not an operator that it called.
    """

    expression: Any
    value: Any
    place: str
    own: bool = False


@dataclass
class Survey:
    """What one run asked.

    Attributes:
        sizes: the sizes of the axes in it.
        axes: the symbol of each axis.
        records: in the order in which they came.
        counts: the symbol of a step's number, from 0 on -> how many steps its loop has.
        numbers: plain ones in the model's functions, and how they ended.
        error: what ended the run early.
    """

    sizes: dict[str, int]
    axes: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    counts: dict[Any, Any] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=dict)
    error: Exception | None = None


def survey(prepared: Prepared, sizes: Mapping[str, int]) -> Survey:
    """Run a copy of the model once at these sizes, on tensors without values."""
    flat = copied(prepared.flat)
    found = Survey(dict(sizes))
    environment = _Environment(found, flat)
    symbols = {axis: environment.number(axis, size, positive=True) for axis, size in sizes.items()}
    found.axes = {axis: size.node.expr for axis, size in symbols.items()}
    loops = Loops(environment.step, environment.muted)
    with (
        quiet(),
        torch.no_grad(),
        FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True),
        enable_python_dispatcher(),
        builtins.symbolic(flat.model, loops.names()),
        Decisions(flat.answers),
        Capture(),
        loops,
        fixed.texts(environment.names, _no_text),
    ):
        inputs = [
            torch.empty(_shape(tensor, prepared.axes[name], symbols), dtype=tensor.dtype)
            for name, tensor in zip(prepared.names, prepared.traced, strict=True)
        ]
        try:
            with watching(builtins.packages_of(flat.model), found.numbers):
                flat.named(*inputs)
        except Exception as error:
            found.error = error
    return found


def _no_text(found: fixed.Place, size: torch.SymInt) -> None:
    raise ExportError(f"it makes text of a size, and a graph has no names by size: {found}")


def _shape(tensor: Tensor, axes: Mapping[int, str], symbols: Mapping[str, Any]) -> list[Any]:
    return [symbols[axes[dim]] if dim in axes else size for dim, size in enumerate(tensor.shape)]


class _Environment(ShapeEnv):
    """Answers by the sizes of the run, records, and takes nothing for granted afterwards."""

    def __init__(self, found: Survey, flat: nn.Module) -> None:
        super().__init__(specialize_zero_one=False, duck_shape=False)
        self.found = found
        self.names = {id(module): name for name, module in flat.named_modules()}
        self._listens = True

    @contextmanager
    def muted(self) -> Iterator[None]:
        """While this lasts, nothing is recorded."""
        before, self._listens = self._listens, False
        try:
            yield
        finally:
            self._listens = before

    def number(self, name: str, value: int, *, positive: bool | None) -> Any:
        """A whole number with a name, whose value in this run is `value`."""
        source = ConstantSource(name)
        symbol = self.create_symbol(
            value, source, DimDynamic.DYNAMIC, positive=positive, do_not_specialize_zero_one=True
        )
        return self.create_symintnode(symbol, hint=value, source=source)

    def step(self, k: int, count: Any) -> Any:
        """The number of step `k` of a loop of `count` steps."""
        number = self.number(f"step {len(self.found.counts)}", k, positive=None)
        self.found.counts[number.node.expr] = count.node.expr
        return number

    def evaluate_expr(self, orig_expr: Any, hint: Any = None, *more: Any, **options: Any) -> Any:
        if not orig_expr.free_symbols or not orig_expr.free_symbols <= self.backed_var_to_val.keys():
            return super().evaluate_expr(orig_expr, hint, *more, **options)
        value = self.guarding_hint_or_throw(orig_expr) if hint is None else hint
        if not self._listens:
            return sympy.sympify(value)
        asker = sys._getframe(1)
        while asker.f_back is not None and asker.f_code.co_filename.endswith(_BETWEEN):
            asker = asker.f_back
        own = not asker.f_code.co_filename.startswith(fixed.OURS)
        place = fixed.place(asker, self.names)
        self.found.records.append(Record(orig_expr, value, str(place) if place is not None else "", own))
        return sympy.sympify(value)

    def guard_or_defer_runtime_assert(  # type: ignore[override]
        self, orig_expr: Any, msg: str, fx_node: Any = None
    ) -> bool:
        if not orig_expr.free_symbols or not orig_expr.free_symbols <= self.backed_var_to_val.keys():
            return bool(super().guard_or_defer_runtime_assert(orig_expr, msg, fx_node))
        return bool(self.evaluate_expr(orig_expr))


_BETWEEN = tuple(
    os.path.join("torch", *path)
    for path in (["__init__.py"], ["fx", "experimental", "sym_node.py"], ["fx", "experimental", "symbolic_shapes.py"])
)
"""What stands between a comparison of sizes and who asks for it."""
