"""The same inputs give the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from ._subject import Part, Subject, Trial, same

THREADS = 4


class Determinism:
    """Run after run, from one thread or from several at once, the bits are the same.

    On another number of threads inside an operator sums may be taken in another order: there the tolerance counts.
    """

    name = "determinism"
    promise = "the same inputs give the same bits in every run and from every thread"

    def unfit(self, subject: Subject) -> str | None:
        """Every model is fit."""
        return None

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Any size."""
        return subject.space()

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Few rows and steps, then more."""
        names = subject.signature.axis_names
        large = {axis: 40 if axis in subject.sequences else 7 for axis in names}
        return [{**sizes, "values": 4, "seed": 0} for sizes in (dict.fromkeys(names, 2), large)]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """A second run, runs from several threads at once, and a run on another number of threads."""
        inputs = subject.inputs(trial)
        other = subject.inputs({**trial, "seed": trial["seed"] + 1})
        want = {name: array.copy() for name, array in subject.attempt(inputs).items()}
        subject.attempt(other)  # what one run leaves behind must not show in the next
        parts = [(f"{name} again", same(array, want[name])) for name, array in subject.attempt(inputs).items()]
        if subject.shared:

            def one(k: int) -> Mapping[str, NDArray[Any]]:
                return subject.attempt(inputs if k % 2 == 0 else other)

            with ThreadPoolExecutor(THREADS) as pool:
                for k, result in enumerate(pool.map(one, range(2 * THREADS))):
                    if k % 2 == 0:
                        parts += [(f"{name} from a thread", same(array, want[name])) for name, array in result.items()]
        if subject.threaded is not None:
            got = subject.attempt(inputs, subject.threaded)
            parts += [
                (f"{name} on other threads", subject.between(name, array, want[name])) for name, array in got.items()
            ]
        return parts
