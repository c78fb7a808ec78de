"""Columns of Arrow tables as one array for each row, and back. A row is one sequence: its axes are nested lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._errors import DependencyError, Error, InputError

if TYPE_CHECKING:
    import pyarrow

Array = NDArray[Any]


def arrow() -> Any:
    """The package pyarrow. Raises DependencyError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DependencyError('pyarrow is not installed: pip install "rnn-export[score]"') from None
    return pyarrow


def rows(name: str, column: pyarrow.ChunkedArray, dtype: str, axes: Sequence[int | str], first: int) -> list[Array]:
    """An array for each row of a column.

    Args:
        name: of the column, for the errors.
        column: of `len(axes)` nested lists, of fixed size or not.
        dtype: NumPy's name of the type that the values must have.
        axes: of one row.
        first: the number that the column's first row has in its file.

    Raises:
        InputError: a null, a row whose inner lists differ in size, an empty one, other nesting, or another type.
    """
    array, count = column.combine_chunks(), len(column)
    if hasattr(array, "chunks"):  # of no rows, or of one chunk, in some versions
        array = array.chunk(0) if array.num_chunks else arrow().array([], column.type)
    starts = np.arange(count + 1)  # where each row begins, counted in the items of the level at hand
    sizes: list[Array] = []
    for level, axis in enumerate(axes):
        _refuse_nulls(name, array, starts, first)
        counts = _counts(array)
        if counts is None:
            raise InputError(
                f"the column {name!r} is {level} lists deep, of {column.type}; expected {len(axes)}, "
                f"{_nested(dtype, len(axes))}: a row holds the axes [{', '.join(map(str, axes))}]"
            )
        size = counts if level == 0 else _common(name, counts, starts, first)
        _check_size(name, size, axis, first)
        sizes.append(size)
        starts = np.concatenate([[0], np.cumsum(counts)])[starts]
        array = array.flatten()
    _refuse_nulls(name, array, starts, first)
    if str(array.type) != str(arrow().from_numpy_dtype(np.dtype(dtype))):
        raise InputError(
            f"the column {name!r} is of {column.type}; the model takes {dtype}: cast it to {_nested(dtype, len(axes))}"
        )
    values = array.to_numpy(zero_copy_only=False)
    shapes = zip(*sizes, strict=True) if sizes else [()] * count
    return [values[a:b].reshape(shape) for a, b, shape in zip(starts[:-1], starts[1:], shapes, strict=True)]


def column(name: str, arrays: Sequence[Array], dtype: str, rank: int) -> pyarrow.Array:
    """What `rows` reads: a column with a row of `rank` nested lists for each array."""
    pa = arrow()
    values = np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0, dtype)
    made = pa.array(values)
    for level in reversed(range(rank)):
        lists = [math.prod(array.shape[:level]) for array in arrays]
        sizes = np.array([array.shape[level] for array in arrays], np.int64)
        offsets = np.concatenate([[0], np.repeat(sizes, lists).cumsum()])
        if offsets[-1] >= 2**31:
            raise Error(f"the output {name!r} has {offsets[-1]} values in one window: take a smaller one")
        made = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), made)
    return made


def kind(dtype: str, rank: int) -> pyarrow.DataType:
    """The type of such a column."""
    pa = arrow()
    found = pa.from_numpy_dtype(np.dtype(dtype))
    for _ in range(rank):
        found = pa.list_(found)
    return found


def _nested(dtype: str, rank: int) -> str:
    return "list<" * rank + dtype + ">" * rank


def _counts(array: pyarrow.Array) -> Array | None:
    """How many items each list has; None where these are no lists."""
    pa = arrow()
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        counts: Array = np.diff(array.offsets.to_numpy())
        return counts
    return None


def _refuse_nulls(name: str, array: pyarrow.Array, starts: Array, first: int) -> None:
    if array.null_count:
        item = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        row = int(np.searchsorted(starts, item, side="right")) - 1
        raise InputError(f"row {first + row} of the column {name!r} is or holds a null: fill it in, or leave it out")


def _common(name: str, counts: Array, starts: Array, first: int) -> Array:
    """The one size that all lists of a row have. Raises InputError where they differ."""
    items = np.diff(starts)
    filled = np.flatnonzero(items)
    found = np.zeros(len(items), np.int64)
    found[filled] = counts[starts[:-1][filled]]
    owner = np.repeat(np.arange(len(items)), items)
    if (wrong := counts != found[owner]).any():
        k = int(np.argmax(wrong))
        raise InputError(
            f"row {first + owner[k]} of the column {name!r} is ragged: one of its inner lists has {found[owner[k]]} "
            f"items and another {counts[k]}; expected one size within a row"
        )
    return found


def _check_size(name: str, sizes: Array, axis: int | str, first: int) -> None:
    wrong = sizes < 1 if isinstance(axis, str) else sizes != axis
    if wrong.any():
        k = int(np.argmax(wrong))
        if isinstance(axis, str):
            raise InputError(
                f"row {first + k} of the column {name!r} is empty along {axis!r}; expected 1 or more: leave it out"
            )
        raise InputError(f"row {first + k} of the column {name!r} has size {sizes[k]}; the model takes {axis}")
