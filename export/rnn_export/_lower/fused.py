"""The fused lowering: each layer of a leaf as ONNX's own RNN, LSTM or GRU operator.

Gates are reordered from PyTorch's to ONNX's order (LSTM i,f,g,o -> i,o,f,g; GRU r,z,n -> z,r,n) by a Gather over the
weights' rows, which constant folding leaves no trace of. Operator definitions: the ONNX operator specification, RNN-14,
LSTM-14, GRU-14.
"""

from __future__ import annotations

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
    **attributes: Any,
) -> tuple[Any, ...]:
    """(output, final states...) of a whole leaf: one operator for each layer, both directions in one."""
    directions = 2 if bidirectional else 1
    step = 4 if biases else 2
    hidden_size = weights[1].shape[1]
    rows = np.concatenate([np.arange(hidden_size) + gate * hidden_size for gate in _GATE_ORDER[operator]])
    order = op.Constant(value_ints=rows.tolist())
    sequence_lens = None if lengths is None else op.Cast(lengths, to=6)  # INT32, the only type the operators take
    finals: list[list[Any]] = [[] for _ in initial]
    y = x
    for layer in range(layers):
        sets = [weights[(layer * directions + d) * step :][:step] for d in range(directions)]
        w, r = (_concat([op.Unsqueeze(op.Gather(s[k], order, axis=0), [0]) for s in sets]) for k in (0, 1))
        b = None
        if biases:
            both = [op.Concat(op.Gather(s[2], order, axis=0), op.Gather(s[3], order, axis=0), axis=0) for s in sets]
            b = _concat([op.Unsqueeze(value, [0]) for value in both])
        if layers == 1:
            states = list(initial)
        else:
            first = layer * directions
            states = [s if s is None else op.Slice(s, [first], [first + directions], [0]) for s in initial]
        y, *last = getattr(op, operator)(
            y,
            w,
            r,
            b,
            sequence_lens,
            *states,
            hidden_size=hidden_size,
            direction="bidirectional" if bidirectional else "forward",
            **attributes,
        )
        for collected, final in zip(finals, last, strict=True):
            collected.append(final)
        # (sequence, directions, batch, hidden) -> (sequence, batch, directions * hidden)
        y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1]) if bidirectional else op.Squeeze(y, [1])
    return y, *(_concat(collected) for collected in finals)


def _rnn(activation: str) -> Callable[..., Any]:
    def lower(x: Any, h_0: Any, lengths: Any, weights: Any, biases: bool, layers: int, bidirectional: bool) -> Any:
        activations = [activation] * (2 if bidirectional else 1)
        return _layers("RNN", x, [h_0], lengths, weights, biases, layers, bidirectional, activations=activations)

    return lower


rnn_tanh = _rnn("Tanh")
rnn_relu = _rnn("Relu")


def gru(x: Any, h_0: Any, lengths: Any, weights: Any, biases: bool, layers: int, bidirectional: bool) -> Any:
    """All of a GRU leaf."""
    # PyTorch resets after the product with the hidden weights; ONNX's default resets before it.
    return _layers("GRU", x, [h_0], lengths, weights, biases, layers, bidirectional, linear_before_reset=1)


def lstm(x: Any, h_0: Any, c_0: Any, lengths: Any, weights: Any, biases: bool, layers: int, bidirectional: bool) -> Any:
    """All of an LSTM leaf without a projection, which the operator does not know."""
    return _layers("LSTM", x, [h_0, c_0], lengths, weights, biases, layers, bidirectional)
