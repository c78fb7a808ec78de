"""Numbers that a model counts itself, as `n += 1` does in a loop: no survey follows them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .builtins import packages_of
from .prepare import Prepared
from .survey import survey

Numbers = dict[str, float]


def counted(prepared: Prepared, sizes: Mapping[str, int], longer: Mapping[str, int]) -> list[str]:
    """The plain numbers in the model's functions that end as others where there are more steps; sorted.

    Numbers that come of sizes are symbols in a survey, and the survey has what they are compared with.
    """
    few, more = _ends(prepared, sizes), _ends(prepared, longer)
    return sorted(name for name in few.keys() & more.keys() if few[name] != more[name])


def _ends(prepared: Prepared, sizes: Mapping[str, int]) -> Numbers:
    found: Numbers = {}
    with _watching(packages_of(prepared.flat.model), found):
        survey(prepared, sizes)
    return found


@contextmanager
def _watching(packages: Collection[str], found: Numbers) -> Iterator[None]:
    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event != "return" or frame.f_globals.get("__name__", "").partition(".")[0] not in packages:
            return
        for name, value in frame.f_locals.items():
            _note(found, f"{name!r} in {frame.f_code.co_name}", value)
            if name == "self":
                for key, own in getattr(value, "__dict__", {}).items():
                    _note(found, f"'self.{key}' in {frame.f_code.co_name}", own)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def _note(found: Numbers, name: str, value: Any) -> None:
    if type(value) in (int, float):
        found[name] = value
    elif isinstance(value, deque):
        found[f"the length of {name}"] = len(value)
