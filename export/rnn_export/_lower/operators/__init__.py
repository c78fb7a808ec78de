"""Own translations of PyTorch's operators to ONNX, where those of the tools underneath are wrong off the middle.

A module for each family, each with a table TRANSLATIONS; docs/operators.md has what the sweep of them all shows.
"""

from __future__ import annotations

from . import (
    angles,
    attention,
    division,
    extremes,
    logarithms,
    losses,
    nans,
    order,
    pools,
    ranges,
    resize,
    running,
    statistics,
    totals,
)
from .write import Table

FAMILIES = (
    *(angles, attention, division, extremes, logarithms, losses, nans, order),
    *(pools, ranges, resize, running, statistics, totals),
)

TRANSLATIONS: Table = {target: write for family in FAMILIES for target, write in family.TRANSLATIONS.items()}
