"""Where in a user's code something happened, for errors."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import torch

_OTHERS = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parent, sysconfig.get_path("stdlib"))
)
"""PyTorch, this package, and Python's own library; packages of others, which hold models too, count as the user's."""

_SITE = f"{os.sep}site-packages{os.sep}"


def line_of(frame: FrameType | None) -> str:
    """The innermost frame that is the user's, as " (`code`, file:line)"; nothing where there is none."""
    while frame is not None:
        if _users(frame.f_code.co_filename):
            return _said(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return ""


def line_of_error(error: BaseException) -> str:
    """The same of the innermost line of the user's that an error passed through."""
    found = [step for step in traceback.extract_tb(error.__traceback__) if _users(step.filename)]
    return _said(found[-1].filename, found[-1].lineno or 0) if found else ""


def _users(file: str) -> bool:
    # Of a library that lies within Python's own folder, site-packages are no part.
    inside = file.startswith(_OTHERS[:2]) or (file.startswith(_OTHERS[2]) and _SITE not in file)
    return not inside and not file.startswith("<")


def _said(file: str, line: int) -> str:
    code = linecache.getline(file, line).strip()
    return f" (`{code}`, {file}:{line})" if code else f" ({file}:{line})"
