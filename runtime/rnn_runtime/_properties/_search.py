"""Look for a trial that fails, and make it small.

Hypothesis searches and shrinks where it is installed; seeded random numbers, and each number lowered in turn, do so
where it is not.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping

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

    if trials:
        _look(space, condition, trials, seed)
    return min(found, key=_size, default=None)


def _look(space: Space, condition: Fails, trials: int, seed: int) -> None:
    try:
        import hypothesis
        from hypothesis import strategies
    except ImportError:
        generator = random.Random(seed)
        for _ in range(trials):
            if condition({name: generator.randint(*limits) for name, limits in space.items()}):
                return
        return
    settings = hypothesis.settings(
        max_examples=trials,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    numbers = strategies.fixed_dictionaries({name: strategies.integers(*limits) for name, limits in space.items()})
    # Nothing was found, or what fails does not fail always: what was seen to fail counts.
    with contextlib.suppress(hypothesis.errors.HypothesisException):
        hypothesis.find(numbers, condition, settings=settings, random=random.Random(seed))


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
    """Smaller numbers, the smallest first: the lowest, then half of the way, and one less."""
    steps = []
    step = value - low
    while step > 0:
        steps.append(value - step)
        step //= 2
    return steps


def _size(trial: Trial) -> tuple[int, ...]:
    """Sizes first, in the order of the space; values and seeds come last there."""
    return tuple(trial.values())
