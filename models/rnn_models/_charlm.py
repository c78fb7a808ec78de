"""A character language model: a GRU that takes its state and hands it back."""

import torch
from torch import nn

from rnn_models._seed import seeded

CHARACTERS = 32
HIDDEN_SIZE = 20


class CharLM(nn.Module):
    """The next character from those before it: embedding, GRU, linear.

    Stands for models that generate: they are fed a prompt and then one character at a time, and their callers carry
    the state from call to call.
    """

    def __init__(self, characters: int = CHARACTERS, embedding_dim: int = 12, hidden_size: int = HIDDEN_SIZE) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding_dim)
        self.gru = nn.GRU(embedding_dim, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, characters)

    def forward(self, ids: torch.Tensor, h: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the character after each position, and hand back the state after the last.

        Args:
            ids: character ids, int64, (batch, sequence), in [0, characters).
            h: the state, float32, (1, batch, hidden_size); zeros when None.

        Returns:
            Logits, float32, (batch, sequence, characters), and the next state h_n, float32, (1, batch, hidden_size).
        """
        hidden, h_n = self.gru(self.embedding(ids), h)
        return self.linear(hidden), h_n


@seeded(0)
def charlm() -> CharLM:
    """A character language model whose state is an argument and a result: embedding, GRU, linear.

    Takes ids (batch, sequence), int64, and h (1, batch, 20), float32; gives logits (batch, sequence, 32) and h_n
    (1, batch, 20), float32.
    """
    return CharLM().eval()


@seeded(1)
def charlm_example() -> dict[str, torch.Tensor]:
    """Two texts from their beginning: ids int64 (2, 6), h float32 zeros (1, 2, 20)."""
    return {"ids": torch.randint(CHARACTERS, (2, 6)), "h": torch.zeros(1, 2, HIDDEN_SIZE, dtype=torch.float32)}
