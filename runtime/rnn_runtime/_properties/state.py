"""A state that is left out is a state of zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ._subject import Part, Subject, Trial, failed, same


class OmittedState:
    """Run without its states, the model gives what it gives with zeros; with others it gives something else.

    Where the yardstick is at hand, both are what it gives.
    """

    name = "state"
    promise = "an initial state that is left out is zeros, and one that is given is used"

    def unfit(self, subject: Subject) -> str | None:
        """Models without states."""
        return None if subject.signature.states else "the model has no state"

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Any size."""
        return subject.space()

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """One step, and a few."""
        names = subject.signature.axis_names
        return [{**dict.fromkeys(names, size), "values": 4, "seed": size} for size in (1, 3)]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """All outputs with zeros against those without states; then whether each state is used at all."""
        signature = subject.signature
        inputs = subject.inputs(trial)
        states = [state.input for state in signature.states]
        zeros = {**inputs, **{name: np.zeros_like(inputs[name]) for name in states}}
        without = {name: array for name, array in inputs.items() if name not in states}
        want = subject.attempt(zeros)
        parts = self._held(subject, zeros, want, "from zeros")
        if subject.omit is not None:
            got = subject.attempt(without, subject.omit)
            parts += [(f"{name} without states", same(got[name], want[name])) for name in want]
        if trial["values"] != _DRAWN:
            return parts  # a single one may be lost in rounding, and zeros are no state
        for name in states:
            one = {**zeros, name: inputs[name]}
            given = subject.attempt(one)
            parts += self._held(subject, one, given, f"from {name}")
            ignored = all(given[key].tobytes() == want[key].tobytes() for key in want)
            if ignored and not (subject.reference and self._ignored(subject, zeros, inputs, name)):
                parts.append((name, failed("no output depends on it")))
        return parts

    def _held(
        self, subject: Subject, inputs: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], what: str
    ) -> list[Part]:
        """The outputs beside the yardstick's, where there is one."""
        if subject.reference is None:
            return []
        want = subject.reference(inputs)
        return [
            (f"{name} {what}", subject.between(name, np.asarray(got[name], want[name].dtype), want[name]))
            for name in want
        ]

    def _ignored(
        self, subject: Subject, zeros: dict[str, np.ndarray], inputs: dict[str, np.ndarray], name: str
    ) -> bool:
        """Whether the model itself makes nothing of this state, as a dead ReLU does not."""
        assert subject.reference is not None
        want, given = subject.reference(zeros), subject.reference({**zeros, name: inputs[name]})
        return all(np.abs(given[key] - want[key]).max(initial=0) < subject.tolerance[key] for key in want)


_DRAWN = 4
