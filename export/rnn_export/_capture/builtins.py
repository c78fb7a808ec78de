"""Python's own functions that make plain numbers of sizes, which fixes an axis, by functions that keep a size a size.

`len`, `int`, `float`, `round`, `max`, `min` and `divmod`, and the functions of `math`, also where a module has imported
one by itself. Those that a graph has nothing for end the trace with their line.
"""

from __future__ import annotations

import ast
import builtins
import functools
import math
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ExportError
from . import fixed
from .values import Rows

_OWN = {"torch", "rnn_export", "rnn_runtime", "builtins"}

_Symbol = torch.SymInt | torch.SymFloat


def traced() -> bool:
    """Whether torch.export or TorchScript traces what runs."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def _scripted(x: Any) -> bool:
    """Whether `x` is a number as TorchScript's tracer has it: a tensor."""
    return isinstance(x, Tensor) and x.dim() == 0 and torch._C._get_tracing_state() is not None


def length(x: Any) -> Any:
    """`len`, of a tensor as a size."""
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
        if _scripted(x):
            return x.to(torch.int64)
        if isinstance(x, Tensor) and x.numel() == 1 and x.dtype is not torch.bool:
            x = x.item()  # which may be a number that stays with its tensor
            return _int(x) if isinstance(x, _Symbol) else math.trunc(x)
        return builtins.int(x, *base)


class _float(builtins.float, metaclass=_Plain):
    def __new__(cls, x: Any = 0.0) -> Any:
        if isinstance(x, _Symbol):
            return torch.sym_float(x)
        if _scripted(x):
            return x if x.is_floating_point() else x.to(torch.float64)
        if isinstance(x, Tensor) and x.numel() == 1 and x.dtype is not torch.bool:
            return x.item() * 1.0
        return builtins.float(x)


def _round(x: Any, digits: int | None = None) -> Any:
    if _scripted(x) and digits is None:
        return torch.round(x.to(torch.float64)).to(torch.int64)
    return builtins.round(x, digits)


def _extreme(name: str) -> Any:
    plain = getattr(builtins, name)
    of_symbols: Any = getattr(torch, f"sym_{name}")
    of_tensors: Any = getattr(torch, f"{name}imum")

    def function(*items: Any, **more: Any) -> Any:
        if more:
            return plain(*items, **more)
        if len(items) == 1:
            (row,) = items
            row = row.tensor if isinstance(row, Rows) else row
            return getattr(row, name)() if isinstance(row, Tensor) and row.dim() == 1 else plain(row)
        if any(map(_scripted, items)) and all(isinstance(item, Tensor | int) for item in items):
            result = items[0]
            for item in items[1:]:
                result = of_tensors(torch.as_tensor(result), torch.as_tensor(item))
            return result
        if any(isinstance(item, _Symbol) for item in items) and all(
            isinstance(item, _Symbol | int | float) for item in items
        ):
            result = items[0]
            for item in items[1:]:
                result = of_symbols(result, item)
            return result
        return plain(*items)

    return function


def _divmod(x: Any, y: Any) -> Any:
    if any(isinstance(number, _Symbol) or _scripted(number) for number in (x, y)):
        return x // y, x % y
    return builtins.divmod(x, y)


_Symbols: Any = torch
_FOLLOWED: dict[str, Any] = {
    "sqrt": _Symbols._sym_sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": torch.sym_int,
    "fabs": lambda x: abs(torch.sym_float(x)),
    "isqrt": lambda x: torch.sym_int(_Symbols._sym_sqrt(x)),  # exact below 2**52, and so of every size
}
"""What functions of `math` are of symbolic sizes, where a program of torch.export may have them."""


def _of_scripted(name: str, x: Tensor) -> Any:
    """What a function of `math` is of a size as TorchScript's tracer has it; None where there is none."""
    of_tensors = getattr(torch, {"isqrt": "sqrt", "fabs": "abs"}.get(name, name), None)
    if of_tensors is None:
        return None
    result = of_tensors(x.to(torch.float64))
    return result.to(torch.int64) if name in ("ceil", "floor", "trunc", "isqrt") else result


def _mathematics() -> types.SimpleNamespace:
    """The module `math` whose functions take sizes, or say that they cannot."""

    def function(name: str) -> Any:
        plain, of_symbols = getattr(math, name), _FOLLOWED.get(name)

        @functools.wraps(plain)
        def take(*items: Any, **more: Any) -> Any:
            alone = len(items) == 1 and not more
            if alone and _scripted(items[0]) and (result := _of_scripted(name, items[0])) is not None:
                return result
            if alone and isinstance(items[0], _Symbol) and of_symbols is not None:
                return of_symbols(items[0])
            if torch.compiler.is_exporting() and any(isinstance(item, _Symbol) for item in items):
                raise ExportError(fixed.unfollowed(f"math.{name}", fixed.place(sys._getframe(1), {})))
            return plain(*items, **more)

        return take

    return types.SimpleNamespace(
        **{name: function(name) if callable(value) else value for name, value in vars(math).items() if name[0] != "_"}
    )


_PLACED: dict[str, Any] = {
    **{"len": length, "int": _int, "float": _float, "round": _round, "divmod": _divmod},
    **{"max": _extreme("max"), "min": _extreme("min")},
}
_MATH = _mathematics()
_IN_PLACE: dict[int, Any] = {
    id(math): _MATH,
    **{id(value): getattr(_MATH, name) for name, value in vars(math).items() if callable(value) and name[0] != "_"},
}
"""What stands in for `math` and for each of its functions, which a module may have by `from math import sqrt`."""
_BEFORE: dict[int, Any] = {
    id(_MATH): math,
    **{id(value): getattr(math, name) for name, value in vars(_MATH).items() if callable(value)},
}
"""The other way round."""


def packages_of(model: nn.Module) -> set[str]:
    """The packages that a model's code stands in."""
    return {type(module).__module__.partition(".")[0] for module in model.modules()} - _OWN


@contextmanager
def symbolic(model: nn.Module, more: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """While this lasts, the modules that a model's code stands in see these functions in the place of Python's.

    A name that a module defines itself is left to it.

    Args:
        model: the model.
        more: further functions by their names, which come before these.
    """
    own = {**_PLACED, **more}
    packages = packages_of(model)
    spaces = [
        vars(module)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in packages
        and (isinstance(getattr(module, "__file__", None), str) or name == "__main__")
    ]
    placed = [(space, name) for space in spaces for name in own if name not in space and name not in _values_in(space)]
    swapped = [
        (space, name, value, _IN_PLACE[id(value)])
        for space in spaces
        for name, value in list(space.items())
        if id(value) in _IN_PLACE
    ]
    for space, name in placed:
        space[name] = own[name]
    for space, name, _, instead in swapped:
        space[name] = instead
    try:
        yield
    finally:
        for space, name in placed:
            space.pop(name, None)
        for space, name, value, _ in swapped:
            space[name] = value


def _values_in(space: Mapping[str, Any]) -> frozenset[str]:
    """Which of `int` and `float` a module uses for themselves, as in `dtype=float`, `x.to(int)`, `type(n) is int`.

    They stay Python's own there: PyTorch knows its dtypes by them.
    """
    file = space.get("__file__")
    return _values(file) if isinstance(file, str) and file.endswith(".py") else frozenset()


@functools.cache
def _values(file: str) -> frozenset[str]:
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    found: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "dtype":
            found.append(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CASTS:
            found += node.args
        elif isinstance(node, ast.Compare) and any(
            isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.In) for op in node.ops
        ):
            found += [node.left, *node.comparators]
    names = [inner.id for value in found for inner in ast.walk(value) if isinstance(inner, ast.Name) and _plain(value)]
    return frozenset(names) & {"int", "float"}


def _plain(value: ast.expr) -> bool:
    """Whether an expression is a name or a row of names: what is called in it is not meant for itself."""
    return isinstance(value, ast.Name) or (
        isinstance(value, ast.Tuple | ast.List) and all(isinstance(item, ast.Name) for item in value.elts)
    )


_CASTS = {"to", "type", "astype", "view"}


@contextmanager
def scripting() -> Iterator[None]:
    """While this lasts, what tracing meets of functions to be compiled is compiled with Python's own in place.

    `torch.jit.script_if_tracing` does so, and packages that have one of their own; TorchScript knows Python's alone.
    """
    places: list[Any] = [torch.jit, torch.jit._trace]
    compiler: Any = torch.jit.script

    def script(function: Any, *more: Any, **options: Any) -> Any:
        placed = [
            (space, name, own)
            for space in (vars(module) for module in list(sys.modules.values()) if isinstance(module, types.ModuleType))
            for name, own in (*_PLACED.items(), *((name, own) for name, own in space.items() if id(own) in _BEFORE))
            if space.get(name) is own
        ]
        for space, name, own in placed:
            if id(own) in _BEFORE:
                space[name] = _BEFORE[id(own)]
            else:
                del space[name]
        try:
            return compiler(function, *more, **options)
        finally:
            for space, name, own in placed:
                space[name] = own

    for place in places:
        place.script = script
    try:
        yield
    finally:
        for place in places:
            place.script = compiler
