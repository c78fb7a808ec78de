"""Whether a model with lifted state looks at the numbers of its steps, which begin anew with each piece of a stream.

`torch.where(torch.arange(T) * 0.02 > 60, ...)` does nothing in the first 3000 steps, so that pieces of shorter
sequences are the whole. The numbers are moved on instead, as far as a long stream would: no result may follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ._capture import Captured
from ._capture.module import REFUSED
from ._capture.streams import StreamedFlat
from ._capture.trials import wide_candidate
from ._equal import FLOAT64, equal
from ._errors import ExportError
from ._quiet import quiet
from ._reference import Reference

aten: Any = torch.ops.aten

FAR = (*(100 * 1.3**k for k in range(40)), -1e6)
"""How far: each third as far again, so that what lies between two moments shows too."""
_NUMBERS = ("arange", "linspace")
_SUMS = ("cumsum", "logcumsumexp", "cummax", "cummin")


class _Moved(fx.Interpreter):
    """Runs a program in which the numbers of steps, and sums over the steps before, are larger by `far`."""

    def __init__(self, program: fx.GraphModule, far: float) -> None:
        super().__init__(program)
        self._far = far

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if not counts_steps(n):
            return result
        if isinstance(result, Tensor):
            return result + torch.tensor(self._far).to(result.dtype)
        return (result[0] + self._far, *result[1:])


def counts_steps(node: fx.Node) -> bool:
    """Whether a node numbers the steps of an axis, or sums over those before each."""
    name = str(getattr(node.target, "name", lambda: "")()).removeprefix("aten::").partition(".")[0].rstrip("_")
    if name in _NUMBERS:
        return any(isinstance(arg, fx.Node) for arg in node.args)
    if name not in _SUMS:
        return False
    over, dim = node.args[:2]
    assert isinstance(over, fx.Node)
    assert isinstance(dim, int)
    return isinstance(over.meta["val"].shape[dim], torch.SymInt)


def require_no_step_numbers(captured: Captured, reference: Reference) -> None:
    """See that no result follows the numbers of the steps.

    Where a model is given lengths, these numbers are meant to be those within a piece.

    Raises:
        ExportError: one does; names the operator.
    """
    if isinstance(captured.flat, StreamedFlat):
        return  # each step has its number from a state
    nodes = [node for node in captured.program.graph.nodes if counts_steps(node)]
    if not nodes or captured.signature.lengths is not None:
        return
    program = wide_candidate(captured.program.module(check_guards=False))
    assert isinstance(program, fx.GraphModule)
    drawn = reference.draw(captured.sizes, seed=0)
    inputs = [x.double() if x.is_floating_point() else x for x in (drawn[name] for name in captured.names)]
    with quiet(), torch.no_grad():
        want = _flat(program(*inputs))
        for far in FAR:
            try:
                got = _flat(_Moved(program, far).run(*inputs))
            except REFUSED:
                continue  # a number that picks a step
            if not all(equal(a, b, FLOAT64) for a, b in zip(got, want, strict=True)):
                raise ExportError(
                    "state='lift', but the results follow the number of a step, or a sum over all before it "
                    f"({', '.join(sorted({str(node.target) for node in nodes}))}), which begins anew with each piece "
                    "of a stream. Use state='none'"
                )


def _flat(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)
