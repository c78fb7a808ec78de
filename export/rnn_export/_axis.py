"""Axis: a dynamic axis with the sizes that a model is exported for."""

from __future__ import annotations

from dataclasses import dataclass

from rnn_runtime import InputError, LimitSpec
from rnn_runtime._signature import LARGEST


@dataclass(frozen=True, slots=True)
class Axis:
    """A dynamic axis, for `axes` of `export`: `{"x": {1: rnn_export.Axis("sequence", min=10, max=512)}}`.

    The bundle is verified at sizes from `min` to `max` and refuses all others. A plain name stands for an axis of any
    size.

    Args:
        name: such as "batch" or "sequence".
        min: the least size.
        max: the largest size; None for no bound.

    Raises:
        InputError: the name is no word, the sizes are no whole numbers from 1 in order, or they leave one size alone.
    """

    name: str
    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise InputError(f"an Axis is named {self.name!r}: a name is a word such as 'batch' or 'sequence'")
        for which, size in (("min", self.min), ("max", 1 if self.max is None else self.max)):
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST:
                raise InputError(f"Axis {self.name!r} has {which}={size!r}: give a whole number of 1 or more")
        if self.max is not None and self.max < self.min:
            raise InputError(f"Axis {self.name!r} has min={self.min} and max={self.max}: give a max above the min")
        if self.max == self.min:
            raise InputError(
                f"Axis {self.name!r} has min={self.min} and max={self.max}, which is one size alone: leave the axis "
                "out of `axes`, so that it keeps the example's size, or fix it in the files with `sizes`"
            )

    @property
    def limit(self) -> LimitSpec | None:
        """What it says of sizes; None where that is nothing."""
        return LimitSpec(self.name, self.min, self.max) if (self.min, self.max) != (1, None) else None
