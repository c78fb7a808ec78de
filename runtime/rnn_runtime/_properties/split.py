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
        """Models without states, that run over several axes, or whose longest sequence is too short for two pieces."""
        if not subject.signature.states:
            return "the model has no state to carry"
        if subject.sequence is None:
            return "the recurrent layers run over no one axis of the inputs"
        limit = subject.signature.limit(subject.sequence)
        if not limit.allows(2 * limit.min):
            return f"the limit of {subject.sequence!r} is {limit.sizes}: too short for two pieces"
        return None

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Two of the smallest pieces or more, and where to cut."""
        least = subject.signature.limit(str(subject.sequence)).min
        return subject.space({str(subject.sequence): 2 * least}, cut=(least, least + 38))

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Seven steps, or three times the smallest piece, cut after each."""
        limit = subject.signature.limit(str(subject.sequence))
        steps = limit.nearest(max(7, 3 * limit.min))
        sizes = {axis: steps if axis == subject.sequence else 2 for axis in subject.signature.axis_names}
        cuts = range(limit.min, steps - limit.min + 1)[:6]
        return [{**sizes, "cut": cut, "values": 4, "seed": cut} for cut in cuts]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """Outputs along the sequence joined; other outputs and states after the last step."""
        signature, axis = subject.signature, str(subject.sequence)
        steps = trial[axis]
        least = signature.limit(axis).min
        cut = max(least, min(trial["cut"], steps - least))
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
