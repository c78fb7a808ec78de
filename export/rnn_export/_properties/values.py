"""All outputs of a backend are eager PyTorch's, at any size and for any values."""

from __future__ import annotations

from collections.abc import Sequence

from rnn_runtime._properties import Part, Subject, Trial

from ._held import Held, part


class Values:
    """The plain comparison; initial states are drawn too, so that one that is not honoured shows."""

    name = "values"
    promise = "every output is what eager PyTorch gives in float64, at any size and from any initial state"

    def unfit(self, subject: Subject) -> str | None:
        """Every model is fit."""
        return None

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Any size."""
        return subject.space()

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """1, 2, primes and more than ten times what most people trace, in turns."""
        names = subject.signature.axis_names
        lists = [(1, 2, 13, 40) if axis in subject.sequences else (1, 3, 7) for axis in names]
        return [
            {**{axis: sizes[(k + j) % len(sizes)] for j, (axis, sizes) in enumerate(zip(names, lists, strict=True))}}
            | {"values": 4, "seed": k}
            for k in range(12)
        ]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """Each output."""
        assert isinstance(subject, Held)
        return [part(row) for row in subject.rows(subject.inputs(trial))]
