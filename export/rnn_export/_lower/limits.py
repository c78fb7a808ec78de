"""The limits of axes in the files that run without rnn_runtime: each refuses other sizes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnn_runtime import LimitSpec, Signature
from rnn_runtime._signature import LARGEST


class Check(NamedTuple):
    """One size to look at before a model runs.

    Attributes:
        input: which of the inputs.
        dim: which of its dimensions.
        limit: what it has to be.
        text: what to say where it is not.
    """

    input: int
    dim: int
    limit: LimitSpec
    text: str

    @property
    def most(self) -> int:
        """The largest size, as a number."""
        return LARGEST if self.limit.max is None else self.limit.max


def checks(signature: Signature) -> Iterator[Check]:
    """All sizes that a model with these limits has to look at."""
    for index, spec in enumerate(signature.inputs):
        for dim, axis in enumerate(spec.axes):
            limit = signature.limit(axis) if isinstance(axis, str) else None
            if limit in signature.limits and limit is not None:
                because = f" ({limit.reason})" if limit.reason else ""
                text = (
                    f"{spec.name!r} has a size along {axis!r} (dimension {dim}) that the model was not exported for: "
                    f"give {limit.sizes}{because}, or export a second bundle for the others"
                )
                yield Check(index, dim, limit, text)


def scripted() -> Any:
    """A function that looks at one size; called in a trace, it stays a check there."""

    def require(x: Tensor, dim: int, least: int, most: int, text: str) -> Tensor:
        size = x.size(dim)
        if size < least or size > most:
            raise ValueError(text)
        return x

    return torch.jit.script(require)
