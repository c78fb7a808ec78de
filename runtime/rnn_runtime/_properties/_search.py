"""Look for a trial that fails, and make it small.

Hypothesis searches and shrinks where it is installed; seeded random numbers, and each number lowered in turn, do so
where it is not.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from ._subject import Trial

Space = Mapping[str, tuple[int, int]]

Fails = Callable[[Trial], bool]


def search(space: Space, fails: Fails, trials: int, seconds: float, seed: int) -> Trial | None:
    """A trial in `space` that fails, None where none of so many did; it stops looking after so many seconds."""
    until = time.monotonic() + seconds
    found: list[Trial] = []

    def condition(trial: Trial) -> bool:
        if time.monotonic() > until or not fails(trial):
            return False
        found.append(dict(trial))
        return True

    generator = random.Random(seed)
    hypothesis = _hypothesis()
    # In rounds, since Hypothesis has no way to be told that time is up.
    for start in range(0, trials, _ROUND):
        count = min(_ROUND, trials - start)
        if hypothesis is not None:
            _with_hypothesis(hypothesis, space, condition, count, generator)
        else:
            drawn = ({name: generator.randint(*limits) for name, limits in space.items()} for _ in range(count))
            next(filter(condition, drawn), None)
        if found or time.monotonic() > until:
            break
    return min(found, key=_size, default=None)


_ROUND = 50


def _hypothesis() -> Any:
    """The package, None where it is not installed."""
    try:
        return importlib.import_module("hypothesis")
    except ImportError:
        return None


def _with_hypothesis(hypothesis: Any, space: Space, condition: Fails, trials: int, generator: random.Random) -> None:
    settings = hypothesis.settings(
        max_examples=trials,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    integers = hypothesis.strategies.integers
    numbers = hypothesis.strategies.fixed_dictionaries({name: integers(*limits) for name, limits in space.items()})
    # Nothing was found, or what fails does not fail always: what was seen to fail counts.
    with contextlib.suppress(hypothesis.errors.HypothesisException):
        hypothesis.find(numbers, condition, settings=settings, random=generator)


def smallest(trial: Trial, space: Space, fails: Fails, seconds: float) -> Trial:
    """A trial that fails and of which no number alone can be lowered, if there was time enough."""
    until = time.monotonic() + seconds
    best = dict(trial)
    again = True
    while again and time.monotonic() < until:
        again = False
        for name, (low, _) in space.items():
            for value in _lower(low, best[name]):
                if time.monotonic() > until:
                    return best
                lower = _found(best, name, value, space, fails)
                if lower is not None:
                    best, again = lower, True
                    break
    return best


def _found(best: Trial, name: str, value: int, space: Space, fails: Fails) -> Trial | None:
    """The trial with one number lowered, if it fails: as it is, or, of a size, with another seed."""
    seeds = (
        [best["seed"], *range(_SEEDS)] if "seed" in space and name not in ("seed", "values") else [best.get("seed", 0)]
    )
    for seed in dict.fromkeys(seeds):
        trial = {**best, name: value, **({"seed": seed} if "seed" in space and name != "seed" else {})}
        if fails(trial):
            return trial
    return None


_SEEDS = 4
"""How many other seeds a smaller size is tried with: what fails at one size may need other values at another."""


def _lower(low: int, value: int) -> list[int]:
    """Smaller numbers, the smallest first: all of them where they are few, else the lowest, then half of the way."""
    if value - low <= _FEW:
        return list(range(low, value))
    steps = list(range(low, low + _LOWEST))
    step = (value - low) // 2
    while step > 0:
        steps.append(value - step)
        step //= 2
    return steps


_FEW, _LOWEST = 64, 16


def _size(trial: Trial) -> tuple[int, ...]:
    """Sizes first, in the order of the space; values and seeds come last there."""
    return tuple(trial.values())
