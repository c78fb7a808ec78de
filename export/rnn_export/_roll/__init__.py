"""Roll: a Python loop over a sequence axis, unrolled by every trace, found and put back as one scan of any length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.traceback import preserve_node_meta

from .._capture import fixed
from .._capture.limits import Limits, allowed
from .._capture.prepare import Prepared
from .._capture.sample import Sampler
from .._capture.settle import settle_sizes
from .._capture.trace import FixedAxes, at_other_sizes, at_sizes, trace_fixed
from .._capture.trials import NotTheModel, Trials, wide_candidate
from .._errors import ExportError
from . import loops, outline
from .emit import emit
from .ir import Unalike
from .lengths import Length
from .named import whole_numbers
from .prove import require_alike, require_equal
from .unrolled import normal_form

__all__ = ["LENGTHS", "Rolled", "Unalike", "roll"]

LENGTHS = (6, 9)
"""The shortest lengths at which the model is unrolled: of the first axis that its loops go over, and of a second."""

LONGEST = 40
"""No loop is written out at a longer length: where a limit asks for that, the model is unrolled below it."""

WIDEST = 4
"""The widest stride in which a loop is looked for where it is written in plain numbers."""


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
    first: Unalike | None = None
    for stride in (1, *_strides(prepared)):
        try:
            return _roll(prepared, error, stride)
        except Unalike as reason:
            first = first or reason
            if reason.final:
                break
            if stride == 1 and not _grows(prepared, error):
                raise ExportError(
                    f"{error}, and not in a loop over it: written out at more steps, the model does no more. "
                    f"{fixed.WRITE_IT}"
                ) from None
    raise ExportError(
        f"{error}. The loop cannot be rolled into one scan: {first}. Write it with rnn_export.scan, let a "
        "recurrent layer run over the axis, or leave the axis out of `axes`"
    ) from None


def _grows(prepared: Prepared, error: FixedAxes) -> bool:
    """Whether the model does more where what fixes an axis is larger, as it does in a loop of any stride."""
    length = Length.of(error, strides=True)
    limit = prepared.limits.get(length.axis)
    short, long = LENGTHS[0], LENGTHS[0] * WIDEST + 1
    if length.size is not None or (limit is not None and not all(map(limit.allows, (short, long)))):
        return True  # which other sizes there would have to be is not known
    try:
        few, many = (len(trace_fixed(prepared, {length.axis: steps}).graph.nodes) for steps in (short, long))
    except ExportError:
        return True
    return few != many


def _strides(prepared: Prepared) -> list[int]:
    """In which strides a loop may go: small numbers in the model's code and attributes."""
    return sorted(number for number in whole_numbers(prepared.flat.model) if 2 <= number <= WIDEST)


def _roll(prepared: Prepared, error: FixedAxes, stride: int) -> tuple[Prepared, Rolled]:
    prepared, lengths, points, programs = _unrolled(prepared, error, stride)
    rolled = _rolled(programs, points, lengths, _places(prepared))
    draw = Sampler(prepared.names, prepared.axes, prepared.traced).draw
    try:
        trials = Trials(prepared, wide_candidate(rolled), [draw], loops=True)
    except NotTheModel:
        raise Unalike("written as a scan, it does something else already at the sizes of the example") from None
    require_alike(prepared, trials, lengths)
    prepared = settle_sizes(prepared, trials)
    prepared = replace(prepared, limits=require_equal(prepared, trials, lengths))
    return _with_steps(prepared, lengths, points[0]), rolled


def _with_steps(prepared: Prepared, lengths: Sequence[Length], point: Sequence[int]) -> Prepared:
    """`prepared` at sizes with some steps in each loop: a trace takes for granted what a loop of none does."""
    sizes = dict(prepared.sizes)
    for length, steps in zip(lengths, point, strict=True):
        size = length.at(steps)
        larger = max(sizes[length.axis], size if isinstance(size, int) else size(sizes))
        if allowed(prepared.limits, {length.axis: larger}):
            sizes[length.axis] = larger
    return at_sizes(prepared, sizes)


def _unrolled(
    prepared: Prepared, error: FixedAxes, stride: int
) -> tuple[Prepared, list[Length], list[tuple[int, ...]], list[ExportedProgram]]:
    """The model unrolled at a first point, and at others of which each differs in one length.

    Returns:
        `prepared`, at other sizes where the model fixes another axis at its own alone; what the loops go over; the
        points; and the programs.
    """
    lengths = [Length.of(error, strides=stride == 1)]
    moved = False
    while True:
        points = _points(_first(lengths, stride, prepared.limits), stride)
        try:
            traces = [
                trace_fixed(prepared, {length.axis: length.at(n) for length, n in zip(lengths, point, strict=True)})
                for point in points
            ]
        except FixedAxes as other:
            if not other.places and not moved:
                prepared, moved = at_other_sizes(prepared, other.axes), True
                continue
            another = Length.of(other, strides=stride == 1)
            if any(another.axis == length.axis for length in lengths) or len(lengths) == len(LENGTHS):
                where = f" ({other.places[0]})" if other.places else ""
                raise Unalike(f"another loop goes over {another.number}{where}") from None
            lengths.append(another)
            continue
        except ExportError as reason:
            raise Unalike(f"written out, {reason}", final=True) from None
        return prepared, lengths, points, [normal_form(program) for program in traces]


def _first(lengths: Sequence[Length], stride: int, limits: Limits) -> tuple[int, ...]:
    """The lengths of the first point: short ones, and of an axis with a limit some within.

    They stay below its largest, at which a slice of a table takes all of it and is no operation.
    """
    first: list[int] = []
    for shortest, length in zip(LENGTHS, lengths, strict=False):
        steps, limit = shortest * stride, limits.get(length.axis)
        if limit is not None and length.size is None and limit.min <= LONGEST:
            most = steps if limit.max is None else limit.max - 2 * stride
            least = -(-limit.min // stride) * stride
            steps = max(least, min(steps, most // stride * stride))
            steps += stride if steps in first else 0
        first.append(steps)
    return tuple(first)


def _points(first: tuple[int, ...], stride: int) -> list[tuple[int, ...]]:
    """A first point, and for each length others with more of it, in strides as many as tell them apart."""
    more = range(1, 2 * stride if stride > 1 else 2)
    return [first, *((*first[:k], first[k] + j, *first[k + 1 :]) for k in range(len(first)) for j in more)]


def _places(prepared: Prepared) -> dict[str, tuple[int, int]]:
    """For each axis an input that has it, and where."""
    return {
        axis: (k, dim)
        for k, name in reversed(list(enumerate(prepared.names)))
        for dim, axis in prepared.axes[name].items()
    }


def _rolled(
    programs: Sequence[ExportedProgram],
    points: Sequence[tuple[int, ...]],
    lengths: Sequence[Length],
    places: Mapping[str, tuple[int, int]],
) -> Rolled:
    reasons: list[Unalike] = []
    found: list[list[loops.Loop]] = []
    for program, point in zip(programs, points, strict=True):
        signature = program.graph_signature
        held = {
            *signature.inputs_to_parameters,
            *signature.inputs_to_buffers,
            *signature.inputs_to_lifted_tensor_constants,
        }
        loops_here, why = loops.find(program.graph, held, point)
        found.append(loops_here)
        reasons += why
    # What repeats as often at both lengths is no loop over the axis, and stays as it is.
    growing = _growing(found)
    if not all(growing):
        raise reasons[0] if reasons else Unalike("its steps do not all do the same")
    outlines = [outline.outline(p.graph, own) for p, own in zip(programs, growing, strict=True)]
    try:
        fitted = outline.fit(outlines, points)
    except Unalike as error:
        raise (reasons[0] if reasons else error) from None
    user_inputs = programs[0].graph_signature.user_inputs
    axes = {axis: (user_inputs[k], dim) for axis, (k, dim) in places.items()}
    return Rolled(emit(programs[0], fitted, lengths, axes))


def _growing(found: Sequence[Sequence[loops.Loop]]) -> list[list[loops.Loop]]:
    """The loops whose number of steps follows a length; each list in the order of its program."""
    counts = [{_place_of(loop): len(loop.steps) for loop in own} for own in found]
    constant = {place for place, count in counts[0].items() if all(other.get(place) == count for other in counts[1:])}
    return [[loop for loop in own if _place_of(loop) not in constant] for own in found]


def _place_of(loop: loops.Loop) -> tuple[object, ...]:
    """What tells a loop from the others of a program at any length: its operators, its code and how it starts."""
    return tuple((str(node.target), node.meta.get("stack_trace")) for node in loop.model_step)
