"""A benchmark against one that was saved: the ratio of each time, and what is slower than is allowed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn_runtime import Error, InputError
from rnn_runtime._text import aligned

from .._versions import notes

if TYPE_CHECKING:
    from . import Bench, Timing


class SlowerError(Error):
    """A backend is slower than the saved benchmark by more than is allowed."""

    exit_code = 5


@dataclass(frozen=True)
class Change:
    """One backend at one size, now and before.

    Attributes:
        backend, sizes: as in Timing.
        before, now: seconds, the medians.
        ratio: now over before; above 1 is slower.
        spread: the smallest and the largest ratio of any two rounds.
        slower: the ratio is above the bound, and so much that no two rounds of now and before overlap.
    """

    backend: str
    sizes: dict[str, int]
    before: float
    now: float
    ratio: float
    spread: tuple[float, float]
    slower: bool


@dataclass(frozen=True)
class Comparison:
    """What became of a saved benchmark; `str()` is a table with the versions and hardware of both.

    Attributes:
        changes: one for each backend and size that both have.
        missing: what the saved one has and the new one has not.
        differs: what else is not the same ("hardware", "threads", a version), with both values.
        notes: what is known of the versions of both.
        bound: the ratio that is allowed.
    """

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    differs: dict[str, tuple[str, str]]
    notes: tuple[str, ...]
    bound: float

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("size", "backend", "before, µs", "now, µs", "now ÷ before", "rounds", "verdict")
        ]
        rows += [
            (
                _sizes(change.sizes),
                change.backend,
                f"{change.before * 1e6:.1f}",
                f"{change.now * 1e6:.1f}",
                f"{change.ratio:.2f}",
                f"{change.spread[0]:.2f}-{change.spread[1]:.2f}",
                f"SLOWER than {self.bound:g}" if change.slower else "within the bound",
            )
            for change in self.changes
        ]
        lines = [f"{what}: {before} before, {now} now" for what, (before, now) in self.differs.items()]
        if "hardware" in self.differs:
            lines.append("on other hardware a ratio says nothing of the software: save a baseline of this machine")
        lines += [f"not measured now: {text}" for text in self.missing]
        lines += [f"note: {text}" for text in self.notes]
        return "\n\n".join([aligned(rows), *(["\n".join(lines)] if lines else [])])

    def require(self) -> None:
        """Raises SlowerError where something is slower than the bound."""
        slower = [change for change in self.changes if change.slower]
        if slower:
            text = ", ".join(f"{one.backend} at {_sizes(one.sizes)} ({one.ratio:.2f})" for one in slower)
            raise SlowerError(f"slower than {self.bound:g} times the baseline: {text}")


def compare(now: Bench, before: Bench, bound: float) -> Comparison:
    """Hold a benchmark against one from before; `bound` is the ratio of times that is allowed.

    Raises:
        InputError: `bound` is below 1, or the two have no backend and size in common.
    """
    if not bound >= 1:
        raise InputError(f"the bound is {bound}; expected 1 or more, such as 1.2")
    old = {_key(row): row for row in before.timings}
    new = {_key(row): row for row in now.timings}
    changes = tuple(_change(old[key], row, bound) for key, row in new.items() if key in old)
    if not changes:
        raise InputError("the baseline has no backend and size in common with what was measured: give the same --size")
    missing = tuple(f"{row.backend} at {_sizes(row.sizes)}" for key, row in old.items() if key not in new)
    both: dict[str, tuple[Any, Any]] = {
        "hardware": (before.about["hardware"], now.about["hardware"]),
        "threads": (before.threads, now.threads),
    }
    versions = [bench.about["versions"] for bench in (before, now)]
    for name in dict.fromkeys([*versions[0], *versions[1]]):
        both[name] = (versions[0].get(name, "none"), versions[1].get(name, "none"))
    differs = {name: (str(a), str(b)) for name, (a, b) in both.items() if a != b}
    known = dict.fromkeys([text for one in versions for text in notes(one)])
    return Comparison(changes, missing, differs, tuple(known), bound)


def _change(before: Timing, now: Timing, bound: float) -> Change:
    ratio = now.p50 / before.p50
    apart = now.spread[0] > before.spread[1]
    spread = (now.spread[0] / before.spread[1], now.spread[1] / before.spread[0])
    return Change(now.backend, now.sizes, before.p50, now.p50, ratio, spread, ratio > bound and apart)


def _key(row: Timing) -> tuple[Any, ...]:
    return row.backend, tuple(sorted(row.sizes.items()))


def _sizes(sizes: dict[str, int]) -> str:
    return " ".join(f"{axis}={size}" for axis, size in sizes.items()) or "the one size"


def load(path: Path) -> Bench:
    """A benchmark that `to_json` wrote to a file.

    Raises:
        InputError: the file cannot be read, or holds something else or another version.
    """
    from . import VERSION, Bench, Timing

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("version") != VERSION:
            raise InputError(f"{path} was saved by another version of rnn-export: save a baseline again")
        timings = tuple(Timing(**{**row, "spread": tuple(row["spread"])}) for row in found.pop("timings"))
        read = Bench(timings, **found)
        times = all(row.p50 > 0 and 0 < row.spread[0] <= row.spread[1] for row in timings)
        if times and "hardware" in read.about and isinstance(read.about["versions"], dict):
            return read
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): save a baseline with --save {path}") from None
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise InputError(f"{path} is no benchmark that --save wrote: save a baseline again")
