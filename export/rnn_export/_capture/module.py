"""The user's model as a function from flat tensors to flat tensors, on a private copy."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._errors import ExportError
from . import tree


@dataclass
class Inputs:
    """How the flat tensors sit in the model's arguments.

    Attributes:
        call: forward's arguments, nested, with the example tensors in them.
        names: a name for each tensor, in order.
        example: the tensors, in the same order.
    """

    call: inspect.BoundArguments
    names: list[str]
    example: list[Tensor]


class Flat(nn.Module):
    """forward(*tensors) -> tuple of tensors, around a model that takes and returns nested ones."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in self.named(*flat))

    def named(self, *flat: Tensor) -> list[tuple[tree.Path, Tensor]]:
        """The results with the way to each in what the model returned."""
        queue = iter(flat)
        call = self.inputs.call
        arguments = tree.rebuild(dict(call.arguments), lambda leaf: next(queue) if isinstance(leaf, Tensor) else leaf)
        filled = inspect.BoundArguments(call.signature, arguments)
        return tree.tensors(self.model(*filled.args, **filled.kwargs), "the model's result")


def _short(path: tree.Path, call: inspect.BoundArguments) -> tree.Path:
    """Without the names `args` and `kwargs` of a forward that takes anything."""
    kind = call.signature.parameters[path[0]].kind
    return path[1:] if kind is inspect.Parameter.VAR_KEYWORD else path


def flat_model(model: nn.Module, example_inputs: Any) -> Flat:
    """A private, evaluating CPU copy of `model` bound to its example inputs.

    Args:
        model: the user's module, which stays as it is.
        example_inputs: a tensor, a tuple of forward's arguments, or a dict of them by name.

    Raises:
        ExportError: the model cannot be copied, or forward does not take these inputs.
    """
    if not isinstance(model, nn.Module):
        raise ExportError(f"the model is {type(model).__name__}, not a torch.nn.Module: give the module itself")
    call = _bind(model, tree.rebuild(example_inputs, tree.to_tensor))
    call.arguments = tree.rebuild(
        dict(call.arguments), lambda leaf: leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf
    )
    flat = tree.tensors(dict(call.arguments), "the example input ", constants=True)
    names = tree.names([_short(path, call) for path, _ in flat], "input")
    return Flat(private_copy(model), Inputs(call, names, [tensor for _, tensor in flat])).eval()


def _bind(model: nn.Module, example_inputs: Any) -> inspect.BoundArguments:
    signature = inspect.signature(model.forward)
    if isinstance(example_inputs, Mapping):
        args: tuple[Any, ...] = ()
        kwargs = dict(example_inputs)
        if not set(kwargs) <= set(signature.parameters) and _takes_one(signature):
            args, kwargs = (example_inputs,), {}
    elif isinstance(example_inputs, tuple | list):
        args, kwargs = tuple(example_inputs), {}
    else:
        args, kwargs = (example_inputs,), {}
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ExportError(
            f"{type(model).__name__}.forward{signature} does not take the example inputs: {error}. "
            "Give a tensor, a tuple of its arguments in order, or a dict by argument name"
        ) from None


def _takes_one(signature: inspect.Signature) -> bool:
    required = [p for p in signature.parameters.values() if p.default is p.empty]
    return len(required) == 1 and required[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy on the CPU that shares nothing with `model`."""
    # A tensor that was computed (old-style weight_norm keeps its product so) refuses to be copied: hand over copies of
    # its value.
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in list(vars(module).values()):
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, Tensor) and not item.is_leaf:
                    memo[id(item)] = item.detach().clone()
    try:
        return copy.deepcopy(model, memo).cpu()
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); export works on a copy, so "
            "that the model stays as it is. Keep what cannot be copied (files, locks, generators) out of the module"
        ) from error


class _Float64(TorchFunctionMode):
    """Turns a model's own requests for float32 (`x.float()`, `dtype=torch.float32`) into float64."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()

        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        # Asking for a dtype is a plain argument; a comparison such as `x.dtype == torch.float32` never comes through
        # here.
        return func(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


@contextmanager
def float64() -> Iterator[None]:
    """While this lasts, new floating-point tensors are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(before)
