"""The function mode that keeps recurrent calls whole while torch.export traces a model.

A TorchFunctionMode sees what the user's own code calls, nn.LSTM's forward and functional calls alike, and answers it
with a leaf. Nothing in the module tree is changed. A PackedSequence then carries padded, time-major data and the rows'
lengths under its own field names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

from . import leaves
from .calls import RecurrentCall, argument, called_by

_VF: Any = torch._VF

_EXPECTED_HIDDEN_SIZE = nn.RNNBase.get_expected_hidden_size

_LEAVES = {_VF.rnn_tanh: leaves.rnn_tanh, _VF.rnn_relu: leaves.rnn_relu, _VF.gru: leaves.gru, _VF.lstm: leaves.lstm}


class Capture(TorchFunctionMode):
    """Answers torch's recurrent and packing functions with leaves.

    Args:
        whole: the longest of the lengths is always the whole axis, so that packing cuts nothing.
    """

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__()
        self._whole = whole
        # id of the tensor that stands in for batch_sizes -> (that tensor, kept alive; number of steps; batch size)
        self._packed: dict[int, tuple[Tensor, Any, Any]] = {}

    def __enter__(self) -> Capture:
        # PyTorch's own makes a plain number of the batch size, which would fix it.
        nn.RNNBase.get_expected_hidden_size = _expected_hidden_size  # type: ignore[method-assign]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        nn.RNNBase.get_expected_hidden_size = _EXPECTED_HIDDEN_SIZE  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _LEAVES:
            return self._recurrent(func, RecurrentCall.of(args, kwargs))
        if func is torch.sort and called_by(pack_padded_sequence):
            # Leaves take lengths in any order, so the rows stay where they are: the order that PyTorch's kernels need
            # would come out as a sort and four gathers, all in vain.
            return args[0], torch.arange(args[0].shape[0])
        if func is _VF._pack_padded_sequence:
            return self._pack(*args)
        if func is _VF._pad_packed_sequence:
            return self._pad(*args)
        if func is torch.linspace and (ramp := _ramp(*args, **(kwargs or {}))) is not None:
            return ramp
        if args and id(args[0]) in self._packed:
            _, steps, batch = self._packed[id(args[0])]
            if func is Tensor.__getitem__ and args[1] == 0:
                return batch
            if func is Tensor.size and args[1:] == (0,):
                # pad_packed_sequence asks whether total_length is enough, which depends on values that a trace does not
                # have. Where there is one, it is what counts.
                total = argument(pad_packed_sequence, "total_length")
                return steps if total is None else total
        return func(*args, **(kwargs or {}))

    def _recurrent(self, func: Any, call: RecurrentCall) -> Any:
        packed = id(call.batch_sizes) in self._packed
        if packed:
            x = self._rows(call.data, call.batch_sizes)
        else:
            x = call.data.transpose(0, 1) if call.batch_first else call.data
        lengths = call.batch_sizes if packed else None
        settings = (call.weights, call.biases, call.layers, call.bidirectional)
        y, *finals = _LEAVES[func](x, *call.states, lengths, *settings)
        if packed:
            y = y.flatten(0, 1)
        elif call.batch_first:
            y = y.transpose(0, 1)
        return y, *finals

    def _pack(self, data: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        data = data.transpose(0, 1) if batch_first else data
        if not self._whole:
            data = leaves.pack(data, lengths)
        stand_in = lengths.clone()  # a tensor of its own, so that its id is known to no one else
        self._packed[id(stand_in)] = stand_in, data.shape[0], data.shape[1]
        return data.flatten(0, 1), stand_in

    def _pad(
        self, data: Tensor, stand_in: Tensor, batch_first: bool, value: float, total: Any
    ) -> tuple[Tensor, Tensor]:
        y = leaves.pad(self._rows(data, stand_in), stand_in, value, total)
        return y.transpose(0, 1) if batch_first else y, stand_in.clone()

    def _rows(self, data: Tensor, stand_in: Tensor) -> Tensor:
        """A PackedSequence's data as (steps, batch, ...)."""
        _, steps, batch = self._packed[id(stand_in)]
        rows: Tensor = data.unflatten(0, (steps, batch))
        return rows


def _ramp(start: Any, end: Any, steps: Any = None, **more: Any) -> Tensor | None:
    """`torch.linspace` where the number of steps is a size, of which PyTorch would make a plain number."""
    if not isinstance(steps, torch.SymInt) or isinstance(start, Tensor) or isinstance(end, Tensor):
        return None
    size: Any = steps
    dtype = more.get("dtype") or torch.get_default_dtype()
    index = torch.arange(size, dtype=dtype, device=more.get("device"))
    whole = torch.scalar_tensor(size, dtype=dtype, device=more.get("device"))
    step = (end - start) / (whole - 1).clamp(min=1)
    return torch.where(index * 2 <= whole, start + step * index, end - step * (whole - 1 - index))


def _expected_hidden_size(self: nn.RNNBase, input: Tensor, batch_sizes: Any) -> tuple[Any, ...]:
    batch = batch_sizes[0] if batch_sizes is not None else input.size(0 if self.batch_first else 1)
    return self.num_layers * (2 if self.bidirectional else 1), batch, self.proj_size or self.hidden_size
