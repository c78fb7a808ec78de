"""What lies past a row's length does not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._draw import Arrays
from ._subject import OutOfDomain, Part, Subject, Trial, common


class Padding:
    """Neither the values past a row's length nor how many there are change what the row gives."""

    name = "padding"
    promise = "what lies past a row's length changes nothing, whatever it is and however long"

    def unfit(self, subject: Subject) -> str | None:
        """Models without lengths."""
        return "the model takes no lengths" if subject.signature.lengths is None else None

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """How many steps are added."""
        lengths = subject.signature.lengths
        return subject.space(extra=(0, 0 if lengths is not None and lengths.full else 5))

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Other values, then more steps too."""
        lengths = subject.signature.lengths
        sizes = {axis: 7 if axis in subject.sequences else 4 for axis in subject.signature.axis_names}
        extras = [0] if lengths is not None and lengths.full else [0, 3]
        if lengths is not None:
            sizes[lengths.axis] = min(sizes[lengths.axis], subject.signature.limit(lengths.axis).nearest(10) - 3)
        return [{**sizes, "extra": extra, "values": 4, "seed": seed} for extra in extras for seed in range(2)]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """Each row's own steps, and outputs without steps, against those with other padding."""
        signature, lengths = subject.signature, subject.signature.lengths
        assert lengths is not None
        inputs = subject.inputs(trial)
        valid = inputs[lengths.input]
        other = self._repadded(subject, trial, inputs)
        want, got = subject.attempt(inputs), subject.attempt(other)
        steps = {lengths.axis, f"max({lengths.input})"}
        parts = []
        for spec in signature.outputs:
            a, b = common(got[spec.name], want[spec.name])
            along = [dim for dim, axis in enumerate(spec.axes) if axis in steps]
            if along and subject.batch in spec.axes and a.shape == b.shape:
                inside = _inside(valid, a.shape, spec.axes.index(subject.batch), along[0])
                # Past a row's end anything may stand.
                a, b = np.where(inside, a, b), b
            parts.append((spec.name, subject.between(spec.name, a, b)))
        return parts

    def _repadded(self, subject: Subject, trial: Trial, inputs: Arrays) -> Arrays:
        signature, lengths = subject.signature, subject.signature.lengths
        assert lengths is not None
        sizes = subject.sizes(trial)
        wider = {**sizes, lengths.axis: signature.limit(lengths.axis).nearest(sizes[lengths.axis] + trial["extra"])}
        other = subject.draw(wider, trial["seed"] + 1)
        valid = inputs[lengths.input]
        for spec in signature.inputs:
            own = inputs[spec.name]
            if lengths.axis not in spec.axes:
                other[spec.name] = own
                continue
            along = spec.axes.index(lengths.axis)
            padded = other[spec.name]
            if padded.dtype.kind == "f":
                padded *= padded.dtype.type(10)
            kept = (slice(None),) * along + (slice(own.shape[along]),)
            if subject.batch in spec.axes:
                inside = _inside(valid, own.shape, spec.axes.index(subject.batch), along)
                padded[kept] = np.where(inside, own, padded[kept])
            else:
                padded[kept] = own  # of all rows at once
        return other


def reads_padding(subject: Subject, lacking: str | None = None) -> list[str]:
    """What there is to say of rows that are padded to share a batch: one sentence where that changes their results.

    A model without lengths reads padding as data. That is harmless where each step's results come from the steps
    before it, and wrong where a layer runs backwards or the last step is taken. States are no results of a row here:
    who carries them knows how many steps were run.

    Args:
        subject: where it is tried.
        lacking: of a model with lengths, how it lacks the property `padding`.
    """
    if subject.signature.lengths is not None:
        return [f"padding changes a row's results though the model takes lengths: {lacking}"] if lacking else []
    if subject.batch is None:
        return []
    axes = [axis for axis in subject.signature.axis_names if axis in subject.sequences and axis != subject.batch]
    return [text for axis in axes if (text := _padded(subject, axis)) is not None]


def _padded(subject: Subject, axis: str) -> str | None:
    """What changes where a few steps of zeros follow all rows along an axis."""
    states = {pair.output for pair in subject.signature.states}
    limit = subject.signature.limit(axis)
    for wanted in _STEPS:
        names = subject.signature.axis_names
        sizes = subject.within({name: wanted if name in subject.sequences else _ROWS for name in names})
        steps = sizes[axis] = limit.nearest(limit.nearest(wanted + _MORE) - _MORE)
        rows = subject.draw(sizes)
        longer = dict(rows)
        for spec in subject.signature.inputs:
            if axis in spec.axes:
                after = [(0, _MORE if name == axis else 0) for name in spec.axes]
                longer[spec.name] = np.pad(rows[spec.name], after)
        try:
            want, got = subject.attempt(rows), subject.attempt(longer)
        except OutOfDomain:
            continue
        for spec in subject.signature.outputs:
            found = subject.between(spec.name, *common(got[spec.name], want[spec.name]))
            if spec.name not in states and not found.passed:
                return (
                    f"rows of unequal {axis!r} cannot share a batch by padding: {spec.name!r} of a row of {steps} "
                    f"changes{f' by {found.error:.2g}' if np.isfinite(found.error) else ''} when {_MORE} steps of "
                    "zeros follow. Run rows of one length together, or have the model take lengths and pack "
                    "(pack_padded_sequence), whose lengths then are an input"
                )
        return None
    return None


_STEPS = (7, 40)  # a convolution may be wider than the first
_MORE = 5
_ROWS = 2


def _inside(lengths: np.ndarray, shape: tuple[int, ...], rows: int, along: int) -> np.ndarray:
    """Which elements of an array of this shape lie within their row's length."""
    steps = np.arange(shape[along]).reshape([-1 if dim == along else 1 for dim in range(len(shape))])
    limits = lengths.reshape([-1 if dim == rows else 1 for dim in range(len(shape))])
    return np.broadcast_to(steps < limits, shape)
