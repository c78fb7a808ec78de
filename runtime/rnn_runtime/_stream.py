"""Streams: one sequence, or a batch of them, fed in chunks while the state is carried."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _feeds, _fork, _guards, _values
from ._errors import Error, InputError
from ._plan import Plan, buffers
from ._result import Result
from ._signature import TensorSpec
from ._start import Start
from ._tails import Tails

if TYPE_CHECKING:
    from ._model import Model

Arrays = dict[str, NDArray[Any]]

_PLANS = 64  # shapes of chunks that are remembered; each that came twice has buffers of its own


class Stream:
    """A batch of sequences that arrive in chunks. `push` gives what the model makes of a chunk; the state stays here.

    State lies in two sets of buffers that ONNX Runtime reads from and writes to in turn, and a chunk whose shape came
    twice before needs no new check and no new buffer. One thread at a time pushes; others wait for it.

    Attributes:
        batch: how many sequences.
    """

    def __init__(self, model: Model, batch: int = 1, initial: Mapping[str, ArrayLike] | None = None) -> None:
        self._model = model
        self._signature = model.signature
        self._start = Start(model.signature, model._options.context, batch, initial)
        self.batch = self._start.batch
        first, second = (buffers(self._start.states, model._device) for _ in range(2))
        self._states = (first, second)
        self._tails = Tails(model._options.context, self._start.tails)
        self._current = 0
        data = model.signature.data_inputs
        # Where a chunk is one array, its shape alone tells how to run it.
        self._only = data[0].name if len(data) == 1 and model.signature.lengths is None else None
        self._plans: dict[Any, Plan | None] = {}
        self._last: Plan | None = None
        self._shape: tuple[int, ...] | None = None  # of the chunks that `_last` is for, where nothing is left to check
        self._dtype = np.dtype(data[0].dtype)
        self._loaded = model._loaded
        self._lock = threading.Lock()
        self._order: Any = None

    def push(
        self, chunk: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike], lengths: ArrayLike | None = None
    ) -> Result:
        """Run the next steps of each sequence, and keep the state for the steps after.

        Args:
            chunk: as the inputs of `Model.run`, of any number of steps; its batch is the stream's.
            lengths: as for `Model.run`.

        Returns:
            The outputs, as `Model.run` gives them, which later pushes leave alone.

        Raises:
            InputError: the chunk does not fit; the state stays as it was.
            Error: ONNX Runtime fails, or the process was forked since `load`; the state stays as it was.
        """
        with self._lock:
            if (
                type(chunk) is np.ndarray
                and chunk.shape == self._shape
                and chunk.dtype is self._dtype
                and lengths is None
                and self._loaded == _fork.generation
            ):
                plan: Any = self._last
                plan.put(chunk)
                turn = plan.turns[self._current]
                try:
                    turn.run()
                except Exception as error:  # onnxruntime's errors have no base class but Exception
                    if plan.certain:
                        raise _failed(error) from None
                    return self._push(chunk, lengths)
                self._current ^= 1
                return Result(self._signature, turn.results())
            return self._push(chunk, lengths)

    async def push_async(
        self, chunk: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike], lengths: ArrayLike | None = None
    ) -> Result:
        """`push` for asyncio: runs in the loop's default executor, and the loop goes on meanwhile.

        The pushes of one stream run in the order in which they were awaited. One that is cancelled while it runs moves
        the state all the same.

        Raises:
            InputError, Error: as `push`.
        """
        import asyncio  # half of what importing rnn_runtime would cost

        self._order = self._order or asyncio.Lock()
        async with self._order:
            return await asyncio.get_running_loop().run_in_executor(None, self.push, chunk, lengths)

    def _push(self, chunk: Any, lengths: Any) -> Result:
        """A push of which nothing is known yet."""
        _fork.check(self._loaded)
        self._shape = None
        if _values.among(chunk):
            return self._push_values(chunk, lengths)
        inputs, key = self._inputs(chunk, lengths)
        if self._model._options.nan == "raise":
            _guards.refuse_nan(inputs)
        plan = self._plans.get(key)
        arrays = self._plainly(inputs) if plan is None else self._bound(plan, inputs)
        self._tails.keep(inputs)
        if plan is None:
            self._remember(key, inputs, arrays)
        elif self._only and not self._tails and plan.fixed and self._model._options.nan != "raise":
            self._last, self._shape = plan, inputs[self._only].shape
        return Result(self._signature, arrays)

    def _push_values(self, chunk: Any, lengths: Any) -> Result:
        """A push of OrtValues: the outputs are OrtValues too, and nothing passes through the host."""
        if self._tails:
            raise InputError("a stream that keeps a context of its input takes NumPy arrays: give such a chunk")
        given = _values.by_name(self._signature.data_inputs, chunk)
        now, later = self._states[self._current], self._states[1 - self._current]
        outputs = self._model._run_values(given | {name: buffer.value for name, buffer in now.items()}, lengths)
        for pair in self._signature.states:
            later[pair.input].value.update_inplace(outputs[pair.output])
        self._current ^= 1
        return Result(self._signature, outputs)

    def _inputs(self, chunk: Any, lengths: Any) -> tuple[Arrays, Any]:
        """The checked arrays for all inputs but states, and what tells their shapes apart."""
        data = self._only
        known = data is not None and type(chunk) is np.ndarray and lengths is None and chunk.dtype is self._dtype
        if self._tails:
            chunk = self._tails.join(_values.by_name(self._signature.data_inputs, chunk))
        only = chunk[data] if known and self._tails else chunk
        if data is not None and known and only.shape in self._plans:
            return {data: only}, only.shape
        feeds = _feeds.make(self._signature, chunk, self._start.states, lengths)
        arrays = {name: array for name, array in feeds.items() if name not in self._start.states}
        return arrays, arrays[data].shape if data else tuple(array.shape for array in arrays.values())

    def _plainly(self, inputs: Arrays) -> Arrays:
        """All outputs, from a run without buffers; the other state is then the current one."""
        states = {name: buffer.get() for name, buffer in self._states[self._current].items()}
        arrays = self._model._run({**inputs, **states})
        later = self._states[1 - self._current]
        for pair in self._signature.states:
            if arrays[pair.output].shape != states[pair.input].shape:
                raise Error(
                    f"the state {pair.input!r} went in with shape {states[pair.input].shape} and came out of "
                    f"{pair.output!r} with {arrays[pair.output].shape}: carry it with `run`"
                )
        for pair in self._signature.states:
            later[pair.input].put(arrays[pair.output])
        self._current ^= 1
        return arrays

    def _bound(self, plan: Plan, inputs: Arrays) -> Arrays:
        plan.fill(inputs)
        turn = plan.turns[self._current]
        try:
            turn.run()
        except Exception as error:  # onnxruntime's errors have no base class but Exception
            if plan.certain:
                raise _failed(error) from None
            # The outputs may have another size than the last time: what depends on values shows only now.
            arrays = self._plainly(inputs)
            plan.loosen()
            return arrays
        self._current ^= 1
        return turn.results()

    def _remember(self, key: Any, inputs: Arrays, outputs: Arrays) -> None:
        """Note a shape the first time, and make its plan the second time: many come once."""
        if key in self._plans:
            self._plans[key] = Plan(self._model, inputs, self._states, outputs)
            return
        if len(self._plans) >= _PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = None

    @property
    def state(self) -> Arrays:
        """The state after the last push, by input name: copies, to keep, to send, or to set again.

        Where the model keeps a context of an input, its last steps are in it too, under the name of that input.
        """
        with self._lock:
            return self._copies()

    @state.setter
    def state(self, value: Mapping[str, ArrayLike]) -> None:
        arrays = {}
        templates = self._start.states | self._start.tails
        known = ", ".join(templates)
        problems = [f"there is no state {name!r}: the states are {known}" for name in value if name not in templates]
        for name, template in templates.items():
            if name not in value:
                problems.append(f"the state {name!r} is missing: give all that `state` gave")
                continue
            arrays[name] = np.asarray(value[name])
            problems += _guards.tensor(TensorSpec(name, str(template.dtype), template.shape), arrays[name])
        if problems:
            raise InputError("; ".join(problems))
        with self._lock:
            self._set(arrays)

    def _copies(self) -> Arrays:
        states = {name: buffer.get() for name, buffer in self._states[self._current].items()}
        return states | {name: array.copy() for name, array in self._tails.arrays.items()}

    def _set(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            if name in self._tails.arrays:
                np.copyto(self._tails.arrays[name], array)
            else:
                self._states[self._current][name].put(array)

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Start again: all sequences, or those of these rows of the batch (indices, or a mask of booleans).

        Raises:
            InputError: a row is not in the batch.
        """
        start = self._start.states | self._start.tails
        with self._lock:
            if rows is None:
                self._set(start)
                return
            index = self._rows(rows)
            now = self._copies()
            for name, array in now.items():
                if (dimension := self._start.rows[name]) is not None:
                    where = (slice(None),) * dimension + (index,)
                    array[where] = start[name][where]
            self._set(now)

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
        other = Stream(self._model, self.batch, self._start.given)
        other.state = self.state
        return other


def _failed(error: Exception) -> Error:
    return Error(f"ONNX Runtime failed on a chunk that fits the signature ({error}): the state is as it was")
