"""Python loops in a survey: the number of a step, and how many there are, are symbols that follow the sizes of axes."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode

from .builtins import length
from .calls import RECURRENT, RecurrentCall

Size = int | torch.SymInt


class Parts(tuple[Any, ...]):
    """The parts of a tensor, of which there are as many as an axis is long."""

    steps: Size

    @classmethod
    def of(cls, parts: Any, steps: Size) -> Parts:
        """`parts` whose number is `steps`."""
        made = cls(parts)
        made.steps = steps
        return made

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        part = _sliced(index, self.steps)
        return found if part is None else Parts.of(found, part[1])


class Steps:
    """A range, or the numbers of an enumeration, whose number of steps follows sizes."""

    def __init__(self, loops: Loops, first: Size, step: Size, steps: Size) -> None:
        self._loops, self._first, self._step, self.steps = loops, first, step, steps

    def __iter__(self) -> Iterator[Any]:
        for number in self._loops.numbers(self.steps):
            yield self._first + self._step * number

    def __reversed__(self) -> Iterator[Any]:
        return iter(Steps(self._loops, self._first + self._step * (self.steps - 1), -self._step, self.steps))

    def __len__(self) -> int:
        return plain(self.steps)

    def __getitem__(self, index: Any) -> Any:
        if (part := _sliced(index, self.steps)) is not None:
            return Steps(self._loops, self._first + self._step * part[0], self._step, part[1])
        return range(plain(self._first), plain(self._first + self._step * self.steps), plain(self._step))[index]


class Loops(TorchFunctionMode):
    """Stands in for `range`, `enumerate` and `len`, and for what takes a tensor apart and puts steps together.

    A list that has as many items as a loop had steps was filled by it, and so has as many at other sizes.

    Args:
        step: makes the symbol of a step's number, from its value and the number of steps.
        muted: while it lasts, nothing is recorded.
    """

    def __init__(self, step: Callable[[int, Size], Any], muted: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self._step = step
        self._muted = muted
        self._running: list[Any] = []
        self._ended: dict[int, Size] = {}

    def names(self) -> dict[str, Any]:
        """What to place in the modules of the model's code."""
        return {"range": self._range, "enumerate": self._enumerate, "len": self._len}

    def numbers(self, count: Size) -> Iterator[Any]:
        """The numbers of a loop's steps."""
        for k in range(max(0, plain(count))):
            number = self._step(k, count)
            self._running.append(number)
            try:
                yield number
            finally:
                self._running.remove(number)
        self._ended[plain(count)] = count

    def filled(self, items: int) -> Size:
        """The length of a list that has `items` items in this run, as it follows sizes."""
        for number in reversed(self._running):
            for more in (0, 1):
                if items == plain(number) + more:
                    return number + more  # type: ignore[no-any-return]
        for more in (0, 1, -1):
            if items > 1 and items - more in self._ended:
                return self._ended[items - more] + more
        return items

    def _range(self, *bounds: Any) -> Any:
        if not any(isinstance(bound, torch.SymInt) for bound in bounds):
            return range(*bounds)
        first, stop, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        ahead = stop - first if plain(step) > 0 else first - stop
        stride = step if plain(step) > 0 else -step
        return Steps(self, first, step, (ahead + stride - 1) // stride)

    def _enumerate(self, items: Any, start: int = 0) -> Any:
        if isinstance(items, Tensor):
            items = items.unbind(0)
        if isinstance(items, Parts | Steps):
            return zip(Steps(self, start, 1, items.steps), items, strict=True)
        return enumerate(items, start)

    def _len(self, items: Any) -> Any:
        if isinstance(items, Parts | Steps):
            return items.steps
        return self.filled(builtins.len(items)) if type(items) is list else length(items)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _APART:
            return self._apart(func, *args, **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            return self._indexed(func, *args)
        if func in RECURRENT:
            _ask_for_steps(RecurrentCall.of(args, kwargs).data)
        result = func(*args, **kwargs)
        if func in _TOGETHER:
            return self._together(result, func, *args, **kwargs)
        return result

    def _indexed(self, func: Any, x: Tensor, index: Any, *value: Any) -> Any:
        """Read or write at the number of a step: whether it counts from the end is asked, and that it exists taken."""
        parts = list(index) if isinstance(index, tuple) else [index]
        steps = [k for k, part in enumerate(parts) if isinstance(part, torch.SymInt)]
        if not steps:
            return func(x, index, *value)
        for k in steps:
            bool(parts[k] < 0)
            parts[k] = plain(parts[k])
        with self._muted():
            return func(x, tuple(parts) if isinstance(index, tuple) else parts[0], *value)

    def _apart(self, func: Any, x: Tensor, size: Any = None, dim: int = 0) -> Any:
        by_size = _APART[func]
        if not by_size:
            dim = size if size is not None else dim
        length = x.shape[dim]
        if not isinstance(length, torch.SymInt) or (by_size and isinstance(size, list | tuple)):
            return func(x, size, dim) if by_size else func(x, dim)
        if not by_size:
            self._ended[plain(length)] = length
            with self._muted():
                return Parts.of([x.select(dim, k) for k in range(plain(length))], length)
        if by_size == "count":
            size = (length + size - 1) // size
        count = (length + size - 1) // size
        self._ended[plain(count)] = count
        bounds = [(size * k, torch.sym_min(size * (k + 1), length)) for k in range(plain(count))]
        return Parts.of([x.narrow(dim, start, end - start) for start, end in bounds], count)

    def _together(self, result: Tensor, func: Any, tensors: Any, dim: int = 0, **_: Any) -> Tensor:
        """The result with a size that follows the number of steps, where steps filled the list."""
        items = builtins.len(tensors)
        count = tensors.steps if isinstance(tensors, Parts) else self.filled(items)
        if not isinstance(count, torch.SymInt):
            return result
        shape: list[Any] = list(result.shape)
        if _TOGETHER[func]:
            sizes = {str(tensor.shape[dim]) for tensor in tensors}
            if builtins.len(sizes) > 1:
                return result
            count = count * tensors[0].shape[dim]
        shape[dim] = count
        return result.new_empty(shape)


def _sliced(index: Any, length: Size) -> tuple[Size, Size] | None:
    """Where a slice of so many steps starts, and how many it has, which is asked; None for other ways to read."""
    if not isinstance(index, slice) or index.step not in (None, 1):
        return None

    def bound(value: Size | None, default: Size) -> Size:
        if value is None:
            return default
        if value < 0:
            return value + length if value + length > 0 else 0
        return value if value < length else length

    start, stop = bound(index.start, 0), bound(index.stop, length)
    return start, stop - start if start < stop else 0


def _ask_for_steps(data: Tensor) -> None:
    """Ask whether a layer is given anything: eager PyTorch refuses no step, and ONNX Runtime ends the process."""
    for size in data.shape:
        if isinstance(size, torch.SymInt) and not free_unbacked_symbols(size):
            bool(size > 0)


_APART: dict[Any, str] = {
    **dict.fromkeys((Tensor.unbind, torch.unbind, Tensor.__iter__), ""),
    **dict.fromkeys((Tensor.split, torch.split), "size"),
    **dict.fromkeys((Tensor.chunk, torch.chunk), "count"),
}
"""What takes a tensor apart: into single steps, parts of a size, or a number of parts."""

_TOGETHER: dict[Any, bool] = {
    **dict.fromkeys((torch.stack,), False),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), True),
}
"""What puts tensors together, and whether along a dimension that they have."""


def plain(number: Any) -> int:
    """The value of a number in this run, without asking for it."""
    return int(number.node.hint) if isinstance(number, torch.SymInt) else int(number)
