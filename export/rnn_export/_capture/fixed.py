"""Where a model makes a plain number of a symbolic size, and so fixes an axis: a Python loop over time, above all."""

from __future__ import annotations

import linecache
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    **dict.fromkeys((Tensor.split, torch.split), 2),
}
"""Functions that give as many parts as there are steps, and where their `dim` stands among the arguments."""


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


class Fixed(Exception):
    """A symbolic size became a plain number, so that no program for other sizes can come of this trace.

    Attributes:
        place: the line that did it.
        size: the size, an expression of SymPy in the tracer's symbols.
        function: what made something else of it that no loop can come of, such as text; "" where one may.
    """

    def __init__(self, place: Place, size: Any, function: str = "") -> None:
        super().__init__(str(place))
        self.place = place
        self.size = size
        self.function = function


@dataclass
class Watched:
    """What code of the user's did with symbolic sizes.

    Attributes:
        raised: what ended the trace; here too, since TorchScript makes an error of its own of any error.
        compared: lines that compare sizes, each as often as it ran, as `while t < x.shape[1]` does.
    """

    raised: list[Fixed] = field(default_factory=list)
    compared: list[Place] = field(default_factory=list)

    @property
    def repeated(self) -> Place | None:
        """The line that compared sizes most often, where it did more than once."""
        found = Counter(self.compared).most_common(1)
        return found[0][0] if found and found[0][1] > 1 else None


_TEXTS = ("__str__", "__repr__", "__format__")
_TELLS = re.compile(r"(print|warn|warnings\.\w+|log|logs?\w*\.\w+|_log\w*\.\w+)\(")
"""Lines that make text for people to read, which decides nothing."""


@contextmanager
def texts(names: Mapping[int, str], stop: Callable[[Place, torch.SymInt], None]) -> Iterator[None]:
    """While this lasts, `stop` is told where code of the user's makes text of a size, as `heads[str(x.shape[1])]`.

    A name is a decision by size of which no comparison shows.
    """
    methods = {name: getattr(torch.SymInt, name) for name in _TEXTS}

    def note(name: str) -> Any:
        def method(size: torch.SymInt, *more: Any) -> str:
            frame = sys._getframe(1)
            if not _tells(frame.f_code.co_filename) and size.node.expr.free_symbols:
                found = place(frame, names, int(size.node.hint))
                if found is not None and not _TELLS.match(found.code):
                    stop(found, size)
            text: str = methods[name](size, *more)
            return text

        return method

    for name in methods:
        setattr(torch.SymInt, name, note(name))
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(torch.SymInt, name, method)


def _tells(file: str) -> bool:
    """Whether text that this file makes is no text of the user's: PyTorch's, ours, or that of Python's own logging."""
    return file.startswith((*OURS, str(Path(logging.__file__).parent)))


@contextmanager
def watching(model: nn.Module, watched: Watched) -> Iterator[None]:
    """While this lasts, end the trace where a symbolic size becomes a plain number in code of the user's."""
    names = {id(module): name for name, module in model.named_modules()}
    methods = {name: getattr(torch.SymInt, name) for name in ("__index__", "__int__", "bit_length", "as_integer_ratio")}

    def stop(size: int, frame: FrameType, expression: Any, function: str = "") -> None:
        found = place(frame, names, size) if expression.free_symbols else None
        if found is not None:
            watched.raised.append(Fixed(found, expression, function))
            raise watched.raised[-1]

    def note(name: str) -> Any:
        def method(size: torch.SymInt) -> Any:
            expression, hint = size.node.expr, size.node.hint  # before the call, which makes a number of it
            if name[0] != "_":
                stop(hint, sys._getframe(1), expression, f"int.{name}")
            number = methods[name](size)
            stop(number, sys._getframe(1), expression)
            return number

        return method

    class Iterations(TorchFunctionMode):
        """Sees `for x_t in x`, `x.unbind()` and `x.split(1)`, which take the size without asking for it."""

        def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            if func in _PARTS and not _has_sizes(args, kwargs):
                place_of_dim = _PARTS[func]
                dim = args[place_of_dim] if len(args) > place_of_dim else (kwargs or {}).get("dim", 0)
                size = args[0].shape[dim]
                if isinstance(size, torch.SymInt):
                    stop(size.node.hint, sys._getframe(1), size.node.expr)
            if func in (Tensor.chunk, torch.chunk):
                count = args[1] if len(args) > 1 else (kwargs or {}).get("chunks")
                if isinstance(count, torch.SymInt):
                    stop(count.node.hint, sys._getframe(1), count.node.expr)
            return func(*args, **(kwargs or {}))

    def text(found: Place, size: torch.SymInt) -> None:
        watched.raised.append(Fixed(found, size.node.expr, "text"))
        raise watched.raised[-1]

    truth: Callable[[torch.SymBool], bool] = torch.SymBool.__bool__

    def compare(condition: torch.SymBool) -> bool:
        frame = sys._getframe(1)
        if not frame.f_code.co_filename.startswith(OURS) and (found := place(frame, names)) is not None:
            watched.compared.append(found)
        return truth(condition)

    floats: Callable[[torch.SymFloat], float] = torch.SymFloat.__float__

    def plain(number: torch.SymFloat) -> float:
        """As functions in C make of it, `math.hypot` and those of NumPy, which compare it where nobody sees."""
        expression, frame = number.node.expr, sys._getframe(1)
        value = floats(number)
        if not frame.f_code.co_filename.startswith(OURS):
            stop(int(value), frame, expression)
        return value

    # Tracing tells that an axis was fixed, and not where: the size itself has to tell.
    fixed = {name: note(name) for name in methods}
    for name, method in fixed.items():
        setattr(torch.SymInt, name, method)
    torch.SymBool.__bool__ = compare  # type: ignore[method-assign]
    torch.SymFloat.__float__ = plain  # type: ignore[method-assign]
    try:
        with Iterations(), texts(names, text):
            yield
    finally:
        for name, method in methods.items():
            setattr(torch.SymInt, name, method)
        torch.SymBool.__bool__ = truth  # type: ignore[method-assign]
        torch.SymFloat.__float__ = floats  # type: ignore[method-assign]


WRITE_IT = (
    "Write it with +, -, *, //, %, min, max, abs, int, round, divmod, math.isqrt, sqrt, floor or ceil, or as a tensor, "
    "as in torch.log(torch.tensor(x.size(1))); or leave the axis out of `axes`, which fixes it"
)
"""How a graph can have what a model computes of a size."""


def unfollowed(function: str, where: Place | str | None) -> str:
    """What to say where a function, or text, takes a size out of what a trace can follow."""
    at = f", by {where}" if where else ""
    return (
        f"a size leaves what a graph can follow in {function}{at}: the graph would keep what it was at the example's "
        f"size. {WRITE_IT}"
    )


def _has_sizes(args: tuple[Any, ...], kwargs: Any) -> bool:
    """Whether `split` is told the sizes of its parts, and so how many there are."""
    given = args[1] if len(args) > 1 else next(iter((kwargs or {}).values()), None)
    return isinstance(given, list | tuple)


def place(frame: FrameType | None, names: Mapping[int, str], size: int = 0) -> Place | None:
    """The line of the user's that runs; None where there is none.

    Args:
        frame: the innermost frame.
        names: the modules' names by id; where there are none, the module is told by its class.
        size: the size that was traced.
    """
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    if frame is None:
        return None
    file, line = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(file, line).strip() or "?"
    return Place(size, file, line, code, _module(frame, names))


def _module(frame: FrameType | None, names: Mapping[int, str]) -> str:
    """The innermost module whose method runs."""
    while frame is not None:
        owner = frame.f_locals.get("self")
        if id(owner) in names or (not names and isinstance(owner, nn.Module)):
            name = names.get(id(owner), "").removeprefix("model").removeprefix(".")
            return f"{type(owner).__name__} {name!r}" if name else type(owner).__name__
        frame = frame.f_back
    return "a function"
