"""One property on one backend: its corners, then a search, then the smallest trial that fails."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._report import Check
from ._search import search, smallest
from ._subject import OutOfDomain, Part, Property, Subject, Trial, failed

_SHOWN = 64
"""A counterexample of at most so many numbers is put into the report."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a property is tried on a backend: trials beyond the corners, seconds for looking and for shrinking."""

    trials: int
    seconds: float


EFFORTS = {"quick": Effort(0, 1.0), "default": Effort(25, 2.0), "full": Effort(250, 20.0)}
"""By level."""


def examine(
    prop: Property,
    subject: Subject,
    effort: Effort,
    *,
    seed: int = 0,
    command: str = "",
    excuse: str | None = None,
    live: Subject | None = None,
    only: Trial | None = None,
) -> Check:
    """Try a property on a backend.

    Args:
        prop: what should hold.
        subject: where.
        effort: how hard to try.
        seed: of the search.
        command: what a command that reproduces a failure begins with.
        excuse: why the model itself does not have the property; None where it does, or is not known to lack it.
        live: the model itself, which is asked about every trial that fails; None where it is not at hand, or where the
            property is one of backends alone.
        only: the one trial to make.
    """
    start = time.monotonic()

    def done(verdict: str, note: str, **more: Any) -> Check:
        return Check(
            prop.name, subject.backend, prop.promise, verdict, note=note, seconds=time.monotonic() - start, **more
        )

    reason = prop.unfit(subject) or excuse
    if reason is not None:
        return done("skipped", reason)
    seen = _Seen(prop, subject, live)
    space = prop.space(subject)
    corners = [{name: trial.get(name, low) for name, (low, _) in space.items()} for trial in _corners(prop, subject)]
    if only is not None:
        corners = [{**(corners[0] if corners else {name: low for name, (low, _) in space.items()}), **only}]
    trial = next((corner for corner in corners if seen.fails(corner)), None)
    if trial is None and only is None and _points(space) > len(corners):
        trial = search(space, seen.fails, effort.trials, effort.seconds, seed)
    if trial is not None and only is None:
        trial = smallest(trial, space, seen.fails, effort.seconds)
    if trial is None and seen.excuse is not None:
        return done("skipped", seen.excuse)
    if trial is None and not seen.made:
        return done("skipped", f"the model itself takes none of the inputs that were tried: {seen.refusal}")
    if trial is None:
        name, worst = seen.worst
        return done("passed", "; ".join(seen.notes), trials=seen.made, error=worst.error, bound=worst.bound)
    name, worst = seen.judged(trial)
    where = f"{name}[{', '.join(map(str, worst.where))}]" if worst.where is not None else name
    return done(
        "failed",
        worst.note,
        trials=seen.made,
        error=worst.error,
        bound=worst.bound,
        where=where,
        trial=trial,
        inputs=_shown(subject, trial),
        command=f"{command} --property {prop.name} --backend {subject.backend} --trial {written(trial)}",
    )


def written(trial: Trial) -> str:
    """A trial as the command line takes it: "batch=1,sequence=2,seed=0"."""
    return ",".join(f"{name}={value}" for name, value in trial.items())


def broken(prop: Property, live: Subject) -> str | None:
    """How the model itself lacks a property; None where it has it, as far as its first corners show."""
    if prop.unfit(live) is not None:
        return None
    seen = _Seen(prop, live, None)
    for trial in _corners(prop, live):
        if seen.fails(trial):
            return _lacks(seen.judged(trial), trial)
        if seen.made == _GLANCE:  # of those that it takes: a convolution takes no short piece
            break
    return None


def _corners(prop: Property, subject: Subject) -> list[Trial]:
    """A property's corners at sizes within the model's limits, each once."""
    limited = {limit.axis: limit for limit in subject.signature.limits}
    moved = [
        {name: limited[name].nearest(n) if name in limited else n for name, n in trial.items()}
        for trial in prop.corners(subject)
    ]
    return [trial for k, trial in enumerate(moved) if trial not in moved[:k]]


_GLANCE = 2


def _lacks(part: Part, trial: Trial) -> str:
    name, found = part
    error = f"differs by {found.error:.2g}" if math.isfinite(found.error) else found.note
    return f"eager PyTorch itself does not have it: {name} {error} at {' '.join(f'{k}={v}' for k, v in trial.items())}"


def _points(space: Mapping[str, tuple[int, int]]) -> int:
    """How many trials there are."""
    return math.prod(high - low + 1 for low, high in space.values())


class _Seen:
    """The trials that were made, and the worst that they showed."""

    def __init__(self, prop: Property, subject: Subject, live: Subject | None) -> None:
        self._prop = prop
        self._subject = subject
        self._live = None if live is None else _Seen(prop, live, None)
        self.excuse: str | None = None
        self.made = 0
        self.refusal = "none was tried"
        self.worst: Part = ("", failed("nothing was compared"))
        self.notes: dict[str, None] = {}

    def judged(self, trial: Trial) -> Part:
        """The part of a trial that is furthest off. Raises OutOfDomain."""
        try:
            parts = self._prop.check(self._subject, trial)
        except OutOfDomain:
            raise
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0]
            parts = [("run", failed(f"{type(error).__name__}: {text[:300]}"))]
        if not parts:
            raise OutOfDomain("nothing to compare")
        if all(part[1].passed for part in parts):
            self.notes |= dict.fromkeys(part[1].note for part in parts if part[1].note)
        return max(parts, key=lambda part: (not part[1].passed, _share(part)))

    def fails(self, trial: Trial) -> bool:
        """Whether a trial fails; trials outside the model's domain do not count."""
        try:
            part = self.judged(trial)
        except OutOfDomain as error:
            self.refusal = (str(error).splitlines() or [""])[0]
            return False
        if part[1].passed and (not self.made or _share(part) > _share(self.worst)):
            self.worst = part
        if not part[1].passed and self._live is not None and self._live.fails(trial):
            self.excuse = self.excuse or _lacks(self._live.judged(trial), trial)
            return False
        self.made += 1
        return not part[1].passed


def _share(part: Part) -> float:
    """The error as a share of what is allowed."""
    return part[1].error / part[1].bound if part[1].bound else part[1].error


def _shown(subject: Subject, trial: Trial) -> dict[str, Any] | None:
    """The inputs of a trial, where they are few."""
    if not {*subject.signature.axis_names, "values", "seed"} <= trial.keys():
        return None
    arrays = subject.inputs(trial)
    if sum(array.size for array in arrays.values()) > _SHOWN:
        return None
    return {name: array.tolist() for name, array in arrays.items()}
