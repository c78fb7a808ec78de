"""Rows of a batch do not know of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._subject import Part, Subject, Trial, common, narrow


class Rows:
    """Each row of a batch, run alone, gives what it gives among the others."""

    name = "rows"
    promise = "a row of a batch gives the same alone as among others"

    def unfit(self, subject: Subject) -> str | None:
        """Models without an axis of rows, without an output that has it, or that take no row alone."""
        if subject.batch is None:
            return "the inputs have no one axis of rows"
        if not any(subject.batch in spec.axes for spec in subject.signature.outputs):
            return f"no output has the axis {subject.batch!r}"
        limit = subject.signature.limit(subject.batch)
        return None if limit.allows(1) else f"the limit of {subject.batch!r} is {limit.sizes}: no row runs alone"

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Two rows or more."""
        return subject.space({str(subject.batch): 2})

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """A few rows of a few steps."""
        sizes = {axis: 3 if axis == subject.batch else 5 for axis in subject.signature.axis_names}
        return [{**sizes, "values": 4, "seed": 0}]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """The first, the middle and the last row alone, each against its row of the whole."""
        signature, batch = subject.signature, str(subject.batch)
        inputs = subject.inputs(trial)
        if signature.lengths is not None and signature.lengths.full:
            inputs[signature.lengths.input] = np.full_like(
                inputs[signature.lengths.input], trial[signature.lengths.axis]
            )
        whole = subject.attempt(inputs)
        parts = []
        for row in sorted({0, trial[batch] // 2, trial[batch] - 1}):
            alone = subject.attempt(narrow(signature, inputs, batch, row, row + 1))
            for spec in signature.outputs:
                if batch in spec.axes:
                    wanted = whole[spec.name].take([row], spec.axes.index(batch))
                    # A row alone may be padded less: max(lengths) is then its own.
                    got, want = common(alone[spec.name], wanted)
                    parts.append((f"row {row} of {spec.name}", subject.between(spec.name, got, want)))
        return parts
