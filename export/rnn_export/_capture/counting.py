"""Numbers that a model counts itself, as `n += 1` does in a loop: no survey follows them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

Numbers = dict[str, float]
"""What a plain number is called, and how it ended."""


def counted(few: Mapping[str, float], more: Mapping[str, float]) -> list[str]:
    """The plain numbers that ended as others in a survey of more steps; sorted.

    Numbers that come of sizes are symbols in a survey, and the survey has what they are compared with.
    """
    return sorted(name for name in few.keys() & more.keys() if few[name] != more[name])


@contextmanager
def watching(packages: Collection[str], found: Numbers) -> Iterator[None]:
    """While this lasts, plain numbers are noted as the functions of these packages end."""
    own: dict[str, bool] = {}  # by file: this runs at each call of PyTorch's as well

    def entered(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if file not in own:
            own[file] = frame.f_globals.get("__name__", "").partition(".")[0] in packages
        if not own[file]:
            return None
        frame.f_trace_lines = False
        return left

    def left(frame: FrameType, event: str, _: Any) -> Any:
        if event != "return":
            return left
        for name, value in frame.f_locals.items():
            _note(found, f"{name!r} in {frame.f_code.co_name}", value)
            if name == "self":
                for key, own in getattr(value, "__dict__", {}).items():
                    _note(found, f"'self.{key}' in {frame.f_code.co_name}", own)
        return left

    before = sys.gettrace()  # a profile function would be called for PyTorch's own calls too, and take seconds
    sys.settrace(entered)
    try:
        yield
    finally:
        sys.settrace(before)


def _note(found: Numbers, name: str, value: Any) -> None:
    if type(value) in (int, float):
        found[name] = value
    elif isinstance(value, deque):
        found[f"the length of {name}"] = len(value)
