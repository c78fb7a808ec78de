"""A model over the rows of a table: grouped by length, padded where that changes nothing, and put back in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _guards
from .._errors import Error, InputError
from .._independent import lacking, mixes_rows, rows_axis
from .._model import load
from .._report import compare
from .._rows import _TOLERANCE, _TRIALS, _cuttable, _padded, _steps_axis
from .._signature import Signature, TensorSpec
from . import columns

if TYPE_CHECKING:
    import pyarrow

Arrays = dict[str, NDArray[Any]]
Rows = Mapping[str, list[NDArray[Any]]]
"""For each input, an array for each row of a table, without the batch axis."""


class Scorer:
    """A loaded model that takes tables: each row is one sequence, each column an input, as nested lists.

    A column for a state is optional, and so is one for the lengths, to which rows are then cut; other columns are kept
    as they are. An answer has a row for each row, in the same order, with the result that the row alone has.

    Args:
        bundle: a bundle folder or an .onnx file.
        batch: rows that run together, at most; fewer where the model takes fewer.
        outputs: by name; without it all but the states, or the states where there is nothing else.
        device: as for `rnn_runtime.load`.
        threads: as for `rnn_runtime.load`.

    Raises:
        InputError: the rows of a batch cannot be told apart in an input or output, an output is unknown, or the model
            takes no row alone.
        BundleError, DependencyError, DeviceError: as `rnn_runtime.load`.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        batch: int = 64,
        outputs: Sequence[str] | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        columns.arrow()
        if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
            raise InputError(f"batch is {batch!r}; expected 1 or more")
        self.model = load(bundle, device=device, threads=threads)
        self.signature = signature = self.model.signature
        self._axis = rows_axis(self.model)
        limit = signature.limit(self._axis)
        _guards.require_single(limit, "Model.run")
        self._outputs = _outputs(signature, outputs, self._axis)
        # The inputs that lengths count along, each with the dimension of its rows.
        self._along = {
            spec.name: axes.index(signature.lengths.axis)
            for spec in signature.data_inputs
            if signature.lengths is not None and signature.lengths.axis in (axes := _row_axes(spec, self._axis))
        }
        lacks = lacking(self.model)
        self._batch = 1 if mixes_rows(self.model) else min(batch, limit.max or batch)
        # As in a StreamPool: padding is held against rows alone before it is trusted.
        self._trials = _TRIALS
        self._pads = signature.lengths is not None and "padding" not in lacks and _cuttable(signature)

    @property
    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        """The columns that are added, and their types."""
        return [(spec.name, columns.kind(spec.dtype, len(spec.axes) - 1)) for spec in self._outputs]

    @property
    def leaves(self) -> list[tuple[str, pyarrow.DataType]]:
        """The values of these columns: how Parquet names them, and their types."""
        return [(s.name + ".list.element" * (len(s.axes) - 1), columns.kind(s.dtype, 0)) for s in self._outputs]

    def schema(self, given: pyarrow.Schema) -> pyarrow.Schema:
        """The schema of the answer to a table of this one.

        Raises:
            InputError: a column that the model takes is missing, or an output has the name of one that is kept.
        """
        inputs = {spec.name for spec in self.signature.inputs}
        missing = [spec for spec in self.signature.data_inputs if spec.name not in given.names]
        if missing:
            found = ", ".join(map(repr, given.names)) or "none"
            raise InputError(f"there is no column {missing[0].name!r} for {missing[0]}; the columns are {found}")
        if twice := next((name for name in given.names if given.names.count(name) > 1), None):
            raise InputError(f"two columns have the name {twice!r}: rename one of them")
        kept = [field for field in given if field.name not in inputs]
        if both := {field.name for field in kept} & {name for name, _ in self.fields}:
            raise InputError(f"{min(both)!r} is a column and an output of the model: rename the column")
        pa = columns.arrow()
        return pa.schema([*kept, *(pa.field(name, kind) for name, kind in self.fields)])

    def __call__(self, table: pyarrow.Table, first: int = 0) -> pyarrow.Table:
        """The answer to a table.

        Args:
            table: rows of any lengths.
            first: the number that its first row has, for the errors.

        Raises:
            InputError: as `schema`, or a row does not fit the model; names the row and the column.
            Error: the model fails on the values of a row.
        """
        schema = self.schema(table.schema)
        rows = self._read(table, first)
        found: dict[str, list[Any]] = {spec.name: [None] * table.num_rows for spec in self._outputs}
        counted = next(iter(self._along.items()), None)
        steps = [0] * table.num_rows if counted is None else [a.shape[counted[1]] for a in rows[counted[0]]]
        for index in self._groups(rows, steps):
            for row, result in zip(index, self._run(rows, steps, index, first), strict=True):
                for name, array in result.items():
                    found[name][row] = array
        made = [columns.column(s.name, found[s.name], s.dtype, len(s.axes) - 1) for s in self._outputs]
        kept = [table.column(name) for name in schema.names[: len(schema.names) - len(made)]]
        return columns.arrow().table([*kept, *made], schema=schema)

    def _read(self, table: pyarrow.Table, first: int) -> Rows:
        """For each input an array for each row, without the batch axis, cut to the lengths where they are given."""
        lengths, names = self.signature.lengths, set(table.column_names)
        if lengths is not None and lengths.input in names:  # any whole numbers will do, as for Model.run
            pa, place = columns.arrow(), table.column_names.index(lengths.input)
            if pa.types.is_integer(table.schema.types[place]):
                to = pa.from_numpy_dtype(np.dtype(self.signature.input(lengths.input).dtype))
                try:
                    table = table.set_column(place, lengths.input, table.column(place).cast(to))
                except pa.ArrowInvalid as error:
                    raise InputError(f"the column {lengths.input!r} does not fit {to} ({error}): check it") from None
        read = {
            spec.name: columns.rows(spec.name, table.column(spec.name), spec.dtype, _row_axes(spec, self._axis), first)
            for spec in self.signature.inputs
            if spec.name in names
        }
        if lengths is not None and lengths.input in read and self._along:
            counts = [int(value[()]) for value in read.pop(lengths.input)]
            for name, dim in self._along.items():
                for row, count in enumerate(counts):
                    array = read[name][row]
                    if problems := _guards.lengths(lengths, np.array([count]), array.shape[dim]):
                        raise InputError(f"row {first + row}: {problems[0].replace('[0]', '')}")
                    read[name][row] = array[(slice(None),) * dim + (slice(count),)]
        self._check_axes(read, table.num_rows, first)
        return read

    def _check_axes(self, read: Rows, count: int, first: int) -> None:
        """Within a row, an axis has one size in all inputs."""
        axes = {name: _row_axes(self.signature.input(name), self._axis) for name in read}
        if len(axes) < 2:
            return
        for row in range(count):
            sizes = _guards.Sizes()
            for name, along in axes.items():
                sizes.add(TensorSpec(name, "", along), read[name][row].shape)
            if problems := sizes.conflicts():
                raise InputError(f"row {first + row}: {problems[0]}")

    def _groups(self, rows: Rows, steps: list[int]) -> Iterator[list[int]]:
        """Rows that run together: those of one shape but for what is padded, the shortest first."""
        padded = self._along if self._pads else {}
        groups: dict[object, list[int]] = {}
        for row in range(len(steps)):
            shapes = {name: list(arrays[row].shape) for name, arrays in rows.items()}
            for name, dim in padded.items():
                shapes[name][dim] = -1
            groups.setdefault(tuple(map(tuple, shapes.values())), []).append(row)
        for members in groups.values():
            members.sort(key=steps.__getitem__)
            yield from (members[k : k + self._batch] for k in range(0, len(members), self._batch))

    def _run(self, rows: Rows, steps: list[int], index: list[int], first: int) -> list[Arrays]:
        """The outputs of these rows, each as it has them alone."""
        unequal = len({steps[row] for row in index}) > 1
        if unequal and not self._pads:  # it was found out after these were grouped
            return [self._alone(rows, steps, row, first) for row in index]
        if unequal and self._trials:
            alone = [self._alone(rows, steps, row, first) for row in index]
            try:
                self._judge(self._together(rows, steps, index), alone)
            except Error:  # which none of them has alone
                self._pads = False
            return alone
        try:
            return self._together(rows, steps, index)
        except Error:  # of one of them, which is to be named
            return [self._alone(rows, steps, row, first) for row in index]

    def _alone(self, rows: Rows, steps: list[int], row: int, first: int) -> Arrays:
        try:
            return self._together(rows, steps, [row])[0]
        except Error as error:
            raise type(error)(f"row {first + row}: {error}") from None

    def _judge(self, together: list[Arrays], alone: list[Arrays]) -> None:
        """Whether a padded batch gives each row what it gives alone; one row that differs ends padding for good."""
        self._trials -= 1
        self._pads = all(
            got[name].shape == array.shape and compare(got[name], array, _TOLERANCE).passed
            for got, want in zip(together, alone, strict=True)
            for name, array in want.items()
        )

    def _together(self, rows: Rows, steps: list[int], index: list[int]) -> list[Arrays]:
        """The outputs of these rows, run as one batch."""
        steps = [steps[row] for row in index]
        feeds = {}
        for name, arrays in rows.items():
            axis = self.signature.input(name).axes.index(self._axis)
            new = (slice(None),) * axis + (None,)
            batched = [arrays[row][new] for row in index]
            if name in self._along and min(steps) < max(steps):
                dim = self._along[name] + (self._along[name] >= axis)
                feeds[name] = _padded(batched, axis, dim, max(steps))
            else:
                feeds[name] = np.concatenate(batched, axis)
        lengths = np.array(steps) if self._along else None
        result = self.model.run(feeds, lengths=lengths)
        answers: list[Arrays] = [{} for _ in index]
        for spec in self._outputs:
            axis, ends = spec.axes.index(self._axis), _steps_axis(self.signature, spec)
            array = result[spec.name]
            if array.shape[axis] != len(index):
                raise Error(
                    f"the output {spec.name!r} has {array.shape[axis]} rows for {len(index)} sequences: leave it out"
                )
            for k, answer in enumerate(answers):
                row = array.take(k, axis)
                if ends is not None and steps[k] < max(steps):
                    row = row[(slice(None),) * (ends - (ends > axis)) + (slice(steps[k]),)]
                answer[spec.name] = row
        return answers


def _row_axes(spec: TensorSpec, axis: str) -> tuple[int | str, ...]:
    return tuple(a for a in spec.axes if a != axis)


def _outputs(signature: Signature, names: Sequence[str] | None, axis: str) -> list[TensorSpec]:
    known = {spec.name: spec for spec in signature.outputs}
    if names is None:
        states = {pair.output for pair in signature.states}
        names = [name for name in known if name not in states] or list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"there is no output {', '.join(unknown)!r}; the outputs are {', '.join(known)}")
    specs = [known[name] for name in dict.fromkeys(names)]
    if wrong := [spec for spec in specs if spec.axes.count(axis) != 1]:
        raise InputError(
            f"the output {wrong[0]} has no {axis!r} that would tell rows apart: name the other outputs alone"
        )
    return specs
