"""What eager PyTorch does inside: each layer of each recurrent call of a float64 run, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, invert_permutation, pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from . import _scan
from ._capture.calls import RECURRENT, RecurrentCall, called_by
from ._capture.lift import _tracking
from ._capture.mode import _LEAVES
from ._reference import Case, Reference

_VF: Any = torch._VF


@dataclass(frozen=True)
class Layer:
    """One layer of a recurrent call, both directions, in float64.

    Attributes:
        module: the path of the module that made the call; "" for the model itself.
        operator: RNN, LSTM, GRU or Scan.
        layer: its number in the call.
        leaf: the operator that computes it; None for a scan.
        x: (sequence, batch, features).
        states: its initial states, (directions, batch, size) each.
        lengths: of the rows, None where all are full.
        weights: of one direction after the other.
        biases: whether there are two biases in each set of weights.
        y: (sequence, batch, directions, features).
    """

    module: str
    operator: str
    layer: int
    leaf: Any
    x: Tensor
    states: tuple[Tensor, ...]
    lengths: Tensor | None
    weights: tuple[Tensor, ...]
    biases: bool
    y: Tensor

    @property
    def directions(self) -> int:
        """1 or 2."""
        return self.y.shape[2]


@dataclass(frozen=True)
class Seen:
    """A recurrent call as a whole.

    Attributes:
        layers: one by one.
        raw: its first result as the call gave it: packed data, or with the batch first or second.
        batch_first: how `raw` lies.
        batch_sizes: of packed data, else None.
    """

    layers: tuple[Layer, ...]
    raw: Tensor
    batch_first: bool
    batch_sizes: Tensor | None

    def steps(self, raw: np.ndarray, *, batch_first: bool) -> np.ndarray:
        """A first result as (sequence, batch, directions, features); packed rows come in sorted order."""
        y = torch.from_numpy(np.ascontiguousarray(raw))
        if self.batch_sizes is not None:
            y, _ = pad_packed_sequence(PackedSequence(y, self.batch_sizes))
        elif batch_first:
            y = y.transpose(0, 1)
        steps: np.ndarray = y.unflatten(-1, (self.layers[-1].directions, -1)).numpy()
        return steps


def trace(reference: Reference, case: Case) -> list[Seen]:
    """The recurrent calls that the model makes of a case in float64, in their order."""
    path = [""]
    watch = _Watch(path)
    inputs = {spec.name: torch.from_numpy(case.inputs[spec.name].copy()) for spec in reference.signature.inputs}
    with _tracking(reference.wide, path), watch, _scans(watch):
        reference.float64(inputs)
    return [seen.finish() if isinstance(seen, _Scan) else seen for seen in watch.seen]


class _Watch(TorchFunctionMode):
    """Takes recurrent calls apart as they are made."""

    def __init__(self, path: list[str]) -> None:
        super().__init__()
        self.seen: list[Seen | _Scan] = []
        self._path = path
        self._order: Tensor | None = None
        self._orders: dict[int, tuple[Tensor, Tensor]] = {}

    def module(self) -> str:
        """The module that runs now."""
        return self._path[-1].removeprefix("model").removeprefix(".")

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RECURRENT:
            self.seen.append(self._call(func, RecurrentCall.of(args, kwargs), result[0]))
        elif func is torch.sort and called_by(pack_padded_sequence):
            self._order = result[1]
        elif func is _VF._pack_padded_sequence and self._order is not None:
            self._orders[id(result[1])] = result[1], self._order
            self._order = None
        return result

    def _call(self, func: Any, call: RecurrentCall, raw: Tensor) -> Seen:
        lengths = None
        states = list(call.states)
        x = call.data.transpose(0, 1) if call.batch_first else call.data
        if call.batch_sizes is not None:
            _, order = self._orders.get(id(call.batch_sizes), (None, None))
            back = invert_permutation(order)
            x, lengths = pad_packed_sequence(PackedSequence(call.data, call.batch_sizes, order, back))
            if back is not None:
                states = [state.index_select(1, back) for state in states]
        found = _layers(self.module(), func, call, x, states, lengths)
        return Seen(tuple(found), raw, call.batch_first, call.batch_sizes)


def _layers(
    module: str, func: Any, call: RecurrentCall, x: Tensor, states: Sequence[Tensor], lengths: Tensor | None
) -> Iterator[Layer]:
    directions = 2 if call.bidirectional else 1
    size = len(call.weights) // call.layers
    for k in range(call.layers):
        weights = call.weights[k * size :][:size]
        own = tuple(state[k * directions :][:directions] for state in states)
        leaf = _LEAVES[func]
        y = leaf(x, *own, lengths, weights, call.biases, 1, call.bidirectional)[0]
        split = y.unflatten(-1, (directions, -1))
        yield Layer(module, RECURRENT[func], k, leaf, x, own, lengths, tuple(weights), call.biases, split)
        x = y


@dataclass
class _Scan:
    """A call of rnn_export.scan: what its steps gave."""

    module: str
    xs: list[Tensor]
    reverse: bool
    outputs: list[list[Tensor]]

    def finish(self) -> Seen:
        """The first output, stacked, as the one layer of a call."""
        steps = self.outputs[::-1] if self.reverse else self.outputs
        first = torch.stack([outputs[0] for outputs in steps])
        y = first.reshape(first.shape[0], first.shape[1] if first.dim() > 1 else 1, 1, -1)
        layer = Layer(self.module, "Scan", 0, None, self.xs[0], (), None, (), False, y)
        return Seen((layer,), first, False, None)


@contextmanager
def _scans(watch: _Watch) -> Iterator[None]:
    """While this lasts, calls of rnn_export.scan are noted."""

    def note(step: Callable[[Any, Any], tuple[Any, Any]], _initial: Any, xs: Any, reverse: bool) -> Any:
        seen = _Scan(watch.module(), pytree.tree_leaves(xs), reverse, [])
        watch.seen.append(seen)

        def noted(state: Any, x: Any) -> tuple[Any, Any]:
            new, output = step(state, x)
            seen.outputs.append([leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)])
            return new, output

        return noted

    _scan.WATCHERS.append(note)
    try:
        yield
    finally:
        _scan.WATCHERS.remove(note)
