"""Streams: one sequence, or a batch of them, fed in chunks while the state is carried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _feeds, _fork, _guards, _values
from ._errors import Error, InputError
from ._plan import MOST_BYTES, Plan, Plans, buffers
from ._result import Result
from ._signature import Signature, TensorSpec
from ._start import Start
from ._tails import Tails

if TYPE_CHECKING:
    from ._model import Model

Arrays = dict[str, NDArray[Any]]


class Stream:
    """A batch of sequences that arrive in chunks. `push` gives what the model makes of a chunk; the state stays here.

    State lies in two sets of buffers that ONNX Runtime reads from and writes to in turn, and a chunk whose shape came
    twice before needs no new check and no new buffer. One thread at a time pushes; others wait for it.

    Attributes:
        batch: how many sequences.
    """

    def __init__(self, model: Model, batch: int = 1, initial: Mapping[str, ArrayLike] | None = None) -> None:
        _fork.check(model._loaded)
        self._model = model
        self._signature = model.signature
        self._nan = model._options.nan == "raise"
        self._start = Start(model.signature, model._options.context, batch, initial)
        self._ids = model.signature.ids
        _guards.refuse_ids(self._ids, self._start.states)
        if self._nan:
            _guards.refuse_nan(self._start.states)
        self.batch = self._start.batch
        first, second = (buffers(self._start.states, model._device) for _ in range(2))
        self._states = (first, second)
        self._tails = Tails(model._options.context, self._start.tails)
        self._current = 0
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in model.signature.data_inputs}
        # Where a chunk is one array, its shape alone tells how to run it.
        # Lengths beside the first are values that have to be looked at each time.
        self._checks = bool(model.signature.more_lengths)
        alone = len(self._dtypes) == 1 and model.signature.lengths is None and not self._checks
        self._only = next(iter(self._dtypes)) if alone else None
        self._dtype = next(iter(self._dtypes.values()))
        self._counted = _counted(model.signature)
        # An output that is an input under the same name is never written to a buffer of its own.
        names = {spec.name for spec in model.signature.inputs} | model._options.constants.keys()
        self._plannable = names.isdisjoint(spec.name for spec in model.signature.outputs)
        self._plans = Plans()
        self._last: Plan | None = None
        self._shape: tuple[int, ...] | None = None  # of the chunks that `_last` is for, where nothing is left to check
        self._loaded = model._loaded
        self._lock = threading.Lock()
        self._order: tuple[Any, Any] = (None, None)  # an event loop, and the asyncio.Lock that is bound to it

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
            InputError: the chunk does not fit, or has an id that the model has not (UnknownId); the state stays as it
                was.
            Error: ONNX Runtime fails, or the process was forked since `load`; the state stays as it was.
        """
        if self._loaded != _fork.generation:  # before the lock, which another thread may have held at the fork
            _fork.check(self._loaded)
        with self._lock:
            if (
                type(chunk) is np.ndarray
                and chunk.shape == self._shape
                and chunk.dtype is self._dtype
                and lengths is None
            ):
                plan: Any = self._last
                if self._ids and self._only is not None:
                    _guards.refuse_ids(self._ids, {self._only: chunk})
                plan.put(chunk)
                turn = plan.turns[self._current]
                try:
                    turn.run()
                except Exception as error:  # onnxruntime's errors have no base class but Exception
                    if plan.certain:
                        raise _failed(error) from None
                    return self._push(chunk, lengths)  # the outputs may have another size this time
                arrays = turn.results()
                self._current ^= 1
                return Result(self._signature, arrays)
            return self._push(chunk, lengths)

    def feedback(
        self,
        inputs: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
        steps: int,
        *,
        back: tuple[str, str] | None = None,
        choose: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> Iterator[tuple[NDArray[Any], Result]]:
        """Push `inputs`, a history or a first step, and then each step's output as the next step's input.

        Args:
            inputs: as for `push`. Those that are not fed back, such as an encoder's memory, stay the same in each step.
            steps: how often to push at most; stop before by leaving the loop.
            back: the input, and the output whose last step is fed back to it; left out where there is one of each.
            choose: what makes the next input of that last step, such as `lambda scores: scores.argmax(-1)`.

        Returns:
            An iterator over what is fed back, with the input's axes and one step, and the Result that it came from. The
            last of them has not been pushed.

        Raises:
            InputError: `steps` or `back` does not fit; when a step is pushed, as `push`.
        """
        from . import _feedback

        return _feedback.feedback(self, inputs, steps, back, choose, self._start.axis)

    def greedy(
        self,
        inputs: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
        *,
        end: int,
        most: int,
        back: tuple[str, str] | None = None,
    ) -> list[NDArray[np.int64]]:
        """Write on from `inputs`: each step's token of the highest score is the next step's input.

        Args:
            inputs: as for `feedback`: tokens to begin with, and what stays the same.
            end: the token at which a row ends.
            most: how many tokens a row may have.
            back: the input that takes tokens, and the output with a score for each along its last axis.

        Returns:
            For each row its tokens, int64 (tokens,), without the end.

        Raises:
            InputError: as `feedback`.
        """
        from . import _feedback

        steps = self.feedback(inputs, most, back=back, choose=lambda scores: scores.argmax(-1))
        return _feedback.greedy(steps, self.batch, end)

    async def push_async(
        self, chunk: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike], lengths: ArrayLike | None = None
    ) -> Result:
        """`push` for asyncio: runs in the loop's default executor, and the loop goes on meanwhile.

        The pushes of one stream run in the order in which they were awaited, each on a copy of its chunk as it was
        then. One that is cancelled while it runs moves the state all the same.

        Raises:
            InputError, Error: as `push`.
        """
        import asyncio  # half of what importing rnn_runtime would cost

        chunk, loop = _copied(chunk), asyncio.get_running_loop()
        if self._order[0] is not loop:
            self._order = (loop, asyncio.Lock())
        async with self._order[1]:
            return await loop.run_in_executor(None, self.push, chunk, lengths)

    def _push(self, chunk: Any, lengths: Any) -> Result:
        """A push of which nothing is known yet. The state moves last, when nothing can fail any more."""
        self._shape = None
        if _values.among(chunk):
            return self._push_values(chunk, lengths)
        inputs, shapes = self._inputs(chunk, lengths)
        _guards.refuse_ids(self._ids, inputs)
        if self._nan:
            _guards.refuse_nan(self._tails.without(inputs))
        plan = self._plans.get(shapes)
        if plan is None:
            arrays = self._plainly(inputs)
            # Many shapes come once; what comes again gets buffers, if it is not so large that copies are what counts.
            size = sum(array.nbytes for array in (*inputs.values(), *arrays.values()))
            if self._plannable and shapes in self._plans and size <= MOST_BYTES:
                self._plans.add(shapes, Plan(self._model, inputs, self._states, arrays))
            self._plans.note(shapes)
        else:
            arrays = self._bound(plan, inputs)
            if self._only and not self._tails and plan.fixed and not self._nan:
                self._last, self._shape = plan, inputs[self._only].shape
        self._tails.keep(inputs)
        self._current ^= 1
        return Result(self._signature, arrays)

    def _push_values(self, chunk: Any, lengths: Any) -> Result:
        """A push of OrtValues: the outputs are OrtValues too, and on a GPU nothing passes through the host."""
        if self._tails:
            raise InputError("a stream that keeps a context of its input takes NumPy arrays: give such a chunk")
        now, later = self._states[self._current], self._states[1 - self._current]
        states = {name: buffer.value for name, buffer in now.items()}
        outputs = self._model._run_values(chunk, states, lengths)
        self._require_shapes({pair.output: tuple(outputs[pair.output].shape()) for pair in self._signature.states})
        for pair in self._signature.states:
            later[pair.input].take(outputs[pair.output])
        self._current ^= 1
        return Result(self._signature, outputs)

    def _inputs(self, chunk: Any, lengths: Any) -> tuple[Arrays, Any]:
        """The checked arrays for all inputs but states, and the shapes of the data inputs."""
        quick = self._quick(chunk)
        if quick is not None and not self._checks and (lengths is None or self._signature.lengths is not None):
            joined = self._tails.join(quick)
            shapes = tuple([array.shape for array in joined.values()])
            if shapes in self._plans:  # then dtypes, ranks and sizes have been found good
                if self._signature.lengths is None:
                    return joined, shapes
                if (steps := self._quick_lengths(joined, lengths)) is not None:
                    return {**joined, self._signature.lengths.input: steps}, shapes
        given = self._tails.join(_feeds.gather(self._signature, chunk)) if self._tails else chunk
        try:
            feeds = _feeds.make(self._signature, given, self._start.states, lengths)
        except InputError as error:
            rows = _feeds.other_rows(self._signature, given, self._start.axis, self.batch)
            if rows is None:
                raise
            raise InputError(
                f"the chunk has {rows} rows along {self._start.axis!r}, and this stream has {self.batch}: make it with "
                f"model.stream(batch={rows})"
            ) from error
        arrays = {name: array for name, array in feeds.items() if name not in self._start.states}
        return arrays, tuple([arrays[name].shape for name in self._dtypes])

    def _quick(self, chunk: Any) -> Arrays | None:
        """The data inputs by name where all are NumPy arrays of the right dtype, else None."""
        if isinstance(chunk, Mapping):
            if chunk.keys() != self._dtypes.keys():
                return None
            chunk = tuple([chunk[name] for name in self._dtypes])
        elif type(chunk) is np.ndarray:
            chunk = (chunk,)
        if not isinstance(chunk, tuple) or len(chunk) != len(self._dtypes):
            return None
        for array, dtype in zip(chunk, self._dtypes.values(), strict=True):
            if type(array) is not np.ndarray or array.dtype is not dtype:
                return None
        return dict(zip(self._dtypes, chunk, strict=True))

    def _quick_lengths(self, inputs: Arrays, lengths: Any) -> NDArray[Any] | None:
        """Lengths for inputs of known shapes, of which the values alone are left to check; None where more is."""
        spec = self._signature.lengths
        assert spec is not None
        if self._counted is None:
            return None
        name, dimension = self._counted
        size = inputs[name].shape[dimension]
        if lengths is None:
            return np.full(self.batch, size, self._signature.input(spec.input).dtype)
        array = np.asarray(lengths)
        if array.dtype.kind not in "iu" or array.shape != (self.batch,):
            return None
        if problems := _guards.lengths(spec, array, size):
            raise InputError("; ".join(problems))
        return array.astype(self._signature.input(spec.input).dtype)

    def _plainly(self, inputs: Arrays) -> Arrays:
        """All outputs from a run without buffers; the next state is then in the other buffers."""
        states = {name: buffer.get() for name, buffer in self._states[self._current].items()}
        arrays = self._model._run({**inputs, **states})
        self._require_shapes({pair.output: arrays[pair.output].shape for pair in self._signature.states})
        for pair in self._signature.states:
            self._states[1 - self._current][pair.input].put(arrays[pair.output])
        return arrays

    def _bound(self, plan: Plan, inputs: Arrays) -> Arrays:
        """As `_plainly`, through the buffers of a plan."""
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
        return turn.results()

    def _require_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for pair in self._signature.states:
            before = self._start.states[pair.input].shape
            if shapes[pair.output] != before:
                raise Error(
                    f"the state {pair.input!r} went in with shape {before} and came out of {pair.output!r} with "
                    f"{shapes[pair.output]}: carry it with `run`"
                )

    @property
    def state(self) -> Arrays:
        """The state after the last push, by input name: copies, to keep, to send, or to set again.

        Where the model keeps a context of an input, its last steps are in it too, under the name of that input.
        """
        _fork.check(self._loaded)
        with self._lock:
            return self._copies()

    @state.setter
    def state(self, value: Mapping[str, ArrayLike]) -> None:
        _fork.check(self._loaded)
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
        _guards.refuse_ids(self._ids, arrays)
        if self._nan:
            _guards.refuse_nan(arrays)
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
        _fork.check(self._loaded)
        start = self._start.states | self._start.tails
        index = None if rows is None else self._rows(rows)
        with self._lock:
            if index is None:
                self._set(start)
                return
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
        state = self.state
        other = Stream(self._model, self.batch, self._start.given)
        other._set(state)
        return other


def _counted(signature: Signature) -> tuple[str, int] | None:
    """The data input and the dimension of it that lengths count along."""
    axis = signature.lengths and signature.lengths.axis
    places = ((spec.name, spec.axes.index(axis)) for spec in signature.data_inputs if axis in spec.axes)
    return next(places, None)


def _copied(chunk: Any) -> Any:
    """The chunk with its NumPy arrays copied: who pushed it may write into them before it is run."""
    if isinstance(chunk, np.ndarray):
        return chunk.copy()
    if isinstance(chunk, Mapping):
        return {name: _copied(value) for name, value in chunk.items()}
    return type(chunk)(map(_copied, chunk)) if type(chunk) in (tuple, list) else chunk


def _failed(error: Exception) -> Error:
    return Error(f"ONNX Runtime failed on a chunk that fits the signature ({error}): the state is as it was")
