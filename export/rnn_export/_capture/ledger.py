"""The ledger: what traces took for granted, and how each assumption was settled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["guard", "number", "step", "value", "constant", "state"]
"""guard: a comparison of sizes. number: a size became a plain number. step: a comparison of a loop's counter. value: a
decision by the value of a tensor. constant: something outside of the model was read. state: what the model keeps."""

OF_SIZES: frozenset[Kind] = frozenset({"guard", "number", "step"})
"""The kinds that are about sizes."""

Settled = Literal["proven", "tried", "limited"]
"""proven: true for all sizes of the domain. tried: inputs on its other side gave what eager PyTorch gives. limited: the
signature's limits leave its other side out. What is settled by none of these ends the export with an error."""


@dataclass(frozen=True)
class Assumption:
    """One thing that a trace took for granted.

    Attributes:
        kind: of what sort it is.
        text: the assumption in words or as an expression over axes, such as "sequence <= 300".
        place: the line of the user's code, "" where it comes from PyTorch's own.
        settled: how it was settled.
        how: with what: the sizes or the input that was tried, or the limit.
        own: whether the model's own code asked, and not an operator that it called.
    """

    kind: Kind
    text: str
    place: str
    settled: Settled
    how: str = ""
    own: bool = True

    def to_dict(self) -> dict[str, str | bool]:
        """Plain values for the manifest."""
        return asdict(self)
