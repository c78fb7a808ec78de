"""Checks on arrays before ONNX Runtime sees them: an empty batch there ends the process, not the call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import InputError, UnknownId
from ._signature import IdsSpec, LengthsSpec, LimitSpec, TensorSpec


class Sizes:
    """The sizes of the named axes, and which inputs say so."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int, list[str]]] = {}

    def add(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Take the sizes from an array that stands for `spec`."""
        for axis, size in zip(spec.axes, shape, strict=True):
            if isinstance(axis, str) and size > 0:
                names = self._seen.setdefault(axis, {}).setdefault(size, [])
                if spec.name not in names:
                    names.append(spec.name)

    def get(self, axis: int | str) -> int | None:
        """The size of an axis, None where no input tells or two disagree; a fixed axis is its own size."""
        if isinstance(axis, int):
            return axis
        sizes = self._seen.get(axis, {})
        return next(iter(sizes)) if len(sizes) == 1 else None

    def conflicts(self) -> list[str]:
        """What to say of each axis on which inputs disagree."""
        return [
            f"axis {axis!r} has size {' but '.join(f'{s} in {_quoted(names)}' for s, names in sizes.items())}: "
            "give all inputs the same size"
            for axis, sizes in self._seen.items()
            if len(sizes) > 1
        ]

    def outside(self, limits: Iterable[LimitSpec]) -> list[str]:
        """What to say of each axis of a size that the model is not exported for."""
        return [
            beyond(limit, size, f"{_quoted(names)} {'has' if len(names) == 1 else 'have'}")
            for limit in limits
            for size, names in self._seen.get(limit.axis, {}).items()
            if not limit.allows(size)
        ]


def beyond(limit: LimitSpec, size: int, owner: str) -> str:
    """What to say of a size outside of a limit; `owner` has it, as in "'x' has"."""
    because = f" ({limit.reason})" if limit.reason else ""
    return (
        f"{owner} size {size} along {limit.axis!r}; the model was exported for {limit.sizes}{because}: "
        "give a size within, or export a second bundle for the others"
    )


def require_single(limit: LimitSpec, instead: str) -> None:
    """Raise InputError where an axis of rows does not take one row alone, as whoever joins rows has to run them."""
    if not limit.allows(1):
        raise InputError(f"{beyond(limit, 1, 'a row that nothing is joined with has')}; here use {instead}")


def tensor(spec: TensorSpec, array: NDArray[Any]) -> list[str]:
    """What is wrong with an array that is to be `spec`: dtype, rank, fixed sizes, empty axes."""
    problems = []
    if array.dtype != np.dtype(spec.dtype):
        variable = spec.name if spec.name.isidentifier() else "array"
        kind = "bool_" if spec.dtype == "bool" else spec.dtype
        problems.append(
            f"{spec.name!r} has dtype {array.dtype}; the model takes {spec.dtype}: "
            f"convert it with {variable}.astype(numpy.{kind})"
        )
    if array.ndim != len(spec.axes):
        problems.append(
            f"{spec.name!r} has {array.ndim} dimensions, shape {array.shape}; "
            f"the model takes {len(spec.axes)}: reshape it to {spec}"
        )
        return problems
    for dimension, (axis, size) in enumerate(zip(spec.axes, array.shape, strict=True)):
        named = f"along {axis!r} (dimension {dimension})" if isinstance(axis, str) else f"in dimension {dimension}"
        if size == 0:
            problems.append(f"{spec.name!r} has size 0 {named}; the model takes 1 or more: leave an empty run out")
        elif isinstance(axis, int) and size != axis:
            problems.append(f"{spec.name!r} has size {size} {named}; the model takes {axis}: give it as {spec}")
    return problems


def lengths(spec: LengthsSpec, values: NDArray[Any], size: int | None) -> list[str]:
    """What is wrong with integer lengths along an axis of this size (None: unknown): each is in minimum..size."""
    wrong = values < spec.minimum
    limits = f"{spec.minimum} or more"
    if size is not None:
        wrong = wrong | (values > size)
        limits = f"{spec.minimum} to {size}" + ("" if spec.axis.isdigit() else f", the size of {spec.axis!r}")
    if not wrong.any():
        if values.size and values.max() <= 0:
            return [f"every one of {spec.input!r} is 0; one row at least has to have a step: leave an empty run out"]
        if spec.full and size is not None and values.size and values.max() < size:
            return [
                f"the largest of {spec.input!r} is {values.max()}; this model needs one row that fills {spec.axis!r}, "
                f"of size {size}: cut the padding that no row uses"
            ]
        return []
    rows = np.flatnonzero(wrong)
    shown = ", ".join(f"{spec.input}[{row}] is {values.flat[row]}" for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return [f"{shown}{more}; a length is {limits}: leave empty rows out, and cut the others to their axis"]


def refuse_nan(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise InputError if a value is NaN; infinity passes."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            where = ", ".join(map(str, np.argwhere(np.isnan(array))[0]))
            raise InputError(f"{name}[{where}] is NaN, and the model was loaded with nan='raise'")


def refuse_ids(specs: Iterable[IdsSpec], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise UnknownId if a value is no id that its embedding has. ONNX Runtime takes those from -size too."""
    for spec in specs:
        array = arrays.get(spec.input)
        if array is None:
            continue
        # Read as unsigned, what is below 0 is above the largest of the type, so that one pass is enough.
        end = min(spec.size, 1 << 8 * array.itemsize - (array.dtype.kind == "i"))
        if array.view(f"u{array.itemsize}").max(initial=0) >= end:
            first = np.argwhere((array < 0) | (array >= spec.size))[0]
            where = f"[{', '.join(map(str, first))}]" if first.size else ""
            raise UnknownId(
                f"{spec.input}{where} is {array[tuple(first)]}; the model has the ids 0 to {spec.size - 1}: "
                "give one of them, such as the one that stands for unknown words"
            )


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))
