"""The properties that hold a backend against eager PyTorch; rnn_runtime has those that need no reference."""

from __future__ import annotations

from rnn_runtime._properties import ALONE, Property

from ._held import Held
from .drift import Drift
from .magnitudes import Magnitudes
from .nonfinite import NonFinite
from .values import Values

__all__ = ["Drift", "Held", "Magnitudes", "NonFinite", "Values", "everything"]


def everything(steps: int) -> tuple[Property, ...]:
    """All properties, in the order in which a report has them.

    Args:
        steps: how long the sequence of the drift is.
    """
    return (Values(), *ALONE, Drift(steps), Magnitudes(), NonFinite())
