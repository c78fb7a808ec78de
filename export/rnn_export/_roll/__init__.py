"""Roll: a Python loop over a sequence axis, unrolled by every trace, found and put back as one scan of any length."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.traceback import preserve_node_meta

from .._capture.prepare import Prepared
from .._capture.trace import FixedAxes, at_other_sizes, trace_fixed
from .._errors import ExportError
from . import loops, outline
from .emit import emit
from .loops import Unalike
from .prove import require_equal
from .unrolled import normal_form

__all__ = ["LENGTHS", "Rolled", "Unalike", "roll"]

LENGTHS = (6, 7)
"""The lengths at which the model is unrolled."""

_COMPUTED = "its number of steps is computed of several sizes, such as steps divided by batch, and is no axis by itself"


class Rolled(nn.Module):
    """A model of flat tensors whose loops are scans."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.rolled = graph

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        with preserve_node_meta():  # the lines of code and the modules' names come along into a trace
            return tuple(fx.Interpreter(self.rolled).run(*flat))


def roll(prepared: Prepared, error: FixedAxes) -> tuple[Prepared, Rolled]:
    """The module of any length in the place of a model whose loops fix axes to the traced size.

    Returns:
        `prepared`, at other sizes where it fixes another axis at its own alone; and the module.

    Raises:
        ExportError: a loop cannot be rolled; names the line that fixes the axis and the reason.
    """
    try:
        if not error.axes:
            raise Unalike(_COMPUTED)
        axis = error.axes[0]
        if len(error.axes) > 1:
            raise Unalike(f"it goes over {' and '.join(map(repr, error.axes))} at once")
        try:
            programs = [normal_form(trace_fixed(prepared, {axis: length})) for length in LENGTHS]
        except FixedAxes as other:
            if not other.axes:
                raise Unalike(_COMPUTED) from None
            if other.places:
                raise Unalike(f"another loop goes over {other.axes[0]!r} ({other.places[0]})") from None
            prepared = at_other_sizes(prepared, other.axes)
            programs = [normal_form(trace_fixed(prepared, {axis: length})) for length in LENGTHS]
        rolled = _rolled(programs, _place(prepared, axis))
        require_equal(prepared, rolled, axis)
        return prepared, rolled
    except Unalike as reason:
        raise ExportError(
            f"{error}. The loop cannot be rolled into one scan: {reason}. Write it with rnn_export.scan, let a "
            "recurrent layer run over the axis, or leave the axis out of `axes`"
        ) from None


def _place(prepared: Prepared, axis: str) -> tuple[int, int]:
    """An input that has the axis, and where."""
    return next(
        (k, dim) for k, name in enumerate(prepared.names) for dim, other in prepared.axes[name].items() if other == axis
    )


def _rolled(programs: Sequence[ExportedProgram], where: tuple[int, int]) -> Rolled:
    reasons: list[str] = []
    found: list[list[loops.Loop]] = []
    for program, length in zip(programs, LENGTHS, strict=True):
        signature = program.graph_signature
        held = {
            *signature.inputs_to_parameters,
            *signature.inputs_to_buffers,
            *signature.inputs_to_lifted_tensor_constants,
        }
        loops_here, why = loops.find(program.graph, held, length)
        found.append(loops_here)
        reasons += why
    # What repeats as often at both lengths is no loop over the axis, and stays as it is.
    growing = _growing(*found)
    if not growing[0]:
        raise Unalike(reasons[0] if reasons else "its steps do not all do the same")
    first, second = (outline.outline(p.graph, g) for p, g in zip(programs, growing, strict=True))
    try:
        items = outline.fit(first.items, second.items, *LENGTHS)
        output = outline.fit(first.output, second.output, *LENGTHS)
    except Unalike as error:
        raise Unalike(reasons[0] if reasons else str(error)) from None
    user_inputs = programs[0].graph_signature.user_inputs
    fitted = outline.Outline(items, output, first.sources)
    return Rolled(emit(programs[0], fitted, (user_inputs[where[0]], where[1])))


def _growing(a: list[loops.Loop], b: list[loops.Loop]) -> tuple[list[loops.Loop], list[loops.Loop]]:
    """The loops whose number of steps grows with the length; both lists in the order of the programs."""
    counts = [{_place_of(loop): len(loop.steps) for loop in found} for found in (a, b)]
    constant = {place for place, count in counts[0].items() if counts[1].get(place) == count}
    return tuple([loop for loop in found if _place_of(loop) not in constant] for found in (a, b))  # type: ignore[return-value]


def _place_of(loop: loops.Loop) -> tuple[object, ...]:
    """What tells a loop from the others of a program at any length: its operators, its code and how it starts."""
    return tuple((str(node.target), node.meta.get("stack_trace")) for node in loop.model_step)
