"""The fused lowering: each layer of a leaf as ONNX's own RNN, LSTM or GRU operator.

Gates are reordered from PyTorch's to ONNX's order (LSTM i,f,g,o -> i,o,f,g; GRU r,z,n -> z,r,n) by a Gather over the
weights' rows, which constant folding leaves no trace of. Operator definitions: the ONNX operator specification, RNN-14,
LSTM-14, GRU-14.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnxscript import opset18

op: Any = opset18  # its stubs know no plain lists

_GATE_ORDER = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def _concat(values: Sequence[Any]) -> Any:
    return op.Concat(*values, axis=0) if len(values) > 1 else values[0]


def _layers(
    operator: str,
    x: Any,
    initial: Sequence[Any],
    lengths: Any,
    weights: Sequence[Any],
    biases: bool,
    layers: int,
    bidirectional: bool,
    split: bool,
    **attributes: Any,
) -> tuple[Any, ...]:
    """(output, final states...) of a whole leaf: one operator for each layer, both directions in one.

    Where directions are `split`, each has an operator that runs forward, the second over the sequence in reverse.
    """
    directions = 2 if bidirectional else 1
    step = 4 if biases else 2
    hidden_size = weights[1].shape[1]
    rows = np.concatenate([np.arange(hidden_size) + gate * hidden_size for gate in _GATE_ORDER[operator]])
    order = op.Constant(value_ints=rows.tolist())
    sequence_lens = None if lengths is None else op.Cast(lengths, to=6)  # INT32, the only type the operators take
    finals: list[list[Any]] = [[] for _ in initial]
    parts = [None if state is None else _split(state, layers) for state in initial]
    y = x
    for layer in range(layers):
        sets = [weights[(layer * directions + d) * step :][:step] for d in range(directions)]
        w, r = (_concat([op.Unsqueeze(op.Gather(s[k], order, axis=0), [0]) for s in sets]) for k in (0, 1))
        b = None
        if biases:
            both = [op.Concat(op.Gather(s[2], order, axis=0), op.Gather(s[3], order, axis=0), axis=0) for s in sets]
            b = _concat([op.Unsqueeze(value, [0]) for value in both])
        states = [None if own is None else own[layer] for own in parts]
        node = functools.partial(getattr(op, operator), hidden_size=hidden_size, **attributes)
        if split and bidirectional:
            outputs, lasts = [], []
            for d in range(2):
                own = [value if value is None else _one(value, d) for value in (w, r, b, *states)]
                x = _reversed(y, lengths) if d else y
                output, *last = node(x, *own[:3], sequence_lens, *own[3:], direction="forward")
                output = op.Squeeze(output, [1])
                outputs.append(_reversed(output, lengths) if d else output)
                lasts.append(last)
            y = op.Concat(*outputs, axis=-1)
            for collected, pair in zip(finals, zip(*lasts, strict=True), strict=True):
                collected.append(_concat(pair))
            continue
        direction = "bidirectional" if bidirectional else "forward"
        y, *last = node(y, w, r, b, sequence_lens, *states, direction=direction)
        for collected, final in zip(finals, last, strict=True):
            collected.append(final)
        # (sequence, directions, batch, hidden) -> (sequence, batch, directions * hidden)
        y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1]) if bidirectional else op.Squeeze(y, [1])
    return y, *(_concat(collected) for collected in finals)


def _split(state: Any, layers: int) -> Sequence[Any]:
    """The states of each layer, (directions, batch, hidden) each."""
    return [state] if layers == 1 else op.Split(state, num_outputs=layers)


def _one(value: Any, direction: int) -> Any:
    """What belongs to one direction of a weight or state whose first axis is the directions."""
    return op.Slice(value, [direction], [direction + 1], [0])


def _reversed(x: Any, lengths: Any) -> Any:
    """(sequence, batch, features) with each row in reverse, up to its own end."""
    if lengths is None:
        return op.Slice(x, [-1], [-(2**63) + 1], [0], [-1])
    return op.ReverseSequence(x, op.Cast(lengths, to=7), batch_axis=1, time_axis=0)


def _some(x: Any) -> Any:
    """`x`, or an error of ONNX Runtime where what is left has no step or no row, which PyTorch refuses too.

    ONNX Runtime's LSTM and GRU would end the process there, on bare files too. A Reshape takes no -1 beside a zero.
    """
    *sizes, features = x.shape
    for size, shape in zip(sizes, ([0, -1], [-1, 0]), strict=True):
        if not isinstance(size, int) and not str(size.value).isidentifier():  # computed, not an axis of the inputs
            x = op.Reshape(x, [*shape, features])
    return x


def _rnn(activation: str) -> Callable[..., Any]:
    def lower(
        x: Any, h_0: Any, lengths: Any, weights: Any, biases: bool, layers: int, both: bool, *, split: bool = False
    ) -> Any:
        activations = [activation] * (2 if both and not split else 1)
        return _layers("RNN", _some(x), [h_0], lengths, weights, biases, layers, both, split, activations=activations)

    return lower


rnn_tanh = _rnn("Tanh")
rnn_relu = _rnn("Relu")


def gru(
    x: Any, h_0: Any, lengths: Any, weights: Any, biases: bool, layers: int, both: bool, *, split: bool = False
) -> Any:
    """All of a GRU leaf."""
    # PyTorch resets after the product with the hidden weights; ONNX's default resets before it.
    return _layers("GRU", _some(x), [h_0], lengths, weights, biases, layers, both, split, linear_before_reset=1)


def lstm(
    x: Any,
    h_0: Any,
    c_0: Any,
    lengths: Any,
    weights: Any,
    biases: bool,
    layers: int,
    both: bool,
    *,
    split: bool = False,
) -> Any:
    """All of an LSTM leaf without a projection, which the operator does not know."""
    return _layers("LSTM", _some(x), [h_0, c_0], lengths, weights, biases, layers, both, split)
