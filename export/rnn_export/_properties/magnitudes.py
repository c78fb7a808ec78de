"""Large, tiny and denormal inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnn_runtime._properties import OutOfDomain, Part, Subject, Trial
from rnn_runtime._report import Difference

from ._held import Held

SCALES = (1e-6, 1e-20, 1e-40, 1e2, 1e4, 1e6)
"""What inputs are multiplied with; 1e-40 makes them denormal in float32."""

ROUNDINGS = 64
"""How many roundings of a number as large as the largest input an output may be off: sums of large numbers that nearly
cancel keep that much."""

NEARLY = 0.05
"""The share of the elements whose sums may nearly cancel; the others are within the usual tolerance."""


class Magnitudes:
    """Inputs far larger and smaller than the example's; where eager PyTorch itself overflows, nothing is asked."""

    name = "magnitudes"
    promise = "large, tiny and denormal inputs give what eager PyTorch gives, to the rounding of the inputs"

    def unfit(self, subject: Subject) -> str | None:
        """Models that take ids alone, and graphs in 8 bits or float16."""
        if getattr(subject, "precision", "") == "int8":
            return "8 bits share one scale over an input, which is made for values like the example's"
        if getattr(subject, "precision", "") == "float16":
            return f"float16 ends at {np.finfo(np.float16).max:.0f}, so layers in it take values like the example's"
        kinds = {np.dtype(spec.dtype).kind for spec in subject.signature.data_inputs}
        return None if "f" in kinds else "the model takes no floats"

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Which of the scales."""
        return subject.space(scale=(0, len(SCALES) - 1))

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Each of the scales."""
        sizes = {axis: 5 if axis in subject.sequences else 2 for axis in subject.signature.axis_names}
        return [{**sizes, "scale": k, "values": 4, "seed": k} for k in range(len(SCALES))]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """Each output, with room for the rounding of the largest input."""
        assert isinstance(subject, Held)
        inputs = subject.inputs(trial)
        scale = SCALES[trial["scale"]]
        largest = 0.0
        for spec in subject.signature.data_inputs:
            if inputs[spec.name].dtype.kind == "f":
                inputs[spec.name] = (inputs[spec.name].astype(np.float64) * scale).astype(spec.dtype)
                largest = max(largest, float(np.abs(inputs[spec.name]).max(initial=0.0)))
        eager = subject.case(inputs).eager
        if not all(np.isfinite(array).all() for array in eager.values() if array.dtype.kind == "f"):
            raise OutOfDomain(f"eager PyTorch itself overflows at {scale:g}")
        parts: list[Part] = []
        for row in subject.rows(inputs):
            dtype = eager[row.output].dtype
            rounding = ROUNDINGS * largest * float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
            bound = max(row.bound, rounding, 4 * (row.eager_error or 0.0))
            few = row.statistics is not None and row.statistics.over <= max(1.0, NEARLY * row.statistics.count)
            passed = row.passed or (few and bool(np.isfinite(row.error)) and row.error <= bound)
            shown = max(bound, row.error) if passed else row.bound
            parts.append((row.output, Difference(row.error, shown, row.where, passed, "" if passed else row.note)))
        return parts
