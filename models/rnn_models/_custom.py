"""Recurrences that PyTorch has no layer for, each with a step of its own under `rnn_export.scan`.

These are models as a user of the exporter writes them, so they import it, when they are called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnn_models._seed import seeded

FEATURES = 5
HIDDEN = 6
SYMBOLS = 4

State = tuple[Tensor, Tensor]


class LayerNormLSTM(nn.Module):
    """An LSTM whose hidden state is normalised after every step (after Ba, Kiros and Hinton, arXiv 1607.06450)."""

    def __init__(self, input_size: int = FEATURES, hidden_size: int = HIDDEN) -> None:
        super().__init__()
        self.cell, self.norm = nn.LSTMCell(input_size, hidden_size), nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run over x, float32, (batch, sequence, input_size), from states (batch, hidden_size).

        Returns:
            Hidden states (batch, sequence, hidden_size), and the last h and c.
        """
        from rnn_export import scan

        (h, c), y = scan(self._step, (h, c), x.transpose(0, 1))
        return y.transpose(0, 1), h, c

    def _step(self, state: State, x: Tensor) -> tuple[State, Tensor]:
        h, c = self.cell(x, state)
        h = self.norm(h)
        return (h, c), h


class PeepholeLSTM(nn.Module):
    """An LSTM whose gates see the cell (Gers and Schmidhuber, 2000): input and forget the old one, output the new."""

    def __init__(self, input_size: int = FEATURES, hidden_size: int = HIDDEN) -> None:
        super().__init__()
        self.inward, self.back = nn.Linear(input_size, 4 * hidden_size), nn.Linear(hidden_size, 4 * hidden_size)
        self.peep = nn.Parameter(torch.empty(3, hidden_size).uniform_(-0.5, 0.5))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run over x, float32, (batch, sequence, input_size), from states (batch, hidden_size).

        Returns:
            Hidden states (batch, sequence, hidden_size), and the last h and c.
        """
        from rnn_export import scan

        # The product with the input needs no state: once for the whole sequence, and not in every step.
        (h, c), y = scan(self._step, (h, c), self.inward(x).transpose(0, 1))
        return y.transpose(0, 1), h, c

    def _step(self, state: State, x: Tensor) -> tuple[State, Tensor]:
        h, c = state
        i, f, g, o = (x + self.back(h)).chunk(4, -1)
        c = torch.sigmoid(f + self.peep[0] * c) * c + torch.sigmoid(i + self.peep[1] * c) * torch.tanh(g)
        h = torch.sigmoid(o + self.peep[2] * c) * torch.tanh(c)
        return (h, c), h


class MinGRU(nn.Module):
    """The minimal GRU of Feng and others (arXiv 2410.01201): gate and candidate depend on the input alone."""

    def __init__(self, input_size: int = FEATURES, hidden_size: int = HIDDEN) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(input_size, hidden_size), nn.Linear(input_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run over x, float32, (batch, sequence, input_size), from h (batch, hidden_size).

        Returns:
            Hidden states (batch, sequence, hidden_size), and the last one.
        """
        from rnn_export import scan

        x = x.transpose(0, 1)
        h, y = scan(_mix, h, (torch.sigmoid(self.gate(x)), self.candidate(x)))
        return y.transpose(0, 1), h


def _mix(h: Tensor, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    z, candidate = x
    h = (1 - z) * h + z * candidate
    return h, h


class AttentionDecoder(nn.Module):
    """A GRU decoder that looks at an encoder's outputs in every step (after Luong and others, arXiv 1508.04025)."""

    def __init__(self, input_size: int = FEATURES, hidden_size: int = HIDDEN, symbols: int = SYMBOLS) -> None:
        super().__init__()
        self.encoder = nn.GRU(input_size, hidden_size, batch_first=True)
        self.cell, self.linear = nn.GRUCell(symbols + hidden_size, hidden_size), nn.Linear(hidden_size, symbols)

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Decode with the right symbols given, one step late, as in training.

        Args:
            source: float32, (batch, source, input_size).
            target: float32, (batch, target, symbols): the symbol before each step, one-hot.

        Returns:
            Logits (batch, target, symbols), and what each step looked at, (batch, target, source).
        """
        from rnn_export import scan

        memory, h = self.encoder(source)

        def step(h: Tensor, symbol: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            weights = torch.softmax((memory @ h.unsqueeze(-1)).squeeze(-1), -1)
            context = (weights.unsqueeze(1) @ memory).squeeze(1)
            h = self.cell(torch.cat([symbol, context], -1), h)
            return h, (self.linear(h), weights)

        _, (logits, weights) = scan(step, h[0], target.transpose(0, 1))
        return logits.transpose(0, 1), weights.transpose(0, 1)


@seeded(0)
def layer_norm_lstm() -> LayerNormLSTM:
    """An LSTM with layer normalisation in each step; takes and returns its state."""
    return LayerNormLSTM().eval()


@seeded(0)
def peephole_lstm() -> PeepholeLSTM:
    """An LSTM with peephole connections; takes and returns its state."""
    return PeepholeLSTM().eval()


@seeded(0)
def min_gru() -> MinGRU:
    """A minimal GRU, whose gate sees the input alone; takes and returns its state."""
    return MinGRU().eval()


@seeded(0)
def attention_decoder() -> AttentionDecoder:
    """A GRU decoder with attention over an encoder's outputs: two sequence axes."""
    return AttentionDecoder().eval()


@seeded(1)
def lstm_example() -> dict[str, Tensor]:
    """X float32 (2, 7, 5), and zero states h and c (2, 6)."""
    return {"x": torch.randn(2, 7, FEATURES), "h": torch.zeros(2, HIDDEN), "c": torch.zeros(2, HIDDEN)}


@seeded(1)
def gru_example() -> dict[str, Tensor]:
    """X float32 (2, 7, 5), and a zero state h (2, 6)."""
    return {"x": torch.randn(2, 7, FEATURES), "h": torch.zeros(2, HIDDEN)}


@seeded(1)
def decoder_example() -> dict[str, Tensor]:
    """Source float32 (2, 7, 5), target one-hot (2, 9, 4)."""
    symbols = torch.randint(SYMBOLS, (2, 9))
    return {"source": torch.randn(2, 7, FEATURES), "target": nn.functional.one_hot(symbols, SYMBOLS).float()}
