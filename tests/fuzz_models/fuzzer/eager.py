"""What eager PyTorch gives for a sequence of calls, in float32 and in float64."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from .compare import Arrays, flat

Arguments = tuple[torch.Tensor, ...]
ROUNDING = 2.0**-23


def run(model: nn.Module, calls: Sequence[Arguments]) -> list[Arrays] | str:
    """The results of each call, one after another on a copy of the model; or what it raised."""
    own = copy.deepcopy(model)
    try:
        with quiet(), torch.no_grad():
            return [[t.numpy().copy() for t in flat(own(*copy.deepcopy(arguments)))] for arguments in calls]
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def run_exact(model: nn.Module, calls: Sequence[Arguments]) -> list[Arrays] | str:
    """The same in float64, tensors that the model makes by itself included."""
    with _float64():
        return run(copy.deepcopy(model).double(), [_double(arguments) for arguments in calls])


def moved(calls: Sequence[Arguments]) -> list[Arguments]:
    """The same calls with each float off by float32's rounding; zeros stay."""
    rng = torch.Generator().manual_seed(0)

    def move(x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x
        x = x.double()
        return x * (1 + ROUNDING * (2 * torch.rand(x.shape, generator=rng, dtype=x.dtype) - 1))

    return [tuple(map(move, arguments)) for arguments in calls]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings of PyTorch, which a user would see and pass over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _double(arguments: Arguments) -> Arguments:
    return tuple(x.double() if x.is_floating_point() else x for x in arguments)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
