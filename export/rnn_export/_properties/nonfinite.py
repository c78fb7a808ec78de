"""NaN and infinity among the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_runtime._properties import Part, Subject, Trial
from rnn_runtime._properties._subject import failed
from rnn_runtime._report import Difference

from ._held import Held

KINDS = (np.nan, np.inf, -np.inf)


@dataclass(frozen=True)
class Swallows:
    """A backend that is known to make numbers of NaN.

    Attributes:
        backend: what its name begins with.
        operators: those that do so; a graph with one of them may.
        text: how docs/verification.md says it.
    """

    backend: str
    operators: frozenset[str]
    text: str


DOCUMENTED = (
    Swallows(
        "onnxruntime-cpu",
        frozenset({"LSTM", "GRU"}),
        "NaN is swallowed, as documented of ONNX Runtime's LSTM and GRU operators",
    ),
)
"""Seen on ONNX Runtime 1.32: the gates' kernels clamp what they are given, and clamping NaN gives a number."""


def documented(backend: str, operators: Mapping[str, int]) -> str | None:
    """What is documented of a backend that swallows NaN with one of these operators; None where nothing is."""
    for known in DOCUMENTED:
        if backend.startswith(known.backend) and known.operators & operators.keys():
            return known.text
    return None


class NonFinite:
    """One NaN or infinity in the input makes those outputs NaN or infinite that it does in eager PyTorch."""

    name = "nonfinite"
    promise = "NaN and infinity reach the outputs that they reach in eager PyTorch, and no others"

    def unfit(self, subject: Subject) -> str | None:
        """Models that take ids alone, and graphs in 8 bits."""
        if getattr(subject, "precision", "") == "int8":
            return "8 bits share one scale over an input, which holds neither NaN nor infinity"
        kinds = {np.dtype(spec.dtype).kind for spec in subject.signature.data_inputs}
        return None if "f" in kinds else "the model takes no floats"

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Which of the three."""
        return subject.space(kind=(0, len(KINDS) - 1))

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Each of the three."""
        sizes = {axis: 6 if axis in subject.sequences else 3 for axis in subject.signature.axis_names}
        return [{**sizes, "kind": k, "values": 4, "seed": k + 1} for k in range(len(KINDS))]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """Where each output is finite, beside where eager PyTorch's is in the model's own precision."""
        assert isinstance(subject, Held)
        inputs = subject.inputs(trial)
        floats = [spec.name for spec in subject.signature.data_inputs if inputs[spec.name].dtype.kind == "f"]
        generator = np.random.default_rng(trial["seed"])
        target = inputs[floats[int(generator.integers(0, len(floats)))]]
        target.flat[int(generator.integers(0, target.size))] = KINDS[trial["kind"]]
        eager = subject.case(inputs).eager
        got = subject.attempt(inputs)
        known = documented(subject.backend, subject.operators)
        return [
            (name, self._compare(np.asarray(got[name]), want, known))
            for name, want in eager.items()
            if want.dtype.kind == "f"
        ]

    def _compare(self, got: np.ndarray, want: np.ndarray, known: str | None) -> Difference:
        if got.shape != want.shape:
            return failed(f"shape {got.shape}, expected {want.shape}")
        here, there = ~np.isfinite(got), ~np.isfinite(want)
        spread, swallowed = here & ~there, there & ~here
        if spread.any():
            where = tuple(int(k) for k in np.argwhere(spread)[0])
            return Difference(np.inf, 0.0, where, False, f"{spread.sum()} numbers of eager PyTorch's are not finite")
        if swallowed.any() and known is None:
            where = tuple(int(k) for k in np.argwhere(swallowed)[0])
            text = f"{swallowed.sum()} are numbers that are NaN or infinite in eager PyTorch"
            return Difference(np.inf, 0.0, where, False, text)
        return Difference(0.0, 0.0, None, True, known if swallowed.any() and known is not None else "")
