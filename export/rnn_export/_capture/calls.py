"""Who calls: for function modes that treat a call by the function it stands in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_DEPTH = 12
"""Frames to look at: each function mode below the caller adds two or three."""


def called_by(function: Callable[..., Any]) -> bool:
    """Whether the call that a function mode has at hand stands in `function`."""
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame.f_code is function.__code__:
            return True
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False
