"""A sequence tagger: a bidirectional LSTM over packed sequences of unequal lengths."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_models._seed import seeded

VOCABULARY = 50
TAGS = 9


class Tagger(nn.Module):
    """A tag for each token of a sentence: embedding, bidirectional two-layer LSTM, linear.

    Stands for named-entity and part-of-speech taggers, whose sentences are padded to one length and packed, so that the
    backward direction begins at each sentence's own last token.
    """

    def __init__(
        self, vocabulary: int = VOCABULARY, embedding_dim: int = 12, hidden_size: int = 16, tags: int = TAGS
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_size, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden_size, tags)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Score the tags of each token.

        Args:
            ids: token ids, int64, (batch, sequence), in [0, vocabulary); those past a sentence's length change nothing.
            lengths: tokens in each sentence, int64, (batch,), in [1, sequence] and in any order; on the CPU, as PyTorch
                asks.

        Returns:
            Logits, float32, (batch, max(lengths), tags). Past a sentence's length they are the linear layer's bias.
        """
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        logits: torch.Tensor = self.linear(hidden)
        return logits


@seeded(0)
def tagger() -> Tagger:
    """A tagger of sentences of unequal length: bidirectional two-layer LSTM over packed sequences.

    Takes ids (batch, sequence) and lengths (batch,), int64; gives logits (batch, max(lengths), 9), float32.
    """
    return Tagger().eval()


@seeded(1)
def tagger_example() -> dict[str, torch.Tensor]:
    """Three sentences, out of order by length: ids int64 (3, 7), lengths int64 (3,)."""
    return {"ids": torch.randint(VOCABULARY, (3, 7)), "lengths": torch.tensor([4, 7, 2])}
