"""A sequence in two pieces, the state carried, is the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._subject import Part, Subject, Trial, narrow, words


class Split:
    """Cut anywhere, with the state of the first piece given to the second, a sequence gives what the whole gives."""

    name = "split"
    promise = "a sequence cut at any step, the state carried, equals the whole"

    def unfit(self, subject: Subject) -> str | None:
        """Models without states, or that run over several axes."""
        if not subject.signature.states:
            return "the model has no state to carry"
        if subject.sequence is None:
            return "the recurrent layers run over no one axis of the inputs"
        return None

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Two steps or more, and where to cut."""
        return subject.space({str(subject.sequence): 2}, cut=(1, 39))

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Seven steps, cut after each."""
        sizes = {axis: 7 if axis == subject.sequence else 2 for axis in subject.signature.axis_names}
        return [{**sizes, "cut": cut, "values": 4, "seed": cut} for cut in range(1, 7)]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """Outputs along the sequence joined; other outputs and states after the last step."""
        signature, axis = subject.signature, str(subject.sequence)
        steps = trial[axis]
        cut = min(trial["cut"], steps - 1)
        inputs = subject.inputs(trial)

        def piece(start: int, stop: int) -> dict[str, np.ndarray]:
            part = narrow(signature, inputs, axis, start, stop)
            if signature.lengths is not None:  # a length of 0 is none, so every row is full
                part[signature.lengths.input] = np.full_like(part[signature.lengths.input], stop - start)
            return part

        whole = subject.attempt(piece(0, steps))
        first = subject.attempt(piece(0, cut))
        carried = {state.input: first[state.output] for state in signature.states}
        second = subject.attempt({**piece(cut, steps), **carried})
        along = {axis} | ({signature.lengths.input} if signature.lengths else set())
        parts = []
        for spec in signature.outputs:
            joins = [dim for dim, size in enumerate(spec.axes) if words(size) & along]
            got = (
                np.concatenate([first[spec.name], second[spec.name]], joins[0])
                if joins
                else np.asarray(second[spec.name])
            )
            parts.append((spec.name, subject.between(spec.name, got, whole[spec.name])))
        return parts
