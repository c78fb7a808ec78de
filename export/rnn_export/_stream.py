"""Whether a model with lifted state can run on a stream: in pieces, the state carried, it must equal the whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ._capture import Captured
from ._capture.module import REFUSED
from ._capture.streams import StreamedFlat
from ._equal import FLOAT64, equal
from ._errors import ExportError
from ._reference import Reference
from ._shift import require_no_step_numbers

STEPS, LONG = 257, 1031
"""The least number of steps of a sequence that is cut: of a model that loops in Python, and of any other."""
SPLITS = (1, 5, 11)
LARGEST = 10_000
"""The largest number of a program that may be a lag or a window, which a sequence has to go beyond."""
BY_ITEM = 2048
"""The largest number that counts in an operator which works item by item."""
FEW = 8
"""As many of these numbers are cut at, the largest ones."""

Seen = list[tuple[str, Tensor, Tensor]]
"""(module, its first input, its first result) for each module that ran, in the order in which they ended."""


def require_streamable(captured: Captured, reference: Reference) -> None:
    """Run the eager model in float64 over a whole sequence and over the same in two pieces.

    Raises:
        ExportError: they differ; names the first module whose results do, or the axis that cannot be cut.
    """
    axis = _axis(captured)
    limit = captured.signature.limit(axis)
    numbers = _numbers(captured)
    if numbers and max(numbers) > LARGEST:
        raise ExportError(
            f"state='lift' is proven on sequences longer than every lag and window, and the program has the number "
            f"{max(numbers)}, beyond {LARGEST}: make it smaller, or use state='none'"
        )
    least = STEPS if captured.has_loops else LONG
    steps = limit.nearest(max([least, 3 * limit.min, *(2 * number + 3 for number in numbers)]))
    try:
        whole, everything, seen = _whole(captured, reference, axis, steps)
    except REFUSED:
        raise ExportError(
            f"state='lift', but the model takes no {steps} steps along {axis!r}. Use state='none'"
        ) from None
    near = {number + more for number in sorted(numbers)[-FEW:] for more in (0, 1)}
    splits = {*SPLITS, *near, steps // 2, steps - 1, limit.min, steps - limit.min}
    splits = {cut for cut in splits if limit.min <= cut <= steps - limit.min and 0 < cut < steps}
    if not splits:
        raise ExportError(
            f"state='lift', but the limit of {axis!r} is {limit.sizes}, so that no sequence comes in two pieces: "
            "widen the limit, or use state='none'"
        )
    for split in sorted(splits):
        try:
            first, seen_first = _watched(reference, _piece(captured, whole, axis, 0, split))
            rest = _piece(captured, whole, axis, split, steps)
            rest |= {state.input: first[state.output] for state in captured.signature.states}
            second, seen_second = _watched(reference, rest)
        except REFUSED as error:
            raise ExportError(
                f"state='lift', but the model takes no sequence in pieces of {split} and {steps - split} steps along "
                f"{axis!r} ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}). Use state='none'"
            ) from None
        for spec in captured.signature.outputs:
            joins = [dim for dim, name in enumerate(spec.axes) if name in (axis, f"max({_lengths(captured)})")]
            parts = torch.cat([first[spec.name], second[spec.name]], joins[0]) if joins else second[spec.name]
            if not equal(parts, everything[spec.name], FLOAT64):
                if captured.unstreamed is not None:
                    raise captured.unstreamed
                raise ExportError(
                    f"state='lift', but {spec.name!r} is another when the sequence comes in two pieces (cut after "
                    f"step {split} of {steps}): {_culprit(seen, seen_first, seen_second)}, where a piece alone is not "
                    "enough. Use state='none'"
                )
    if captured.signature.lengths is not None:
        _require_rows_in_place(captured, reference, axis)
    require_no_step_numbers(captured, reference)


def require_split(captured: Captured, lacks: Mapping[str, str]) -> None:
    """Raises ExportError where the model is lifted and a search found that pieces are not the whole after all."""
    if captured.flat.lifted and "split" in lacks:
        raise ExportError(f"state='lift', but the model in pieces is not the whole: {lacks['split']}. Use state='none'")


def _whole(captured: Captured, reference: Reference, axis: str, steps: int) -> tuple[dict[str, Tensor], Any, Seen]:
    """Inputs of a sequence of `steps` steps from zero states, and what the eager model makes of it."""
    drawn = reference.draw({**captured.sizes, axis: steps}, seed=0)
    whole = {name: torch.zeros_like(t) if name in reference.states else t for name, t in drawn.items()}
    return whole, *_watched(reference, _piece(captured, whole, axis, 0, steps))


def _numbers(captured: Captured) -> set[int]:
    """Whole numbers in the captured program and in what the model asked of its sizes, without those of shapes."""
    found: set[int] = set()
    for node in captured.program.graph.nodes:
        if node.op == "call_function" and not str(getattr(node.target, "name", "")).endswith(_SHAPES):
            plain = tree_leaves((node.args, node.kwargs))
            own = {abs(number) for number in plain if isinstance(number, int) and not isinstance(number, bool)}
            # Item by item no step meets another: what is compared with a large number is moved on in _shift.py.
            found |= {number for number in own if number <= BY_ITEM or not _by_item(node)}
    for assumption in captured.assumptions:
        found |= {int(number) for number in re.findall(r"(?<![\w.])\d{1,5}(?![\w.])", assumption.text)}
    return {number for number in found if 1 < number < sys.maxsize}


def _by_item(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


_SHAPES = (
    *("view", "reshape", "expand", "repeat", "unflatten"),
    *("new_zeros", "new_ones", "zeros", "ones", "full", "empty"),
)
"""How the names of operators end whose numbers are sizes."""


def _require_rows_in_place(captured: Captured, reference: Reference, axis: str) -> None:
    """See that each row of the lifted state belongs to the same row of the input, whatever the lengths.

    A model that sorts its rows by length itself, before it packs them, gives the states in that order.
    """
    lengths = captured.signature.lengths
    assert lengths is not None
    batch = captured.signature.input(lengths.input).axes[0]
    rows, limit = captured.signature.limit(str(batch)), captured.signature.limit(axis)
    if not (rows.allows(1) and rows.allows(3)):
        raise ExportError(
            f"state='lift' is proven with three rows and with one, and the limit of {batch!r} is {rows.sizes}: widen "
            "it, or use state='none'"
        )
    steps = limit.nearest(max(_ROWS, limit.min))
    inputs = reference.draw({**captured.sizes, axis: steps, str(batch): 3}, seed=0)
    inputs |= {name: torch.zeros_like(inputs[name]) for name in reference.states}
    inputs[lengths.input] = torch.tensor([limit.nearest(3), steps, limit.nearest(7)]).to(inputs[lengths.input].dtype)
    try:
        with torch.no_grad():
            together = reference.float64(inputs)
            for row in range(3):
                one = dict(inputs)
                for spec in captured.signature.inputs:
                    if batch in spec.axes:
                        one[spec.name] = inputs[spec.name].narrow(spec.axes.index(batch), row, 1)
                own = int(inputs[lengths.input][row])
                alone = reference.float64(_piece(captured, one, axis, 0, own))
                for slot in captured.flat.lifted:
                    if not equal(together[slot.output].narrow(1, row, 1), alone[slot.output], FLOAT64):
                        raise ExportError(
                            f"state='lift', but the rows of {slot.output!r} are not in the order of the input's: the "
                            "model orders rows by itself before it packs them. Use enforce_sorted=False instead"
                        )
    except REFUSED:
        return  # it takes sorted lengths alone, and so leaves the rows where they are


_ROWS = 12
"""Steps of a sequence whose rows differ in length."""


def _axis(captured: Captured) -> str:
    """The axis of the inputs that the lifted layers run over."""
    if isinstance(captured.flat, StreamedFlat):
        return captured.flat.axis
    found = {layer.axis for layer in captured.layers}
    declared = set(captured.sizes)
    if len(found) != 1 or not found <= declared:
        if captured.unstreamed is not None:
            raise captured.unstreamed
        raise ExportError(
            f"state='lift', but the recurrent layers run over {', '.join(sorted(found))}, and not over one axis of the "
            f"inputs ({', '.join(sorted(declared))}): a stream cannot be cut there. Use state='none'"
        )
    (axis,) = found
    return axis


def _lengths(captured: Captured) -> str | None:
    return captured.signature.lengths.input if captured.signature.lengths else None


def _piece(captured: Captured, whole: dict[str, Tensor], axis: str, start: int, end: int) -> dict[str, Tensor]:
    """The inputs of steps `start` to `end`; every row is full."""
    piece = dict(whole)
    for spec in captured.signature.inputs:
        for dim, name in enumerate(spec.axes):
            if name == axis:
                piece[spec.name] = piece[spec.name].narrow(dim, start, end - start)
        if spec.name == _lengths(captured):
            piece[spec.name] = torch.full_like(whole[spec.name], end - start)
    return piece


def _watched(reference: Reference, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Seen]:
    with _watching(reference.wide) as seen:
        return reference.float64(inputs), seen


@contextmanager
def _watching(model: nn.Module) -> Iterator[Seen]:
    seen: Seen = []
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, result, name=name: _note(seen, name.removeprefix("model."), inputs, result)
        )
        for name, module in model.named_modules()
        if name.startswith("model.")
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _note(seen: Seen, name: str, inputs: tuple[Any, ...], result: Any) -> None:
    first = next((item for item in inputs if isinstance(item, Tensor)), None)
    result = result[0] if isinstance(result, tuple | list) and result else result
    if isinstance(result, Tensor) and first is not None:
        seen.append((name, first, result))


def _culprit(whole: Seen, first: Seen, second: Seen) -> str:
    """The first module whose results in pieces are not those of the whole, in words."""
    for (name, x, y), (_, x_1, y_1), (_, x_2, y_2) in zip(whole, first, second, strict=False):
        if not _continues(x, x_1, x_2):
            return f"the cause lies before the module {name!r}"
        if not _continues(y, y_1, y_2):
            return f"the cause is the module {name!r}"
    return "the cause lies in the model's own forward"


def _continues(whole: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether two pieces make the whole along some dimension, or the second ends as the whole does."""
    if whole.dim() != first.dim() or whole.dim() != second.dim():
        return False
    if whole.shape == second.shape and equal(second, whole, FLOAT64):
        return True
    for dim in range(whole.dim()):
        others = [i for i in range(whole.dim()) if i != dim]
        if all(whole.shape[i] == first.shape[i] == second.shape[i] for i in others):
            joined = torch.cat([first, second], dim)
            if joined.shape == whole.shape and equal(joined, whole, FLOAT64):
                return True
    return False
