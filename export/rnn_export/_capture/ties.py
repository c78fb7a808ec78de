"""Equal elements in `sort`, `topk` and the like: which comes first PyTorch does not define, and processors differ.

A result that follows that order is nobody's: it is no yardstick, and a bundle cannot be held against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._errors import ExportError
from .values import Place

_SORTS = {torch.sort, Tensor.sort, torch.argsort, Tensor.argsort}
_PICKS = {torch.topk, Tensor.topk}
_OTHERS = {torch.kthvalue, Tensor.kthvalue, torch.median, Tensor.median, torch.mode, Tensor.mode}
_OTHERS |= {torch.nanmedian, Tensor.nanmedian}


class Undefined(ExportError):
    """The results of an input follow the order of equal elements."""

    def __init__(self, places: Iterable[str]) -> None:
        super().__init__(
            "the results follow the order of equal elements, which PyTorch does not define and another processor "
            f"chooses otherwise: {'; '.join(sorted(places))}. Sort with stable=True, or make the elements differ"
        )


class Ties(TorchFunctionMode):
    """Notes where equal elements are put in an order, and puts them the other way round where asked.

    Args:
        turned: whether to put them the other way round.

    Attributes:
        places: the lines of the user's code that order equal elements; they may be many times in one run.
    """

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self._turned = turned
        self.places: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _ORDERS or kwargs.get("stable"):
            return func(*args, **kwargs)
        return self._ordered(func, *args, **kwargs)

    def _ordered(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = func(x, *args, **kwargs)
        first = 1 if func in _PICKS or func in (torch.kthvalue, Tensor.kthvalue) else 0
        dim = kwargs.get("dim", args[first] if len(args) > first else None if func in _MEDIANS else -1)
        if dim is None or x.dim() == 0 or x.shape[dim] < 2 or not _equal_ones(x, dim):
            return result
        self.places.add(str(Place.here()))
        if not self._turned:
            return result
        last = x.shape[dim] - 1
        if func in _PICKS:
            count, largest = args[0] if args else kwargs["k"], kwargs.get("largest", args[2] if len(args) > 2 else True)
            values, order = x.flip(dim).sort(dim=dim, descending=largest, stable=True)
            return type(result)((values.narrow(dim, 0, count), last - order.narrow(dim, 0, count)))
        if func in _SORTS:
            down = kwargs.get("descending", args[1] if len(args) > 1 else False)
            values, order = x.flip(dim).sort(dim=dim, descending=down, stable=True)
            return last - order if isinstance(result, Tensor) else type(result)((values, last - order))
        values, index = func(x.flip(dim), *args, **kwargs)
        return type(result)((values, last - index))


_MEDIANS = {torch.median, Tensor.median, torch.nanmedian, Tensor.nanmedian}
_ORDERS = _SORTS | _PICKS | _OTHERS


def _equal_ones(x: Tensor, dim: int) -> bool:
    with torch._C.DisableTorchFunction():
        ordered = x.detach().sort(dim=dim).values
        return bool((ordered.diff(dim=dim) == 0).any()) if ordered.dtype is not torch.bool else True
