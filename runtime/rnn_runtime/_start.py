"""Where a stream starts: the value of each state, and which of its dimensions is the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _guards
from ._errors import InputError
from ._options import Context
from ._signature import Signature, TensorSpec

Arrays = dict[str, NDArray[Any]]


class Start:
    """The start of a stream of `batch` sequences.

    Attributes:
        batch: how many sequences.
        axis: the name of their axis; None where no state has it.
        given: the first values that were given, by input name.
        states: the first value of each state: what was given, or zeros.
        tails: by input name, zeros for the steps of its own input that a model keeps before each chunk.
        rows: by the names of `states` and `tails`, the dimension that is the batch; None where there is none.

    Raises:
        InputError: the model has no state, its states have no batch in common, or something given does not fit.
    """

    def __init__(
        self, signature: Signature, context: Mapping[str, Context], batch: int, initial: Mapping[str, ArrayLike] | None
    ) -> None:
        specs = {state.input: signature.input(state.input) for state in signature.states}
        if not specs and not context:
            raise InputError(
                "the model has no state to carry: export it with state='lift', name the states of a bare file with "
                "load(..., states={input: output}), or run whole sequences with `run`"
            )
        self.given = given = _given(specs, initial or {})
        self.axis = axis = batch_axis(specs, given)
        self.batch = _checked(batch, axis is not None or bool(context))
        limit = signature.limit(axis) if axis is not None else None
        if limit is not None and not limit.allows(self.batch):
            raise InputError(_guards.beyond(limit, self.batch, "the stream has"))
        self.states = dict(given)
        self.tails: Arrays = {}
        self.rows: dict[str, int | None] = {}
        for name, spec in specs.items():
            sizes = tuple(self.batch if a == axis else a for a in spec.axes)
            if name not in given:
                self.states[name] = np.zeros([size for size in sizes if isinstance(size, int)], spec.dtype)
            elif problems := _guards.tensor(TensorSpec(name, spec.dtype, sizes), given[name]):
                raise InputError("; ".join(problems))
            self.rows[name] = spec.axes.index(axis) if axis in spec.axes else None
        for name, (dimension, steps) in context.items():
            spec = signature.input(name)
            named = [d for d, a in enumerate(spec.axes) if isinstance(a, str) and d != dimension]
            if len(named) > 1:
                raise InputError(
                    f"a context of {name!r} needs its other sizes, and {spec} leaves more open than the batch: put the "
                    "steps before each chunk yourself"
                )
            shape = [
                steps if d == dimension else a if isinstance(a, int) else self.batch for d, a in enumerate(spec.axes)
            ]
            self.tails[name] = np.zeros(shape, spec.dtype)
            self.rows[name] = named[0] if named else None


def _given(specs: Mapping[str, TensorSpec], initial: Mapping[str, ArrayLike]) -> Arrays:
    if unknown := [name for name in initial if name not in specs]:
        known = ", ".join(specs) or "none"
        raise InputError(f"there is no state {unknown[0]!r} to start from: the states are {known}")
    if masked := [name for name, value in initial.items() if np.ma.is_masked(value)]:
        raise InputError(f"the state {masked[0]!r} is a masked array: fill it, as by .filled(0)")
    arrays = {name: np.array(value, order="C") for name, value in initial.items()}
    if problems := [problem for name, array in arrays.items() for problem in _guards.tensor(specs[name], array)]:
        raise InputError("; ".join(problems))
    return arrays


def batch_axis(specs: Mapping[str, TensorSpec], given: Arrays) -> str | None:
    """The one named axis of the states that start as zeros, or else of those that are given."""

    def names(of: list[TensorSpec]) -> list[str]:
        return sorted({axis for spec in of for axis in spec.axes if isinstance(axis, str)})

    needed = names([spec for name, spec in specs.items() if name not in given])
    if len(needed) > 1:
        raise InputError(
            f"the states have the axes {needed}, and a stream has one batch: give the states that they start from, "
            "stream(initial={...}), or carry the state with `run`"
        )
    shared = needed or names(list(specs.values()))
    return shared[0] if len(shared) == 1 else None


def _checked(batch: object, free: bool) -> int:
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise InputError(f"batch is {batch!r}; expected 1 or more")
    if not free and batch != 1:
        raise InputError(f"batch is {batch}, but the model's states are of a fixed size: leave it out")
    return batch
