"""The states of many streams, one row each, and a run over some of these rows as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _feeds, _guards
from ._errors import Error, InputError
from ._report import compare
from ._result import Result
from ._schedule import Chunk
from ._signature import Signature, TensorSpec
from ._start import batch_axis

if TYPE_CHECKING:
    from ._model import Model

Arrays = dict[str, NDArray[Any]]

_TRIALS = 4  # batches of unequal lengths that are held against each row alone before padding is trusted
_TOLERANCE = 1e-5  # relative to max(1, largest value), as an export's own
_KNOWN = 1024  # shapes that are remembered


class Piece(NamedTuple):
    """Chunks that ran together, and what came of it: the graph's outputs, or an error."""

    chunks: list[Chunk]
    outputs: list[NDArray[Any]]
    error: Error | None


class Rows:
    """A row of state per slot, and the runs that gather rows, step them, and put them back.

    Attributes:
        limit: how many rows the model takes at once.

    Raises:
        InputError: some input, output or state has no batch axis, so the rows of a batch cannot be told apart; or the
            model takes no row alone.
    """

    def __init__(self, model: Model, capacity: int) -> None:
        self._run = model._run
        self._no_nan = model._options.nan == "raise"
        self.signature = signature = model.signature
        self._axis = _rows_axis(signature, context=bool(model._options.context))
        self.limit = signature.limit(self._axis)
        _guards.require_single(self.limit, "Model.run or Model.stream")
        self._names = [spec.name for spec in signature.outputs]
        self._data = [(spec.name, spec, spec.axes.index(self._axis)) for spec in signature.data_inputs]
        specs = {state.input: signature.input(state.input) for state in signature.states}
        order = {name: k for k, name in enumerate(self._names)}
        self._slots = {name: np.zeros(self._shape(spec, capacity), spec.dtype) for name, spec in specs.items()}
        # For each state: its slots, which dimension is the batch, the same in the output, and which output that is.
        self._states = [
            (
                state.input,
                self._slots[state.input],
                specs[state.input].axes.index(self._axis),
                signature.output(state.output).axes.index(self._axis),
                order[state.output],
            )
            for state in signature.states
        ]
        self._row = {name: TensorSpec(name, spec.dtype, self._shape(spec, 1)) for name, spec in specs.items()}
        self._cuts = [(spec.axes.index(self._axis), _steps_axis(signature, spec)) for spec in signature.outputs]
        # Unequal lengths need to know where every output ends: of a size that values decide, it is unknown.
        self._trials = _TRIALS
        self.unequal = signature.lengths is not None and _cuttable(signature)
        self._single = len(self._data) == 1
        self._known: dict[object, tuple[object, int]] = {}

    def read(self, chunk: object) -> tuple[tuple[NDArray[Any], ...], object, int]:
        """One stream's chunk as arrays of its own, with the key of those it may share a batch with, and its steps.

        Raises:
            InputError: the chunk does not fit.
        """
        if self.signature.more_lengths:
            pass  # values that have to be looked at each time
        elif type(chunk) is np.ndarray and self._single:
            known = self._known.get((chunk.shape, chunk.dtype))
            if known is not None:
                self._refuse_values((chunk,))
                return (chunk.copy(),), *known
        elif (given := self._given(chunk)) is not None:
            known = self._known.get(_form(given))
            if known is not None:
                self._refuse_values(given)
                return tuple([array.copy() for array in given]), *known
        self._refuse_lengths(chunk)
        zeros = {name: np.zeros(self._shape(spec, 1), spec.dtype) for name, spec in self._row.items()}
        try:
            feeds = _feeds.make(self.signature, chunk, zeros)
        except InputError as error:
            rows = _feeds.other_rows(self.signature, chunk, self._axis, 1)
            if rows is None:
                raise
            raise InputError(
                f"the chunk has {rows} rows along {self._axis!r}; chunks of a pool have batch 1: open a stream for each"
            ) from error
        arrays = tuple([np.array(feeds[name], order="C") for name, _, _ in self._data])
        self._refuse_values(arrays)
        if len(self._known) >= _KNOWN:
            self._known.clear()
        known = self._known[_form(arrays)] = self._kind(arrays)
        return arrays, *known

    def run(self, chunks: list[Chunk]) -> list[Piece]:
        """Run one chunk of each stream, from the states in their slots; `store` puts the next ones there.

        A batch that fails is run again row by row, so that an error reaches only those who caused it.
        """
        if len(chunks) == 1:
            return [self._piece(chunks)]
        if self.unequal and self._trials and len({chunk.steps for chunk in chunks}) > 1:
            alone = [self._piece([chunk]) for chunk in chunks]
            self._judge(chunks, alone)
            return alone
        together = self._piece(chunks)
        return [together] if together.error is None else [self._piece([chunk]) for chunk in chunks]

    def store(self, piece: Piece) -> None:
        """Put the next states of a piece into their slots, but for streams that have ended meanwhile."""
        slots = [chunk.owner.slot for chunk in piece.chunks]
        rows = np.array([row for row, slot in enumerate(slots) if slot is not None], np.intp)
        index = np.array([slot for slot in slots if slot is not None], np.intp)
        for _, array, axis, out_axis, k in self._states:
            following = piece.outputs[k]
            if len(index) < len(slots):
                following = following.take(rows, out_axis)
            _rows_of(array, axis)[index] = _rows_of(following, out_axis)

    def results(self, piece: Piece) -> list[Result]:
        """A result for each chunk of a piece, as its stream alone would have it: rows of the batch's arrays."""
        if len(piece.chunks) == 1:
            return [Result(self.signature, dict(zip(self._names, piece.outputs, strict=True)))]
        columns = []
        lengths = [chunk.steps for chunk in piece.chunks]
        longest = max(lengths)
        for array, (axis, steps) in zip(piece.outputs, self._cuts, strict=True):
            # Rows are views: 32 copies of a row cost as much as gathering and scattering all states.
            turned = np.ascontiguousarray(np.moveaxis(array, axis, 0))
            rows = list(turned.reshape(len(lengths), *array.shape[:axis], 1, *array.shape[axis + 1 :]))
            if steps is not None and min(lengths) < longest:
                before = (slice(None),) * steps
                rows = [row[(*before, slice(length))] for row, length in zip(rows, lengths, strict=True)]
            columns.append(rows)
        signature, names = self.signature, self._names
        return [Result(signature, dict(zip(names, arrays, strict=True))) for arrays in zip(*columns, strict=True)]

    def state(self, slot: int) -> Arrays:
        """The state of one row, by input name: copies, of batch 1."""
        return {name: array.take([slot], axis) for name, array, axis, _, _ in self._states}

    def set_state(self, slot: int, state: Arrays | None) -> None:
        """Put a state that `checked` gave into a row; None is zeros."""
        for name, array, axis, _, _ in self._states:
            _rows_of(array, axis)[slot] = 0 if state is None else _rows_of(state[name], axis)[0]

    def checked(self, state: Mapping[str, ArrayLike]) -> Arrays:
        """A state that a caller gave, as arrays of its own. Raises InputError where it does not fit."""
        known = ", ".join(self._row)
        problems = [f"there is no state {name!r}: the states are {known}" for name in state if name not in self._row]
        arrays: Arrays = {}
        for name, spec in self._row.items():
            if name not in state:
                problems.append(f"the state {name!r} is missing: give all that `state` gave")
                continue
            if np.ma.is_masked(state[name]):
                problems.append(f"the state {name!r} is a masked array: fill it, as by .filled(0)")
                continue
            arrays[name] = np.array(state[name])
            problems += _guards.tensor(spec, arrays[name])
        if problems:
            raise InputError("; ".join(problems))
        _guards.refuse_ids(self.signature.ids, arrays)
        if self._no_nan:
            _guards.refuse_nan(arrays)
        return arrays

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        return tuple(rows if isinstance(axis, str) else axis for axis in spec.axes)

    def _given(self, chunk: object) -> list[NDArray[Any]] | None:
        """The arrays of a chunk of several, in the order of the data inputs, where that is plain to see."""
        given: list[Any]
        if isinstance(chunk, Mapping):
            given = [chunk.get(name) for name, _, _ in self._data]
        elif isinstance(chunk, tuple | list):
            given = list(chunk)
        else:
            return None
        plain = len(given) == len(self._data) and all(type(array) is np.ndarray for array in given)
        return given if plain and (not isinstance(chunk, Mapping) or len(chunk) == len(given)) else None

    def _refuse_values(self, arrays: Sequence[NDArray[Any]]) -> None:
        if self._no_nan or self.signature.ids:
            named = {name: array for (name, _, _), array in zip(self._data, arrays, strict=True)}
            _guards.refuse_ids(self.signature.ids, named)
            if self._no_nan:
                _guards.refuse_nan(named)

    def _refuse_lengths(self, chunk: object) -> None:
        if isinstance(chunk, Mapping):
            special = {state.input for state in self.signature.states}
            special |= {self.signature.lengths.input} if self.signature.lengths else set()
            if wrong := special & chunk.keys():
                raise InputError(
                    f"{', '.join(map(repr, sorted(wrong)))} cannot be pushed: a chunk is as long as its arrays, and "
                    "the stream keeps the state: give the data inputs alone"
                )

    def _kind(self, arrays: tuple[NDArray[Any], ...]) -> tuple[object, int]:
        """What chunks that may share a batch have in common, and the steps along the lengths' axis."""
        axis = self.signature.lengths.axis if self.signature.lengths else None
        steps, shapes = 0, []
        for array, (_, spec, _) in zip(arrays, self._data, strict=True):
            shapes.append(tuple(-1 if a == axis else size for a, size in zip(spec.axes, array.shape, strict=True)))
            steps = array.shape[spec.axes.index(axis)] if axis in spec.axes else steps
        return tuple(shapes), steps

    def _piece(self, chunks: list[Chunk]) -> Piece:
        try:
            feeds = self._feeds(chunks)
            outputs = list(self._run(feeds).values())
        except Exception as error:  # ONNX Runtime's, or no memory for the batch
            return Piece(chunks, [], Error(f"{error}; the state is as it was"))
        for name, array, (axis, _) in zip(self._names, outputs, self._cuts, strict=True):
            if array.shape[axis] != len(chunks):
                found = f"the output {name!r} has {array.shape[axis]} rows for {len(chunks)} streams"
                return Piece(chunks, [], Error(f"{found}: export the model again"))
        for name, _, _, _, k in self._states:
            if outputs[k].shape != feeds[name].shape:
                found = (
                    f"the state {name!r} went in with shape {feeds[name].shape} and came out with {outputs[k].shape}"
                )
                return Piece(chunks, [], Error(f"{found}: use Model.run, and carry it by hand"))
        return Piece(chunks, outputs, None)

    def _feeds(self, chunks: list[Chunk]) -> Arrays:
        lengths = [chunk.steps for chunk in chunks]
        longest = max(lengths)
        feeds = {}
        for k, (name, spec, axis) in enumerate(self._data):
            arrays = [chunk.arrays[k] for chunk in chunks]
            if self.signature.lengths and self.signature.lengths.axis in spec.axes and min(lengths) < longest:
                feeds[name] = _padded(arrays, axis, spec.axes.index(self.signature.lengths.axis), longest)
            else:
                feeds[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)
        index = np.array([chunk.owner.slot for chunk in chunks], np.intp)
        for name, array, axis, _, _ in self._states:
            feeds[name] = array.take(index, axis)
        if self.signature.lengths:
            spec = self.signature.input(self.signature.lengths.input)
            feeds[spec.name] = np.array(lengths, spec.dtype)
        return feeds

    def _judge(self, chunks: list[Chunk], alone: list[Piece]) -> None:
        """Whether a padded batch gives each row what it gives alone; one row that differs ends padding for good."""
        if any(piece.error for piece in alone):
            return
        together = self._piece(chunks)
        same = together.error is None and all(
            compare(got, want, _TOLERANCE).passed
            for result, piece in zip(self.results(together), alone, strict=True)
            for got, want in zip(result.values(), piece.outputs, strict=True)
        )
        self._trials -= 1
        self.unequal = same


def _rows_axis(signature: Signature, context: bool) -> str:
    """The name of the batch axis, which every tensor has to have once."""
    if context:
        raise InputError("a pool keeps no context of an input: push chunks that begin with it, or use Model.stream")
    if not signature.states:
        raise InputError("the model has no state to carry: export it with state='lift', or run whole sequences")
    axis = batch_axis({state.input: signature.input(state.input) for state in signature.states}, {})
    if axis is None:
        raise InputError("the model's states are of a fixed size; a pool needs a batch axis: use Model.stream")
    problems = [
        f"the {what} {spec.name!r} has the axes {list(spec.axes)}"
        for what, specs in (("input", signature.inputs), ("output", signature.outputs))
        for spec in specs
        if spec.axes.count(axis) != 1
    ]
    problems += [
        f"the next state {spec.name!r} has a size that {axis!r} does not tell"
        for spec in (signature.output(state.output) for state in signature.states)
        if any(isinstance(a, str) and a != axis for a in spec.axes)
    ]
    if not signature.data_inputs:
        problems.append("there is no input but the states")
    if problems:
        raise InputError(
            f"a pool runs many streams as one batch, so every input and output needs the axis {axis!r} once; but "
            f"{'; '.join(problems)}: use Model.stream"
        )
    return axis


def _steps_axis(signature: Signature, spec: TensorSpec) -> int | None:
    """The dimension of an output that is as long as the longest row."""
    if signature.lengths is None:
        return None
    ends = (signature.lengths.axis, f"max({signature.lengths.input})")
    return next((k for k, axis in enumerate(spec.axes) if axis in ends), None)


def _cuttable(signature: Signature) -> bool:
    """Whether it is known of every axis of every output where a row shorter than the batch ends."""
    assert signature.lengths is not None
    ends = (signature.lengths.axis, f"max({signature.lengths.input})")
    others = set(signature.axis_names) - {signature.lengths.axis}
    inputs_once = all(spec.axes.count(signature.lengths.axis) <= 1 for spec in signature.inputs)
    return inputs_once and all(
        sum(axis in ends for axis in spec.axes) <= 1
        and all(isinstance(axis, int) or axis in ends or axis in others for axis in spec.axes)
        for spec in signature.outputs
    )


def _form(arrays: Sequence[NDArray[Any]]) -> object:
    """What a chunk is checked for, once."""
    forms = tuple([(array.shape, array.dtype) for array in arrays])
    return forms[0] if len(forms) == 1 else forms


def _rows_of(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """A view with the batch in front."""
    return array if axis == 0 else array.swapaxes(0, axis) if axis == 1 else np.moveaxis(array, axis, 0)


def _padded(arrays: Sequence[NDArray[Any]], axis: int, steps: int, longest: int) -> NDArray[Any]:
    shape = list(arrays[0].shape)
    shape[axis], shape[steps] = len(arrays), longest
    padded = np.zeros(shape, arrays[0].dtype)
    index: list[Any] = [slice(None)] * len(shape)
    for row, array in enumerate(arrays):
        index[axis], index[steps] = slice(row, row + 1), slice(array.shape[steps])
        padded[tuple(index)] = array
    return padded
