"""The last steps of its own input that a model sees again before each chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import InputError
from ._options import Context

Arrays = dict[str, NDArray[Any]]


class Tails:
    """What a stream keeps of its input: joined to each chunk, and kept of it after.

    Attributes:
        arrays: the steps kept, by input name.
    """

    def __init__(self, context: Mapping[str, Context], arrays: Arrays) -> None:
        self._context = context
        self.arrays = {name: array.copy() for name, array in arrays.items()}

    def __bool__(self) -> bool:
        return bool(self._context)

    def join(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with what was kept before each: the others as they are.

        Raises:
            InputError: a chunk has no step, or its other sizes are not those of what was kept.
        """
        if not self._context:
            return dict(inputs)
        joined = dict(inputs)
        for name, (dimension, _) in self._context.items():
            if name not in inputs:
                continue  # the checks that come next say that it is missing
            tail, chunk = self.arrays[name], np.asarray(inputs[name])
            if chunk.dtype != tail.dtype or chunk.ndim != tail.ndim:
                continue  # as above
            shape = list(tail.shape)
            shape[dimension] = chunk.shape[dimension]
            if chunk.shape != tuple(shape) or chunk.shape[dimension] == 0:
                shape[dimension] = 1
                raise InputError(
                    f"{name!r} has shape {chunk.shape}; this stream takes {tuple(shape)}, with 1 or more in dimension "
                    f"{dimension}: its last {tail.shape[dimension]} there are put before the next chunk"
                )
            joined[name] = np.concatenate([tail, chunk], axis=dimension)
        return joined

    def without(self, joined: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What `join` was given, from what it made."""
        return {
            name: array[(slice(None),) * self._context[name].dimension + (slice(self._context[name].steps, None),)]
            if name in self._context
            else array
            for name, array in joined.items()
        }

    def keep(self, joined: Mapping[str, NDArray[Any]]) -> None:
        """Keep the end of what `join` made, once the run over it is done."""
        for name, (dimension, steps) in self._context.items():
            np.copyto(self.arrays[name], joined[name][(slice(None),) * dimension + (slice(-steps, None),)])
