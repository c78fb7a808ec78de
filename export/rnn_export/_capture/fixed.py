"""Where a model makes a plain number of a symbolic size, and so fixes an axis: a Python loop over time, above all."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

OURS = tuple(f"{path}{os.sep}" for path in (Path(torch.__file__).parent, Path(__file__).parent.parent))
"""The folders of PyTorch and of this package: lines in them are not the user's."""


_PARTS: dict[Any, int] = {
    **dict.fromkeys((Tensor.unbind, torch.unbind), 1),
    **dict.fromkeys((Tensor.split, torch.split, Tensor.chunk, torch.chunk, Tensor.tensor_split, torch.tensor_split), 2),
}
"""Functions that give a list of parts, and where their `dim` stands among the arguments."""


@dataclass(frozen=True)
class Place:
    """A line of the user's code that fixed a size.

    Attributes:
        size: the size that was traced.
        file, line, code: the line.
        module: the path of the module whose method it stands in, and its class.
    """

    size: int
    file: str
    line: int
    code: str
    module: str

    def __str__(self) -> str:
        return f"`{self.code}` in {self.module} ({self.file}:{self.line})"


@contextmanager
def watching(model: nn.Module) -> Iterator[list[Place]]:
    """While this lasts, collect the places where a symbolic size becomes a plain number in code of the user's."""
    names = {id(module): name for name, module in model.named_modules()}
    places: list[Place] = []
    methods = {name: getattr(torch.SymInt, name) for name in ("__index__", "__int__")}

    def note(name: str) -> Any:
        def method(size: torch.SymInt) -> int:
            symbolic = not size.node.expr.is_number  # before the call, which makes it one
            number: int = methods[name](size)
            place = _place(number, sys._getframe(1), names) if symbolic else None
            if place is not None:
                places.append(place)
            return number

        return method

    class Iterations(TorchFunctionMode):
        """Sees `for x_t in x`, `x.unbind()` and `x.split(1)`, which take the size without asking for it."""

        def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            if func in _PARTS:
                place_of_dim = _PARTS[func]
                dim = args[place_of_dim] if len(args) > place_of_dim else (kwargs or {}).get("dim", 0)
                size = args[0].shape[dim]
                place = _place(size.node.hint, sys._getframe(1), names) if isinstance(size, torch.SymInt) else None
                if place is not None:
                    places.append(place)
            return func(*args, **(kwargs or {}))

    # Tracing tells that an axis was fixed, and not where: the size itself has to tell.
    fixed = {name: note(name) for name in methods}
    for name, method in fixed.items():
        setattr(torch.SymInt, name, method)
    try:
        with Iterations():
            yield places
    finally:
        for name, method in methods.items():
            setattr(torch.SymInt, name, method)


def _place(size: int, frame: FrameType | None, names: dict[int, str]) -> Place | None:
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    if frame is None:
        return None
    file, line = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(file, line).strip() or "?"
    return Place(size, file, line, code, _module(frame, names))


def _module(frame: FrameType | None, names: dict[int, str]) -> str:
    """The innermost module whose method runs."""
    while frame is not None:
        owner = frame.f_locals.get("self")
        if id(owner) in names:
            name = names[id(owner)].removeprefix("model").removeprefix(".")
            return f"{type(owner).__name__} {name!r}" if name else type(owner).__name__
        frame = frame.f_back
    return "a function"
