"""Where a model can keep something between calls: attributes, buffers, parameters, and what its hooks close over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, MutableMapping
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._equal import equal

Path = tuple[Any, ...]

MISSING: Any = object()
"""Stands for an attribute that is not there."""

DEEPEST = 6
_LEAVES = (Tensor, np.ndarray, np.generic, bool, int, float, complex, str, bytes, type(None))
_MODULE = set(vars(nn.Module())) - {"training"}
HOOKS = ("_forward_pre_hooks", "_forward_hooks")


@dataclass(frozen=True)
class Spot:
    """One place.

    Attributes:
        module: the path of a module.
        attribute: of that module; "" for a variable that a hook closes over.
        hook: which function of the module's, and which of its variables.
    """

    module: str
    attribute: str
    hook: tuple[int, str] | None = None

    @property
    def name(self) -> str:
        """As the model's code has it."""
        if self.hook is not None:
            return f"{self.hook[1]} (in a hook of {self.module or 'the model'})"
        return f"{self.module}.{self.attribute}" if self.module else self.attribute

    def read(self, model: nn.Module) -> Any:
        """What is there now."""
        module = model.get_submodule(self.module)
        if self.hook is not None:
            cell = _variables(module).get(self.hook)
            return MISSING if cell is None else cell.cell_contents
        return attributes(module).get(self.attribute, MISSING)

    def write(self, model: nn.Module, value: Any) -> None:
        """Put `value` there, past what a module does where an attribute is set."""
        module = model.get_submodule(self.module)
        if self.hook is not None:
            _variables(module)[self.hook].cell_contents = value
            return
        spaces: list[Any] = [module._buffers, module._parameters, vars(module)]
        space = next((space for space in spaces if self.attribute in space), vars(module))
        if value is MISSING:
            space.pop(self.attribute, None)
        else:
            space[self.attribute] = value


def attributes(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes, buffers and parameters; without those that PyTorch keeps for itself."""
    own = {**vars(module), **module._buffers, **module._parameters}
    kind = type(module).__module__
    if kind.startswith("torch._dynamo"):
        return {}
    private = kind.startswith("torch.")
    return {key: value for key, value in own.items() if key not in _MODULE and not (private and key[0] == "_")}


def spots(model: nn.Module) -> Iterator[Spot]:
    """All places of a model."""
    for name, module in model.named_modules():
        yield from (Spot(name, key) for key in attributes(module))
        yield from (Spot(name, "", key) for key in _variables(module))


def functions(module: nn.Module) -> Iterator[tuple[MutableMapping[Any, Any], Any]]:
    """The functions that are a module's hooks or attributes: what holds each, and under what key."""
    if type(module).__module__.startswith("torch._dynamo"):
        return  # a compiled module calls the one that it was made from
    for space in (*(getattr(module, name) for name in HOOKS), vars(module)):
        for key, value in list(space.items()):
            if isinstance(value, FunctionType):
                yield space, key


def _variables(module: nn.Module) -> dict[tuple[int, str], CellType]:
    found = {}
    for k, (space, key) in enumerate(functions(module)):
        for name, cell in variables(space[key]):
            found[k, name] = cell
    return found


def variables(function: FunctionType) -> list[tuple[str, CellType]]:
    """The variables that a function closes over, those that have a value."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [(name, cell) for name, cell in cells if _filled(cell)]


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def leaves(value: Any) -> dict[Path, Any]:
    """The tensors, arrays and plain values in nested containers and plain objects, with the way to each."""
    found: dict[Path, Any] = {}

    def walk(value: Any, path: Path, above: tuple[int, ...]) -> None:
        if isinstance(value, _LEAVES) or value is MISSING:
            found[path] = value
        elif id(value) not in above and len(above) < DEEPEST:
            for key, child in _children(value):
                walk(child, (*path, key), (*above, id(value)))

    walk(value, (), ())
    return found


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple | deque):
        return list(enumerate(value))
    if isinstance(value, set | frozenset):
        return list(enumerate(sorted(value, key=repr)))
    if isinstance(value, nn.Module | type | FunctionType | MethodType) or type(value).__module__.startswith("torch."):
        return []
    return list(vars(value).items()) if hasattr(value, "__dict__") else []


def changed(before: Any, after: Any) -> set[Path]:
    """The ways to leaves in which two values differ."""
    a, b = leaves(before), leaves(after)
    return {path for path in a.keys() | b.keys() if not same(a.get(path, MISSING), b.get(path, MISSING))}


def same(a: Any, b: Any) -> bool:
    """Whether two leaves are equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        numbers = a.dtype.kind in "biuf" and a.dtype == b.dtype
        return equal(torch.from_numpy(a), torch.from_numpy(b)) if numbers else bool(np.array_equal(a, b))
    return type(a) is type(b) and bool(a is b or a == b or (a != a and b != b))


def overwritten(value: Any, paths: Collection[Path], leaf: Callable[[Any], Any], path: Path = ()) -> Any:
    """`value` with what `leaf` gives for each of the leaves at `paths` in its place; containers stay where they can.

    Args:
        value: what to write into.
        paths: the ways to the leaves.
        leaf: gives what to write, from what is there.
        path: the way to `value` itself.
    """
    if path in paths:
        return leaf(value)
    below = [p for p in paths if len(p) > len(path) and p[: len(path)] == path]
    if not below:
        return value
    new = {key: overwritten(child, below, leaf, (*path, key)) for key, child in _children(value)}
    if isinstance(value, tuple):
        return type(value)(*new.values()) if hasattr(value, "_fields") else type(value)(new.values())
    if isinstance(value, list | deque | dict):
        for key, child in new.items():
            value[key] = child
    elif hasattr(value, "__dict__"):
        vars(value).update(new)
    return value
