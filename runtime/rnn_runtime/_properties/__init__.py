"""The properties that a deployed recurrent model must have, and the search for an input that breaks one.

NumPy alone: these need no reference, so that a machine without PyTorch can check them. One file each. The exporter adds
those that hold a backend against eager PyTorch.
"""

from __future__ import annotations

from ._draw import Draw
from ._run import EFFORTS, Effort, broken, examine
from ._subject import OutOfDomain, Part, Property, Subject, Trial
from .determinism import Determinism
from .empties import Empties
from .padding import Padding, reads_padding
from .rows import Rows
from .split import Split
from .state import OmittedState

__all__ = [
    "ALONE",
    "EFFORTS",
    "Draw",
    "Effort",
    "OutOfDomain",
    "Part",
    "Property",
    "Subject",
    "Trial",
    "broken",
    "examine",
    "reads_padding",
]

ALONE: tuple[Property, ...] = (Rows(), Split(), Padding(), OmittedState(), Determinism(), Empties())
"""The properties that need no reference."""
