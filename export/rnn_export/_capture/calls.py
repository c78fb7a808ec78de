"""Calls as function modes see them: recurrent functions, their arguments, and the function that a call stands in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

_VF: Any = torch._VF

RECURRENT = {_VF.rnn_tanh: "RNN", _VF.rnn_relu: "RNN", _VF.gru: "GRU", _VF.lstm: "LSTM"}
"""PyTorch's recurrent functions, and the ONNX operator of each."""

_SETTINGS = ("params", "has_biases", "num_layers", "dropout", "train", "bidirectional")
_PADDED = ("input", "hx", *_SETTINGS, "batch_first")
_PACKED = ("data", "batch_sizes", "hx", *_SETTINGS)


@dataclass
class RecurrentCall:
    """The arguments of a recurrent function, which takes padded or packed data.

    Attributes:
        data: (sequence, batch, ...) or as batch_first says; of packed data what PackedSequence holds.
        batch_sizes: of packed data, else None.
        states: the initial states.
        weights, biases, layers, bidirectional, batch_first: as in PyTorch.
    """

    data: Tensor
    batch_sizes: Any
    states: tuple[Tensor, ...]
    weights: list[Tensor]
    biases: bool
    layers: int
    bidirectional: bool
    batch_first: bool

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> RecurrentCall:
        """Read the arguments, given by position or by name."""
        kwargs = kwargs or {}
        # The fourth is the list of weights where data is packed, and a boolean where it is not.
        packed = "batch_sizes" in kwargs or "data" in kwargs or (len(args) > 3 and isinstance(args[3], list | tuple))
        names = _PACKED if packed else _PADDED
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        hx = given["hx"]
        return cls(
            data=given["data" if packed else "input"],
            batch_sizes=given.get("batch_sizes"),
            states=tuple(hx) if isinstance(hx, tuple | list) else (hx,),
            weights=list(given["params"]),
            biases=given["has_biases"],
            layers=given["num_layers"],
            bidirectional=given["bidirectional"],
            batch_first=given.get("batch_first", False),
        )

    def run(self, function: Any, states: Sequence[Tensor]) -> Any:
        """Call the function with these arguments and other initial states, without dropout."""
        hx: Any = tuple(states) if function is _VF.lstm else states[0]
        settings = (self.weights, self.biases, self.layers, 0.0, False, self.bidirectional)
        if self.batch_sizes is not None:
            return function(self.data, self.batch_sizes, hx, *settings)
        return function(self.data, hx, *settings, self.batch_first)


_DEPTH = 24
"""Frames to look at: each function mode below the caller adds two or three."""


def called_by(function: Callable[..., Any]) -> bool:
    """Whether the call that a function mode has at hand stands in `function`."""
    return _frame(function) is not None


def argument(function: Callable[..., Any], name: str) -> Any:
    """An argument of `function`, where the call at hand stands in it; else None."""
    frame = _frame(function)
    return None if frame is None else frame.f_locals.get(name)


def _frame(function: Callable[..., Any]) -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame is None or frame.f_code is function.__code__:
            return frame
        frame = frame.f_back
    return None
