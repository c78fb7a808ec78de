"""The function mode that keeps recurrent calls whole while torch.export traces a model.

A TorchFunctionMode sees what the user's own code calls, nn.LSTM's forward and functional calls alike, and answers it
with a leaf. Nothing in the module tree is changed. A PackedSequence then carries padded, time-major data and the rows'
lengths under its own field names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import leaves

_VF: Any = torch._VF

_LEAVES = {_VF.rnn_tanh: leaves.rnn_tanh, _VF.rnn_relu: leaves.rnn_relu, _VF.gru: leaves.gru, _VF.lstm: leaves.lstm}


class Capture(TorchFunctionMode):
    """Answers torch's recurrent and packing functions with leaves."""

    def __init__(self) -> None:
        super().__init__()
        # id of the tensor that stands in for batch_sizes -> (that tensor, kept alive; batch size; number of steps)
        self._packed: dict[int, tuple[Tensor, Any, Any]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _LEAVES:
            return self._recurrent(func, *args, **(kwargs or {}))
        if func is _VF._pack_padded_sequence:
            return self._pack(*args)
        if func is _VF._pad_packed_sequence:
            return self._pad(*args)
        if args and id(args[0]) in self._packed:
            _, batch, steps = self._packed[id(args[0])]
            if func is Tensor.__getitem__ and args[1] == 0:
                return batch
            if func is Tensor.size and args[1:] == (0,):
                return steps
        return func(*args, **(kwargs or {}))

    def _recurrent(self, func: Any, data: Tensor, second: Any, *rest: Any) -> Any:
        if id(second) in self._packed:
            hx, weights, biases, layers, _dropout, _train, bidirectional = rest
            lengths, batch_first = second, False
        else:
            weights, biases, layers, _dropout, _train, bidirectional, batch_first = rest
            lengths, hx = None, second
        states = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        x = data.transpose(0, 1) if batch_first else data
        y, *finals = _LEAVES[func](x, *states, lengths, list(weights), biases, layers, bidirectional)
        return y.transpose(0, 1) if batch_first else y, *finals

    def _pack(self, data: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        data = data.transpose(0, 1) if batch_first else data
        data = leaves.pack(data, lengths)
        stand_in = lengths.clone()  # a tensor of its own, so that its id is known to no one else
        self._packed[id(stand_in)] = stand_in, data.shape[1], data.shape[0]
        return data, stand_in

    def _pad(
        self, data: Tensor, stand_in: Tensor, batch_first: bool, value: float, total: Any
    ) -> tuple[Tensor, Tensor]:
        y = leaves.pad(data, stand_in, value, total)
        return y.transpose(0, 1) if batch_first else y, stand_in.clone()
