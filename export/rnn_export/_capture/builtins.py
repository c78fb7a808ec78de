"""`len(x)`, `int(x)` and `float(x)` that keep a size a size: Python's own make plain numbers, which fixes an axis."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .values import Rows, Value

_OWN = {"torch", "rnn_export", "rnn_runtime", "builtins"}


def _traced() -> bool:
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def _len(x: Any) -> Any:
    if isinstance(x, Rows):
        return x.tensor.shape[0]
    return x.shape[0] if isinstance(x, Tensor) and x.dim() else builtins.len(x)


class _Plain(type):
    """Of a class that stands in the place of its base: the base's instances are its own."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.__base__)  # type: ignore[arg-type]

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.__base__)  # type: ignore[arg-type]


class _int(builtins.int, metaclass=_Plain):
    def __new__(cls, x: Any = 0, *base: Any) -> Any:
        if isinstance(x, torch.SymInt):
            return x
        if isinstance(x, torch.SymFloat):
            return torch.sym_int(x)
        if isinstance(x, Value):
            return x.integer()
        if isinstance(x, Tensor) and x.dim() == 0:
            if torch._C._get_tracing_state() is not None:
                return x.to(torch.int64)
            number = x.item()
            return number.integer() if isinstance(number, Value) else builtins.int(number)
        return builtins.int(x, *base)


class _float(builtins.float, metaclass=_Plain):
    def __new__(cls, x: Any = 0.0) -> Any:
        if isinstance(x, torch.SymInt | torch.SymFloat):
            return torch.sym_float(x)
        if isinstance(x, Value):
            return x.real()
        if isinstance(x, Tensor) and x.dim() == 0:
            if torch._C._get_tracing_state() is not None:
                return x.to(torch.float64) if not x.is_floating_point() else x
            number = x.item()
            return number.real() if isinstance(number, Value) else builtins.float(number)
        return builtins.float(x)


@contextmanager
def symbolic(model: nn.Module) -> Iterator[None]:
    """While a model is traced, its own modules see these three in the place of Python's; in eager mode nothing changes.

    A name that a module defines itself is left to it.
    """
    if not _traced():
        yield
        return
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - _OWN
    spaces = [
        vars(module)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in packages and isinstance(getattr(module, "__file__", None), str)
    ]
    placed = []
    for space in spaces:
        for name, function in (("len", _len), ("int", _int), ("float", _float)):
            if name not in space:
                space[name] = function
                placed.append((space, name))
    try:
        yield
    finally:
        for space, name in placed:
            del space[name]
