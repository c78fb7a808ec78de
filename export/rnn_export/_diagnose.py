"""What would explain that a layer gives something else: known faults, tried on the yardstick's own weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._capture import leaves
from ._trace import Layer

GATES = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}
"""In PyTorch's order."""


@dataclass(frozen=True)
class _One:
    """One direction of a layer: what its operator is given."""

    leaf: object
    x: Tensor
    states: tuple[Tensor, ...]
    lengths: Tensor | None
    weights: tuple[Tensor, ...]
    biases: bool

    def run(
        self,
        *,
        x: Tensor | None = None,
        states: Sequence[Tensor] | None = None,
        weights: Sequence[Tensor] | None = None,
        lengths: Tensor | None = None,
        leaf: object = None,
        backward: bool = False,
    ) -> Tensor:
        """(sequence, batch, features), with some of it replaced."""
        lengths = self.lengths if lengths is None else lengths
        x = self.x if x is None else x
        used = self.states if states is None else states
        operator: object = leaf or self.leaf
        x = _flipped(x, lengths) if backward else x
        own = self.weights if weights is None else weights
        y = operator(x, *used, lengths, list(own), self.biases, 1, False)[0]  # type: ignore[operator]
        return _flipped(y, lengths) if backward else y


def explain(layer: Layer, direction: int, got: np.ndarray, bound: float) -> str:
    """What makes this direction of the yardstick's layer give what a backend gave; "" where nothing known does.

    Args:
        layer: the yardstick's.
        direction: 0 or 1.
        got: (sequence, batch, features), the backend's.
        bound: how far off it may be.
    """
    if layer.leaf is None:
        return ""
    set_size = len(layer.weights) // layer.directions
    one = _One(
        layer.leaf,
        layer.x,
        tuple(state[direction : direction + 1] for state in layer.states),
        layer.lengths,
        layer.weights[direction * set_size :][:set_size],
        layer.biases,
    )
    other = layer.weights[(1 - direction) * set_size :][:set_size] if layer.directions == 2 else None
    with torch.no_grad():
        for reason, y in _variants(layer.operator, one, other, backward=direction == 1):
            if layer.lengths is not None:
                inside = torch.arange(y.shape[0]).unsqueeze(1) < layer.lengths.unsqueeze(0)
                y = torch.where(inside.unsqueeze(2), y, torch.zeros_like(y))
            if y.shape == got.shape and float(np.abs(y.numpy() - got).max()) <= bound:
                return reason
    return ""


def _variants(
    operator: str, one: _One, other: Sequence[Tensor] | None, *, backward: bool
) -> Iterator[tuple[str, Tensor]]:
    """(what is wrong, what comes out), the likelier first."""
    yield "it reads the sequence in the other direction", one.run(backward=not backward)
    if one.biases:
        w, r, b_ih, b_hh, *rest = one.weights
        zero_ih, zero_hh = torch.zeros_like(b_ih), torch.zeros_like(b_hh)
        yield "both its biases are missing", one.run(weights=[w, r, zero_ih, zero_hh, *rest], backward=backward)
        yield "its input bias is missing", one.run(weights=[w, r, zero_ih, b_hh, *rest], backward=backward)
        yield "its hidden bias is missing", one.run(weights=[w, r, b_ih, zero_hh, *rest], backward=backward)
    if operator == "GRU":
        yield (
            "the reset gate comes before the product with the hidden weights (linear_before_reset=0)",
            _reset_before(one, backward=backward),
        )
    names = GATES.get(operator, ())
    for order in itertools.permutations(range(len(names))):
        if order != tuple(range(len(names))):
            weights = [_reordered(weight, order) if k < _GATED[one.biases] else weight for k, weight in _numbered(one)]
            yield f"its gates are mixed up ({_mixed(names, order)})", one.run(weights=weights, backward=backward)
    if other is not None:
        yield "it has the weights of the other direction", one.run(weights=other, backward=backward)
    zeros = [torch.zeros_like(state) for state in one.states]
    yield "its initial state is ignored", one.run(states=zeros, backward=backward)
    if len(one.states) == 2 and one.states[0].shape == one.states[1].shape:
        yield "h_0 and c_0 are swapped", one.run(states=one.states[::-1], backward=backward)
    if operator == "RNN":
        swapped = leaves.rnn_relu if one.leaf is leaves.rnn_tanh else leaves.rnn_tanh
        yield "it has the other activation", one.run(leaf=swapped, backward=backward)
    if one.lengths is not None:
        full = torch.full_like(one.lengths, one.x.shape[0])
        yield "the lengths are ignored", one.run(lengths=full, backward=backward)
    weights = [_transposed(weight) if k == 1 else weight for k, weight in _numbered(one)]
    if weights[1].shape == one.weights[1].shape:
        yield "its hidden weights are transposed", one.run(weights=weights, backward=backward)


_GATED = {True: 4, False: 2}
"""How many of a set of weights have their rows in gates; a projection has none."""


def _numbered(one: _One) -> list[tuple[int, Tensor]]:
    return list(enumerate(one.weights))


def _reordered(weight: Tensor, order: Sequence[int]) -> Tensor:
    return torch.cat([weight.chunk(len(order), 0)[k] for k in order], 0)


def _mixed(names: Sequence[str], order: Sequence[int]) -> str:
    """Two that are swapped, or which gate has whose weights."""
    moved = [k for k, source in enumerate(order) if k != source]
    if len(moved) == 2:
        return f"{names[moved[0]]} and {names[moved[1]]} are swapped"
    return ", ".join(f"{names[k]} has the weights of {names[order[k]]}" for k in moved)


def _transposed(weight: Tensor) -> Tensor:
    gates = weight.shape[0] // weight.shape[1] if weight.shape[1] and weight.shape[0] % weight.shape[1] == 0 else 0
    return torch.cat([part.T for part in weight.chunk(gates, 0)], 0) if gates else weight


def _flipped(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each row from its own last step to its first; what lies past its end stays."""
    if lengths is None:
        return x.flip(0)
    flipped = x.clone()
    for row, length in enumerate(lengths.tolist()):
        flipped[:length, row] = x[:length, row].flip(0)
    return flipped


def _reset_before(one: _One, *, backward: bool) -> Tensor:
    """A GRU as ONNX's default has it: h * r goes through the hidden weights of the new gate. ONNX, GRU-14."""
    x = _flipped(one.x, one.lengths) if backward else one.x
    w, r, *biases = one.weights
    zeros = w.new_zeros(w.shape[0])
    b_ih, b_hh = biases if one.biases else (zeros, zeros)
    w_r, w_z, w_n = (x @ w.T + b_ih).chunk(3, -1)
    r_r, r_z, r_n = r.chunk(3, 0)
    b_r, b_z, b_n = b_hh.chunk(3)
    h = one.states[0][0]
    outputs = []
    for t in range(x.shape[0]):
        reset = torch.sigmoid(w_r[t] + h @ r_r.T + b_r)
        update = torch.sigmoid(w_z[t] + h @ r_z.T + b_z)
        new = torch.tanh(w_n[t] + (reset * h) @ r_n.T + b_n)
        after = (1 - update) * new + update * h
        inside = torch.ones(x.shape[1], 1, dtype=torch.bool) if one.lengths is None else (t < one.lengths).unsqueeze(1)
        h = torch.where(inside, after, h)
        outputs.append(torch.where(inside, after, torch.zeros_like(after)))
    y = torch.stack(outputs)
    return _flipped(y, one.lengths) if backward else y
