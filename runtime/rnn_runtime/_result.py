"""What a run gives back."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from ._signature import Signature, TensorSpec


class Result(Mapping[str, NDArray[Any]]):
    """The outputs of one run: `result["output"]`, `result[0]`, and `result.state` for the next run.

    A read-only mapping from the name of each graph output to its array, in the graph's order.
    """

    __slots__ = ("_arrays", "_signature")

    def __init__(self, signature: Signature, arrays: dict[str, NDArray[Any]]) -> None:
        """From all outputs by name, in the graph's order."""
        self._signature = signature
        self._arrays = arrays

    def __getitem__(self, key: str | int) -> NDArray[Any]:
        if not isinstance(key, str):
            return list(self._arrays.values())[operator.index(key)]
        try:
            return self._arrays[key]
        except KeyError:
            raise KeyError(f"{key!r}: the outputs are {', '.join(self._arrays)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    # Arrays have no single truth value to compare two results by.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """The next state under the names of the inputs that take it: `model.run(y, state=result.state)`."""
        return {state.input: self._arrays[state.output] for state in self._signature.states}

    def __repr__(self) -> str:
        specs = (
            TensorSpec(spec.name, spec.dtype, tuple(array.shape() if callable(array.shape) else array.shape))
            for spec, array in zip(self._signature.outputs, self._arrays.values(), strict=True)
        )
        return f"Result({', '.join(map(str, specs))})"
