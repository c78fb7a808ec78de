"""A stream whose outputs are fed back as its next inputs: forecasts, and decoders that write on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _feeds, _guards, _values
from ._errors import InputError
from ._signature import Signature

if TYPE_CHECKING:
    from ._result import Result
    from ._stream import Stream

Choose = Callable[[NDArray[Any]], NDArray[Any]]
"""From an output's last step to the next input."""


def feedback(
    stream: Stream, inputs: Any, steps: int, back: tuple[str, str] | None, choose: Choose | None, batch: str | None
) -> Iterator[tuple[NDArray[Any], Result]]:
    """See Stream.feedback. `batch` is the name of the axis of rows, None where its size is fixed."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"steps is {steps!r}; expected 1 or more")
    if _values.among(inputs):
        raise InputError("what is fed back passes through the host: give NumPy arrays, and no OrtValues")
    signature = stream._signature
    name, output = _pair(signature, back)
    given: dict[str, Any] = dict(_feeds.gather(signature, inputs))
    taken, made = signature.input(name), signature.output(output)
    times = {axis for axis in taken.axes if isinstance(axis, str) and axis != batch}
    for limit in signature.limits:
        if steps > 1 and limit.axis in times and not limit.allows(1):
            raise InputError(_guards.beyond(limit, 1, "each step that is fed back has"))

    def last(array: NDArray[Any]) -> NDArray[Any]:
        """What comes of the last step, with the axes of the input."""
        for dimension, axis in enumerate(made.axes):
            if axis in times:
                array = array.take([-1], dimension)
        array = array if choose is None else np.asarray(choose(array))
        for dimension, axis in enumerate(taken.axes):
            if axis in times and axis not in made.axes:
                array = np.expand_dims(array, dimension)
        dtype = np.dtype(taken.dtype)
        return array.astype(dtype) if array.dtype.kind == dtype.kind else array

    def run() -> Iterator[tuple[NDArray[Any], Result]]:
        for k in range(steps):
            result = stream.push(given)
            value = last(result[output])
            given[name] = value
            yield value, result
            if k == 0:  # what goes along with a history cannot go along with single steps
                _require_steady(signature, given, name, times)

    return run()


def greedy(steps: Iterator[tuple[NDArray[Any], Result]], batch: int, end: int) -> list[NDArray[np.int64]]:
    """See Stream.greedy."""
    rows: list[list[int]] = [[] for _ in range(batch)]
    open_rows = set(range(batch))
    for tokens, _ in steps:
        if tokens.size != batch:
            raise InputError(
                f"a step gave {tokens.shape} tokens for {batch} rows: the scores' last axis is the tokens'"
            )
        for row, token in enumerate(tokens.ravel().tolist()):
            if row in open_rows and token == end:
                open_rows.remove(row)
            elif row in open_rows:
                rows[row].append(token)
        if not open_rows:
            break
    return [np.array(row, np.int64) for row in rows]


def _pair(signature: Signature, back: tuple[str, str] | None) -> tuple[str, str]:
    """The input and the output that is fed back to it."""
    states = {pair.output for pair in signature.states}
    inputs = [spec.name for spec in signature.data_inputs]
    outputs = [spec.name for spec in signature.outputs if spec.name not in states]
    if back is None and len(inputs) == len(outputs) == 1:
        return inputs[0], outputs[0]
    if isinstance(back, tuple | list) and len(back) == 2 and back[0] in inputs and back[1] in outputs:
        return back[0], back[1]
    raise InputError(
        f"back is {back!r}; expected an input and the output that is fed back to it: the inputs are "
        f"{', '.join(inputs)}; the outputs {', '.join(outputs) or 'none'}"
    )


def _require_steady(signature: Signature, given: dict[str, Any], name: str, times: set[str]) -> None:
    for spec in signature.data_inputs:
        if spec.name != name and spec.name in given and times & set(spec.axes):
            sizes = zip(spec.axes, np.shape(given[spec.name]), strict=True)
            if any(axis in times and size != 1 for axis, size in sizes):
                raise InputError(
                    f"{spec.name!r} has the steps of the history, and each step that follows is one: push the history, "
                    f"and feed back from its last step with {spec.name!r} of one step; or push each step yourself"
                )
