"""Nested arguments and results as flat lists of named tensors, and back."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .._errors import ExportError

Path = tuple[Any, ...]


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf of nested tuples, lists, deques, mappings and dataclasses, with the way to it."""
    children = _children(value)
    if children is None:
        yield path, value
    else:
        for key, child in children:
            yield from walk(child, (*path, key))


def rebuild(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same structure with `leaf` applied to each leaf, in the order of `walk`."""
    children = _children(value)
    if children is None:
        return leaf(value)
    made = [(key, rebuild(child, leaf)) for key, child in children]
    if isinstance(value, Mapping):
        copied = copy.copy(value)  # keeps what else it holds, such as a default
        if isinstance(copied, MutableMapping):
            copied.update(made)
            return copied
        return type(value)(made)  # type: ignore[call-arg]
    if hasattr(value, "_fields") or dataclasses.is_dataclass(value):
        return type(value)(**{str(key): child for key, child in made})
    if isinstance(value, deque):
        return deque((child for _, child in made), value.maxlen)
    return type(value)(child for _, child in made)


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, PackedSequence):
        raise ExportError(
            "a PackedSequence is an input or a result of the model: its size depends on the data, so no graph can "
            "hold it. Give and return padded tensors with lengths, and pack inside forward"
        )
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list | deque):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def tensors(value: Any, what: str, *, constants: bool = False) -> list[tuple[Path, Tensor]]:
    """The tensors among the leaves; None is left out, and so are plain values where they may be `constants`.

    Raises:
        ExportError: a leaf is something else; `what` says whose it is.
    """
    found = []
    for path, leaf in walk(value):
        if isinstance(leaf, Tensor):
            found.append((path, leaf))
        elif leaf is not None and not constants:
            where = "".join(f"[{part!r}]" for part in path)
            raise ExportError(
                f"{what}{where} is {type(leaf).__name__}: a graph's results are tensors. "
                "Return it as a tensor, or leave it out in a wrapper module"
            )
    return found


def names(paths: list[Path], default: str) -> list[str]:
    """A name for each path: its last key where that is a word and unique, else all its parts, `default` first."""
    last = [path[-1] if path and isinstance(path[-1], str) else None for path in paths]
    result = []
    for path, short in zip(paths, last, strict=True):
        parts = path if path and isinstance(path[0], str) else (default, *path)
        result.append(short if short is not None and last.count(short) == 1 else "_".join(map(str, parts)))
    return result


def to_tensor(leaf: Any) -> Any:
    """NumPy arrays as tensors, everything else as it is."""
    if isinstance(leaf, np.ndarray):
        from torch import from_numpy

        return from_numpy(leaf.copy())
    return leaf
