"""The whole numbers that a model's code can read: at these lengths it may do something else."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

MOST = 1000
"""Longer containers hold data, and not settings."""


def whole_numbers(model: nn.Module, *, everywhere: bool = False) -> set[int]:
    """The whole numbers in the attributes and the code of a model's modules, and of what that code calls by name.

    Args:
        model: the model.
        everywhere: in containers, objects of settings, default arguments, closures and properties as well.
    """
    found: set[int] = set()
    seen: set[int] = set()
    todo = [value for module in model.modules() for value in _of_module(module)]
    while todo:
        value = todo.pop()
        if isinstance(value, types.MethodType | staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, int) and not isinstance(value, bool):
            found.add(value)
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, types.FunctionType) and not _is_torch(value):
                for code in _codes(value.__code__):
                    todo += code.co_consts
                    todo += [value.__globals__[name] for name in code.co_names if name in value.__globals__]
            if everywhere:
                todo += _inside(value)
    return found


def _of_module(module: nn.Module) -> Iterator[Any]:
    if not type(module).__module__.startswith("torch.nn."):
        yield from vars(module).values()
        for owner in type(module).__mro__:
            if not _is_torch(owner):
                yield from vars(owner).values()


def _inside(value: Any) -> Iterable[Any]:
    """What a value holds that code reads through it."""
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        return [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *cells]
    if isinstance(value, dict):
        return list(value.values())[:MOST]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)[:MOST]
    if isinstance(value, float):
        return [int(value)] if value.is_integer() else []
    if isinstance(value, nn.Module | Tensor | type | types.ModuleType) or _is_torch(type(value)):
        return []
    return [*getattr(value, "__dict__", {}).values(), *vars(type(value)).values()] if _is_plain(value) else []


def _is_plain(value: Any) -> bool:
    """Whether a value is of a class of Python code, as one of settings is."""
    return bool(type(value).__flags__ & (1 << 9))  # Py_TPFLAGS_HEAPTYPE


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of the functions in it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _codes(value)


def _is_torch(owner: Any) -> bool:
    return str(owner.__module__).partition(".")[0] == "torch"
