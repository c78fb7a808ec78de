"""The user's model as a function from flat tensors to flat tensors, on a private copy."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rnn_runtime._signature import DTYPES

from .._errors import ExportError
from .._quiet import quiet
from . import tree
from .builtins import symbolic, traced
from .kept import Kept, KeptSlot, finals, placed
from .lift import Lift, Slot
from .spots import functions
from .values import Decisions, Place

REFUSED = (RuntimeError, ValueError, LookupError, AssertionError, TypeError, AttributeError, ArithmeticError)
"""What an eager model raises at sizes that it does not take."""


@dataclass
class Inputs:
    """How the flat tensors sit in the model's arguments.

    Attributes:
        call: forward's arguments, nested, with the example tensors in them.
        names: a name for each tensor, in order.
        example: the tensors, in the same order.
        parts: which of them are parts of an argument, so that their names are ours and not the model's.
    """

    call: inspect.BoundArguments
    names: list[str]
    example: list[Tensor]
    parts: list[bool]


class Flat(nn.Module):
    """forward(*tensors) -> tuple of tensors, around a model that takes and returns nested ones.

    States that the model keeps and lifted ones come last, among the inputs and among the results.

    Attributes:
        stands_in: something else runs in the model's place, since the model cannot be given these states.
    """

    stands_in = False

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.kept: list[Kept] = []
        self.lifted: tuple[Slot, ...] = ()
        self.answers: dict[Place, bool] = {}  # to decisions by value, where the model is traced

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        if not traced():
            return tuple(tensor for _, tensor in self.named(*flat))
        with symbolic(self.model), Decisions(self.answers):
            return tuple(tensor for _, tensor in self.named(*flat))

    def named(self, *flat: Tensor) -> list[tuple[tree.Path, Tensor]]:
        """The results with the way to each in what the model returned."""
        own = len(flat) - len(self.states)
        queue = iter(flat[:own])
        call = self.inputs.call
        arguments = tree.rebuild(dict(call.arguments), lambda leaf: next(queue) if isinstance(leaf, Tensor) else leaf)
        filled = inspect.BoundArguments(call.signature, arguments)
        kept = sum(len(one.slots) for one in self.kept)
        states: dict[int, list[Tensor]] = {}
        for slot, state in zip(self.lifted, flat[own + kept :], strict=True):
            states.setdefault(slot.call, []).append(state)
        with placed(self.model, self.kept, flat[own : own + kept]), Lift(states) if states else nullcontext() as lift:
            results = tree.tensors(self.model(*filled.args, **filled.kwargs), "the model's result")
            after = finals(self.model, self.kept)
        if lift is not None:
            after += [final for call in states for final in lift.finals[call]]
        return results + [((slot.output,), final) for slot, final in zip(self.states, after, strict=True)]

    @property
    def states(self) -> tuple[KeptSlot | Slot, ...]:
        """The states that the model does not take itself: kept in it, and lifted."""
        return (*(slot for one in self.kept for slot in one.slots), *self.lifted)


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
    model = getattr(model, "_orig_mod", model)  # of a compiled model, the model itself
    if isinstance(model, torch.jit.ScriptModule):
        raise ExportError("the model is TorchScript already: give the nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        raise ExportError(f"the model is {type(model).__name__}, not a torch.nn.Module: give the module itself")
    _require_float_modules(model)
    call = _bind(model, tree.rebuild(example_inputs, tree.to_tensor))
    call.arguments = tree.rebuild(
        dict(call.arguments), lambda leaf: leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf
    )
    flat = tree.tensors(dict(call.arguments), "the example input ", constants=True)
    _require_numpys(model, flat)
    paths = [_short(path, call) for path, _ in flat]
    inputs = Inputs(
        call=call,
        names=tree.names(paths, "input"),
        example=[tensor for _, tensor in flat],
        parts=[not isinstance(path[-1], str) for path in paths],
    )
    return Flat(private_copy(model), inputs).eval()


def _require_numpys(model: nn.Module, example: Sequence[tuple[tree.Path, Tensor]]) -> None:
    """Raises ExportError where an input or a recurrent layer is in a dtype that a bundle cannot hold, as bfloat16."""
    found = [(f"the example input {'.'.join(map(str, path))!r}", tensor) for path, tensor in example]
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            found += [(f"{name!r} ({type(module).__name__})", weight) for weight in module.parameters()]
    for what, tensor in found:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ExportError(
                f"{what} is {dtype}, which neither NumPy nor ONNX's recurrent operators have: export model.float() "
                "with float32 inputs; for 16 bits on a GPU add precision='float16'"
            )


def _require_float_modules(model: nn.Module) -> None:
    """Raises ExportError where a layer is no PyTorch layer any more, but what a tool has made of one."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and module.original_name in ("RNN", "LSTM", "GRU"):
            raise ExportError(f"{name!r} is TorchScript already: give the nn.Module that it was made from")
        if type(module).__module__.startswith("torch.ao.nn.quantized"):
            raise ExportError(
                f"{name!r} ({type(module).__name__}) was quantised by PyTorch, whose quantised layers have no ONNX "
                "form: export the float model first, and quantise the ONNX file"
            )


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
    """A deep copy on the CPU that shares nothing with `model`.

    Raises:
        ExportError: something in it cannot be copied.
    """
    try:
        with quiet():  # a copy of TorchScript warns of its own attributes
            return copied(model).cpu()
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); export works on a copy, so "
            "that the model stays as it is. Keep what cannot be copied (files, locks, generators) out of the module"
        ) from error


Module = TypeVar("Module", bound=nn.Module)


def copied(model: Module) -> Module:
    """A deep copy. A tensor that was computed (as weight_norm keeps its product) refuses that: its value is copied."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in list(vars(module).values()):
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, Tensor) and not item.is_leaf:
                    memo[id(item)] = item.detach().clone()
    made = copy.deepcopy(model, memo)
    _copy_variables(made, memo)
    return made


def _copy_variables(model: nn.Module, memo: dict[int, Any]) -> None:
    """Give the functions of a copy, which a copy shares, variables of their own: a hook may keep something there."""
    cells: dict[int, CellType] = {}

    def own(cell: CellType) -> CellType:
        if id(cell) not in cells:
            cells[id(cell)] = cell  # what cannot be copied is shared
            with suppress(Exception):
                cells[id(cell)] = CellType(copy.deepcopy(cell.cell_contents, memo))
        return cells[id(cell)]

    for module in model.modules():
        for space, key in functions(module):
            old = space[key]
            if old.__closure__:
                closure = tuple(own(cell) for cell in old.__closure__)
                new = FunctionType(old.__code__, old.__globals__, old.__name__, old.__defaults__, closure)
                new.__kwdefaults__, new.__qualname__, new.__module__ = (
                    old.__kwdefaults__,
                    old.__qualname__,
                    old.__module__,
                )
                vars(new).update(vars(old))
                space[key] = new


def twin(model: Module) -> Module:
    """A copy that shares the tensors: what a run keeps in attributes stays out of the model."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        for value in vars(module).values():
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, Tensor):
                    memo[id(item)] = item
    return copy.deepcopy(model, memo)


class _Float64(TorchFunctionMode):
    """Turns a model's own requests for float32 (`x.float()`, `dtype=torch.float32`) into float64."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()

        name = getattr(func, "__name__", "")
        writes = name in ("__get__", "__set__", "__setitem__") or (name.endswith("_") and not name.endswith("__"))

        def wide(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dtype is torch.float32 and not writes:
                return value.double()  # a constant that the model keeps or makes
            # Asking for a dtype is a plain argument; a comparison such as x.dtype == torch.float32 never comes here.
            return torch.float64 if value is torch.float32 else value

        return func(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


def widened(tensor: Tensor) -> Tensor:
    """A copy in float64 where it holds floats: a model may write into its inputs."""
    return tensor.to(torch.float64, copy=True) if tensor.is_floating_point() else tensor.clone()


def wide_copy(model: nn.Module) -> nn.Module:
    """A copy in float64, plain tensor attributes included."""
    wide = copied(model).double()
    for module in wide.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.dtype is torch.float32:
                vars(module)[name] = value.double()
    return wide


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
