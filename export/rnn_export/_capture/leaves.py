"""The leaves: PyTorch's recurrent calls as custom operators that torch.export keeps whole.

Every leaf has a real CPU implementation, PyTorch's own kernel, so a captured program runs; and a fake one, so that it
traces with symbolic sizes. All sequences are time-major, (sequence, batch, features). `lengths`, where given, is
(batch,) int64 in any order.
"""

# No `from __future__ import annotations`: custom_op reads the operator's schema from the real annotations.
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

_VF: Any = torch._VF

NAMESPACE = "rnn_export"


def _states(
    x: Tensor, given: list[Tensor | None], weights: list[Tensor], step: int, layers: int, both: bool
) -> list[Tensor]:
    """The initial states, zeros where none is given: (layers * directions, batch, size)."""
    directions = 2 if both else 1
    # weight_hh is (gates, size of h); with a projection the cell is as wide as weight_hr, the fifth tensor of a set,
    # says.
    h_size = weights[1].shape[1]
    sizes = [h_size, weights[step - 1].shape[1] if step % 2 else h_size]
    return [
        x.new_zeros(layers * directions, x.shape[1], size) if state is None else state
        for state, size in zip(given, sizes, strict=False)
    ]


def _call(
    kernel: Callable[..., Any],
    x: Tensor,
    states: list[Tensor],
    lengths: Tensor | None,
    weights: list[Tensor],
    biases: bool,
    layers: int,
    both: bool,
) -> list[Tensor]:
    """(output, final states...) by PyTorch's kernel; packed where there are lengths, with zeros past each row's end."""

    def hx(values: list[Tensor]) -> Any:
        return tuple(values) if len(values) > 1 else values[0]

    if lengths is None:
        results = kernel(x, hx(states), weights, biases, layers, 0.0, False, both, False)
        return [result.clone() for result in results]
    packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None and back is not None
    states = [state.index_select(1, order) for state in states]
    y, *finals = kernel(packed.data, packed.batch_sizes, hx(states), weights, biases, layers, 0.0, False, both)
    y, _ = pad_packed_sequence(PackedSequence(y, packed.batch_sizes, order, back), total_length=x.shape[0])
    return [y, *(final.index_select(1, back) for final in finals)]


def _set_size(weights: Sequence[Any], layers: int, both: bool) -> int:
    """Tensors per layer and direction: 2, or 4 with biases; one more with a projection."""
    return len(weights) // (layers * (2 if both else 1))


def has_projection(weights: Sequence[Any], layers: int, both: bool) -> bool:
    """Whether each set of weights ends with a projection of the output (an LSTM's proj_size)."""
    return _set_size(weights, layers, both) % 2 == 1


def _output(x: Tensor, h: Tensor, both: bool) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], (2 if both else 1) * h.shape[2])


def _single(kernel: Callable[..., Any], name: str) -> Any:
    """The leaf of a cell with one state: rnn_tanh, rnn_relu, gru."""

    def leaf(
        x: Tensor,
        h_0: Tensor | None,
        lengths: Tensor | None,
        weights: list[Tensor],
        biases: bool,
        layers: int,
        bidirectional: bool,
    ) -> tuple[Tensor, Tensor]:
        states = _states(x, [h_0], weights, 2, layers, bidirectional)
        y, h = _call(kernel, x, states, lengths, weights, biases, layers, bidirectional)
        return y, h

    def fake(
        x: Tensor,
        h_0: Tensor | None,
        lengths: Tensor | None,
        weights: list[Tensor],
        biases: bool,
        layers: int,
        bidirectional: bool,
    ) -> tuple[Tensor, Tensor]:
        (h,) = _states(x, [h_0], weights, 2, layers, bidirectional)
        return _output(x, h, bidirectional), torch.empty_like(h)

    operator = torch.library.custom_op(f"{NAMESPACE}::{name}", leaf, mutates_args=())
    operator.register_fake(fake)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


rnn_tanh = _single(_VF.rnn_tanh, "rnn_tanh")
rnn_relu = _single(_VF.rnn_relu, "rnn_relu")
gru = _single(_VF.gru, "gru")


@torch.library.custom_op(f"{NAMESPACE}::lstm", mutates_args=())
def _lstm(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    weights: list[Tensor],
    biases: bool,
    layers: int,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    step = _set_size(weights, layers, bidirectional)
    states = _states(x, [h_0, c_0], weights, step, layers, bidirectional)
    y, h, c = _call(_VF.lstm, x, states, lengths, weights, biases, layers, bidirectional)
    return y, h, c


@_lstm.register_fake
def _(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    weights: list[Tensor],
    biases: bool,
    layers: int,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    step = _set_size(weights, layers, bidirectional)
    h, c = _states(x, [h_0, c_0], weights, step, layers, bidirectional)
    return _output(x, h, bidirectional), torch.empty_like(h), torch.empty_like(c)


@torch.library.custom_op(f"{NAMESPACE}::pack", mutates_args=())
def _pack(x: Tensor, lengths: Tensor) -> Tensor:
    """X (sequence, batch, ...) -> its first max(lengths) steps: what a PackedSequence keeps of it."""
    return x[: int(lengths.max())].clone()


@_pack.register_fake
def _(x: Tensor, lengths: Tensor) -> Tensor:
    steps = torch.library.get_ctx().new_dynamic_size(min=1)
    torch._check(steps <= x.shape[0])
    return x.new_empty(steps, *x.shape[1:])


@torch.library.custom_op(f"{NAMESPACE}::pad", mutates_args=())
def _pad(y: Tensor, lengths: Tensor, value: float, total: int) -> Tensor:
    """Y (steps, batch, ...) -> (total, batch, ...) with `value` past each row's end."""
    padded = y.new_full((total, *y.shape[1:]), value)
    padded[: y.shape[0]] = y
    past = torch.arange(total).unsqueeze(1) >= lengths.unsqueeze(0)
    return padded.masked_fill_(past.reshape(past.shape + (1,) * (y.dim() - 2)), value)


@_pad.register_fake
def _(y: Tensor, lengths: Tensor, value: float, total: int) -> Tensor:
    return y.new_empty(total, *y.shape[1:])


lstm = torch.ops.rnn_export.lstm.default
pack = torch.ops.rnn_export.pack.default
pad = torch.ops.rnn_export.pad.default

RECURRENT = {rnn_tanh: "rnn_tanh", rnn_relu: "rnn_relu", gru: "gru", lstm: "lstm"}
"""The leaves that hold a recurrent layer, and their names."""
