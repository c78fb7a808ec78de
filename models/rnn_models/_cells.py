"""The bare LSTM and GRU: one recurrent layer as PyTorch makes it, with nothing around it."""

import torch
from torch import nn

from rnn_models._seed import seeded


@seeded(0)
def lstm() -> nn.LSTM:
    """A bare `torch.nn.LSTM(8, 16)`: one layer, one direction, time-major.

    Takes (sequence, batch, 8) and the pair h_0, c_0, each (1, batch, 16); gives (sequence, batch, 16) and the pair
    h_n, c_n, each (1, batch, 16); all float32.
    """
    return nn.LSTM(8, 16).eval()


@seeded(1)
def lstm_input() -> torch.Tensor:
    """Noise for `lstm`: float32 of shape (sequence 6, batch 3, 8)."""
    return torch.randn(6, 3, 8)


@seeded(0)
def gru() -> nn.GRU:
    """A bare `torch.nn.GRU(8, 16)`: one layer, one direction, time-major.

    Takes (sequence, batch, 8) and h_0 (1, batch, 16), gives (sequence, batch, 16) and h_n (1, batch, 16), all float32.
    """
    return nn.GRU(8, 16).eval()


@seeded(1)
def gru_input() -> torch.Tensor:
    """Noise for `gru`: float32 of shape (sequence 7, batch 4, 8)."""
    return torch.randn(7, 4, 8)
