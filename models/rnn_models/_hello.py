"""The seeded RNN over the letters h, e, l and o: the first thing to export."""

import torch
from torch import nn

from rnn_models._seed import seeded

LETTERS = "helo"
WORDS = ("hello", "eolll", "lleel")


@seeded(0)
def hello() -> nn.RNN:
    """The seeded RNN: `torch.nn.RNN(4, 2)` after `torch.manual_seed(0)`, time-major as PyTorch makes it.

    The course material behind it speaks of 3 words of 5 letters, and feeds them as an array of shape (3, 5, 4). A
    time-major RNN reads that array as 5 words of 3 letters: its recurrence runs over the first axis, so that "hello",
    "eolll" and "lleel" are three time steps, and the letters of one word are five separate sequences at the same step.
    The numbers are well defined all the same, and are what this model is checked against; `hello_batch_first` is the
    reading that the words suggest.

    Takes (sequence, batch, 4) and h_0 (1, batch, 2), gives (sequence, batch, 2) and h_n (1, batch, 2), all float32.
    """
    return nn.RNN(4, 2).eval()


@seeded(0)
def hello_batch_first() -> nn.RNN:
    """The seeded RNN reading batch first: 3 words of 5 letters each, with the very weights of `hello`.

    Takes (batch, sequence, 4) and h_0 (1, batch, 2), gives (batch, sequence, 2) and h_n (1, batch, 2), all float32.
    """
    return nn.RNN(4, 2, batch_first=True).eval()


def hello_input() -> torch.Tensor:
    """The words "hello", "eolll" and "lleel" as one-hot letters: h is [1, 0, 0, 0], then e, l, and o is [0, 0, 0, 1].

    Returns:
        float32 of shape (3, 5, 4), on the CPU: word, letter, one-hot.
    """
    indices = torch.tensor([[LETTERS.index(letter) for letter in word] for word in WORDS], device="cpu")
    return nn.functional.one_hot(indices, len(LETTERS)).to(torch.float32)
