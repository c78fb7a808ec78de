"""A failing model made as short as it gets while it still fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .model import Model

Fails = Callable[[Sequence[Model]], Model | None]
"""Gives the first of some models that fails as the one at hand does, or None."""


def shrink(model: Model, fails: Fails, seconds: float, at_once: int = 1) -> Model:
    """The smallest model found within the time, by steps each of which fails.

    Args:
        model: one that fails.
        fails: tries some at a time.
        seconds: after which no further step begins.
        at_once: how many models `fails` tries at a time.
    """
    until, tried = time.monotonic() + seconds, {model.text()}
    while True:
        steps = list[Model]()
        for step in model.simpler():
            if step.text() not in tried:
                tried.add(step.text())
                steps.append(step)
        for i in range(0, len(steps), at_once):
            if time.monotonic() > until:
                return model
            if (smaller := fails(steps[i : i + at_once])) is not None:
                model = smaller
                break
        else:
            return model
