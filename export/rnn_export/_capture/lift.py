"""Lifted state: the hidden state of inner recurrent layers as inputs and outputs, without a change to the model.

A function mode gives the k-th recurrent call of a forward pass its initial state from an argument and keeps its final
one. It works alike in eager PyTorch, while TorchScript is traced, and on top of the capture's own mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import invert_permutation, pack_padded_sequence
from torch.overrides import TorchFunctionMode

from .._errors import ExportError
from .calls import RECURRENT, RecurrentCall, called_by

_VF: Any = torch._VF


@dataclass(frozen=True)
class Call:
    """A recurrent call as it was seen in one forward pass.

    Attributes:
        module: the path of the module that made it.
        operator: RNN, LSTM or GRU.
        bidirectional: reads the sequence from both ends.
        states: its initial states, (layers * directions, batch, size) each.
    """

    module: str
    operator: str
    bidirectional: bool
    states: tuple[Tensor, ...]

    @property
    def fresh(self) -> bool:
        """Whether it starts from zeros, so that the model itself gives it no state."""
        return not any(bool(state.any()) for state in self.states)


@dataclass(frozen=True)
class Slot:
    """One lifted state.

    Attributes:
        call: the number of the recurrent call in the forward pass; -1 where it is a loop's.
        input, output: its names.
        shape: its sizes, an axis of the inputs by its name: (layers * directions, batch, size) of a layer.
        dtype: of the state.
        holds: what it is, in words.
    """

    call: int
    input: str
    output: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype
    holds: str = ""

    @property
    def axes(self) -> dict[int, str]:
        """Its dynamic axes."""
        return {dim: size for dim, size in enumerate(self.shape) if isinstance(size, str)}

    def zeros(self, sizes: Mapping[str, int]) -> Tensor:
        """The state at the start of a sequence, for these sizes of the axes."""
        shape = [sizes[size] if isinstance(size, str) else size for size in self.shape]
        return torch.zeros(shape, dtype=self.dtype)


class NoStream(ExportError):
    """A layer's state is that of something else than a stream, as where it runs over another axis than time."""


class NoLayer(ExportError):
    """No layer has a state to lift: there is none, or it is called as often as there are steps."""


class Lift(TorchFunctionMode):
    """Gives recurrent calls their initial states and collects the final ones; every other call goes its way.

    Args:
        states: number of the call -> its initial states, rows in the order of the batch.
    """

    def __init__(self, states: Mapping[int, Sequence[Tensor]]) -> None:
        super().__init__()
        self._states = states
        self._count = 0
        self._order: Tensor | None = None
        self._orders: dict[int, tuple[Tensor, Tensor]] = {}
        self.finals: dict[int, tuple[Tensor, ...]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in RECURRENT:
            return self._recurrent(func, RecurrentCall.of(args, kwargs))
        result = func(*args, **(kwargs or {}))
        # A packed sequence has its rows sorted by length, and PyTorch sorts a given state with them.
        if func is torch.sort and called_by(pack_padded_sequence):
            self._order = result[1]
        elif func is _VF._pack_padded_sequence and self._order is not None:
            self._orders[id(result[1])] = result[1], self._order
            self._order = None
        return result

    def _recurrent(self, func: Any, call: RecurrentCall) -> Any:
        number, self._count = self._count, self._count + 1
        if number not in self._states:
            return call.run(func, call.states)
        states = list(self._states[number])
        _, order = self._orders.get(id(call.batch_sizes), (None, None))
        if order is not None:
            states = [state.index_select(1, order) for state in states]
        y, *finals = call.run(func, states)
        back = invert_permutation(order)
        self.finals[number] = tuple(final if back is None else final.index_select(1, back) for final in finals)
        return y, *finals


class _Probe(TorchFunctionMode):
    """Records the recurrent calls of a forward pass."""

    def __init__(self, path: list[str]) -> None:
        super().__init__()
        self._path = path
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in RECURRENT:
            call = RecurrentCall.of(args, kwargs)
            self.calls.append(Call(self._path[-1], RECURRENT[func], call.bidirectional, call.states))
        return func(*args, **(kwargs or {}))


def calls(model: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """The recurrent calls that `run()` makes, with the modules of `model` that make them."""
    path = [""]
    probe = _Probe(path)
    with _tracking(model, path), probe, torch.no_grad():
        run()
    return probe.calls


@contextmanager
def _tracking(model: nn.Module, path: list[str]) -> Iterator[None]:
    def leave(*_: Any) -> None:
        path.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def slots(seen: Sequence[tuple[Mapping[str, int], list[Call]]], *, others: bool = False) -> tuple[Slot, ...]:
    """The states to lift, from the calls of forward passes over random inputs of several sizes, the traced sizes first.

    Raises:
        ExportError: a layer reads its sequence from both ends, the calls differ from size to size, or a state has a
            size that no axis has.
    """
    first = seen[0][1]
    if any(len(others) != len(first) for _, others in seen):
        raise NoLayer(
            "state='lift', but how many recurrent calls the model makes depends on its input: use state='none'"
        )
    lifted = [k for k, call in enumerate(first) if call.fresh]
    both = [first[k] for k in lifted if first[k].bidirectional]
    if both:
        named = ", ".join(f"{call.module!r} ({call.operator})" for call in both)
        raise NoStream(
            f"state='lift', but {named} is bidirectional: it reads each sequence from its end, so it cannot run on a "
            "stream. Use state='none'"
        )
    if not lifted and others:  # the model keeps its state itself
        return ()
    if not lifted:
        raise NoLayer("state='lift', but every recurrent layer is given its state by the model: use state='auto'")
    found: list[Slot] = []
    for k in lifted:
        call = first[k]
        earlier = sum(first[j].module == call.module for j in lifted if j < k)
        stem = "_".join(filter(None, [call.module.replace(".", "_"), str(earlier + 1) if earlier else ""]))
        batch = _axis(call.module, [(sizes, calls[k].states[0].shape[1]) for sizes, calls in seen])
        for letter, state in zip("hc", call.states, strict=False):
            name = f"{stem}_{letter}" if stem else letter
            shape = (state.shape[0], batch, state.shape[2])
            found.append(Slot(k, f"{name}_0", f"{name}_n", shape, state.dtype))
    return tuple(found)


def _axis(module: str, seen: list[tuple[Mapping[str, int], int]]) -> str | int:
    """The axis whose size is the state's batch in every forward pass, or the size that it always is."""
    for axis in seen[0][0]:
        if all(sizes[axis] == batch for sizes, batch in seen):
            return axis
    if len({batch for _, batch in seen}) == 1:
        return seen[0][1]
    raise NoStream(
        f"state='lift', but the state of {module!r} has {seen[0][1]} rows, which is the size of no axis "
        f"({dict(seen[0][0])}): the layer runs over something else than the batch. Use state='none'"
    )
