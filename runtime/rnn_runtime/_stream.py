"""Streams: one sequence, or a batch of them, fed in chunks while the state is carried."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _feeds, _guards
from ._device import onnxruntime
from ._errors import Error, InputError
from ._result import Result
from ._signature import Signature, TensorSpec

if TYPE_CHECKING:
    from ._model import Model

Arrays = dict[str, NDArray[Any]]


class Stream:
    """A batch of sequences that arrive in chunks. `push` gives what the model makes of a chunk; the state stays here.

    State lies in two sets of buffers that ONNX Runtime reads from and writes to in turn, and a chunk whose shape was
    seen before needs no new check and no new buffer. One thread at a time may push.
    """

    def __init__(self, model: Model, session: Any, batch: int) -> None:
        self._model = model
        self._session = session
        self._signature = model.signature
        self._specs = {spec.input: model.signature.input(spec.input) for spec in model.signature.states}
        self._batch_axis = _batch_axis(model.signature)
        self.batch = _checked_batch(batch, self._batch_axis)
        self._buffers: tuple[Arrays, Arrays] = (self._zeros(), self._zeros())
        self._current = 0
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._lock = threading.Lock()

    def push(
        self, chunk: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike], lengths: ArrayLike | None = None
    ) -> Result:
        """Run the next steps of each sequence, and keep the state for the steps after.

        Args:
            chunk: as the inputs of `Model.run`, of any number of steps; its batch is the stream's.
            lengths: as for `Model.run`.

        Returns:
            The outputs, as `Model.run` gives them: arrays of their own, which later pushes leave alone.

        Raises:
            InputError: the chunk does not fit; the state stays as it was.
            Error: ONNX Runtime fails; the state stays as it was.
        """
        with self._lock:
            plan, arrays = self._plan(chunk, lengths)
            outputs = plan.run(self._current, arrays)
            self._current ^= 1
            return Result(self._signature, outputs)

    @property
    def state(self) -> Arrays:
        """The state after the last push, by input name: copies, to keep, to send, or to set again."""
        with self._lock:
            return {name: array.copy() for name, array in self._buffers[self._current].items()}

    @state.setter
    def state(self, value: Mapping[str, ArrayLike]) -> None:
        arrays = {}
        known = ", ".join(self._specs)
        problems = [f"there is no state {name!r}: the states are {known}" for name in value if name not in self._specs]
        for name, spec in self._specs.items():
            if name not in value:
                problems.append(f"the state {name!r} is missing: give all that `state` gave")
                continue
            arrays[name] = np.asarray(value[name])
            fixed = TensorSpec(name, spec.dtype, tuple(self._shape(spec)))
            problems += _guards.tensor(fixed, arrays[name])
        if problems:
            raise InputError("; ".join(problems))
        with self._lock:
            for name, array in arrays.items():
                np.copyto(self._buffers[self._current][name], array)

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Start again from zeros: all sequences, or those of these rows of the batch (indices, or a mask of booleans).

        Raises:
            InputError: a row is not in the batch.
        """
        index = slice(None) if rows is None else self._rows(rows)
        with self._lock:
            for name, array in self._buffers[self._current].items():
                axes = self._specs[name].axes
                if rows is None:
                    array[...] = 0
                elif self._batch_axis in axes:
                    array[(slice(None),) * axes.index(self._batch_axis) + (index,)] = 0

    def _rows(self, rows: ArrayLike) -> Any:
        index = np.asarray(rows)
        if index.size == 0:
            return index.astype(np.intp)
        if index.dtype == bool and index.shape == (self.batch,):
            return index
        if index.dtype.kind in "iu" and index.ndim <= 1 and index.min() >= 0 and index.max() < self.batch:
            return index
        raise InputError(f"rows is {rows!r}; expected rows from 0 to {self.batch - 1}, or {self.batch} booleans")

    def fork(self) -> Stream:
        """A second stream that goes on from this one's state, and leaves this one alone."""
        other = Stream(self._model, self._session, self.batch)
        other.state = self.state
        return other

    def _plan(self, chunk: Any, lengths: Any) -> tuple[_Plan, Arrays]:
        data = self._signature.data_inputs
        fast = lengths is None and len(data) == 1 and type(chunk) is np.ndarray
        if fast and (known := self._plans.get((chunk.shape, chunk.dtype))) is not None:
            return known, {data[0].name: chunk}
        state = self._buffers[self._current]
        feeds = _feeds.make(self._signature, chunk, state, lengths)
        arrays = {name: array for name, array in feeds.items() if name not in state}
        key = (chunk.shape, chunk.dtype) if fast else (tuple((n, a.shape) for n, a in arrays.items()), lengths is None)
        if key not in self._plans:
            self._plans[key] = _Plan(self._session, self._signature, self._buffers, arrays)
        return self._plans[key], arrays

    def _shape(self, spec: TensorSpec) -> list[int]:
        return [self.batch if isinstance(axis, str) else axis for axis in spec.axes]

    def _zeros(self) -> Arrays:
        return {name: np.zeros(self._shape(spec), spec.dtype) for name, spec in self._specs.items()}


def _batch_axis(signature: Signature) -> str | None:
    """The one named axis of the states."""
    if not signature.states:
        raise InputError(
            "the model has no state to carry: export it with state='lift', or run whole sequences with `run`"
        )
    names = {axis for state in signature.states for axis in signature.input(state.input).axes if isinstance(axis, str)}
    if len(names) > 1:
        raise InputError(
            f"the states have the axes {sorted(names)}; a stream has one batch: carry the state with `run`"
        )
    return next(iter(names), None)


def _checked_batch(batch: object, axis: str | None) -> int:
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise InputError(f"batch is {batch!r}; expected 1 or more")
    if axis is None and batch != 1:
        raise InputError(f"batch is {batch}, but the model's states are of a fixed size: leave it out")
    return batch


class _Plan:
    """How chunks of one shape are run: buffers for inputs and outputs, bound once for each way round of the state."""

    def __init__(self, session: Any, signature: Signature, buffers: tuple[Arrays, Arrays], inputs: Arrays) -> None:
        self._session = session.run_with_iobinding
        value = onnxruntime().OrtValue.ortvalue_from_numpy
        next_of = {state.output: state.input for state in signature.states}
        self._inputs = {name: np.array(array) for name, array in inputs.items()}
        # What an output's size is, the first run tells; one that depends on values has a new size each time.
        fresh = [spec for spec in signature.outputs if spec.name not in next_of]
        self._outputs: dict[str, NDArray[Any] | None] = dict.fromkeys(spec.name for spec in fresh)
        if signature.lengths is None:
            feeds = {**self._inputs, **buffers[0]}
            for spec, array in zip(
                fresh, session.run([spec.name for spec in fresh], feeds) if fresh else [], strict=True
            ):
                self._outputs[spec.name] = np.array(array)
        self._sizes_vary = any(array is None for array in self._outputs.values())
        self._names = [spec.name for spec in signature.outputs]
        self._next_of = next_of
        self._buffers = buffers
        self._bindings = []
        for now, later in (buffers, buffers[::-1]):
            binding = session.io_binding()
            for name, array in {**self._inputs, **now}.items():
                binding.bind_ortvalue_input(name, value(array))
            for name in self._names:
                target = later[next_of[name]] if name in next_of else self._outputs[name]
                if target is None:
                    binding.bind_output(name)
                else:
                    binding.bind_ortvalue_output(name, value(target))
            self._bindings.append(binding)

    def run(self, current: int, arrays: Arrays) -> list[NDArray[Any]]:
        """All outputs in order, from the state buffers `current` into the others."""
        for name, buffer in self._inputs.items():
            np.copyto(buffer, arrays[name])
        binding = self._bindings[current]
        try:
            self._session(binding)
        except Exception as error:  # onnxruntime's errors have no base class but Exception
            raise Error(
                f"ONNX Runtime failed on a chunk that fits the signature ({error}): the state is as it was"
            ) from None
        loose: Arrays = {}
        if self._sizes_vary:
            loose = dict(zip(self._names, binding.copy_outputs_to_cpu(), strict=True))
        later = self._buffers[1 - current]
        results = []
        for name in self._names:
            bound = later[self._next_of[name]] if name in self._next_of else self._outputs[name]
            results.append(loose[name] if bound is None else bound.copy())
        return results
