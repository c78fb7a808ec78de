"""A keyword spotter: a GRU over frames of audio features, and scores for each frame."""

from torch import nn


class Spotter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(10, 16, batch_first=True)
        self.scores = nn.Linear(16, 3)

    def forward(self, frames):  # (batch, time, 10)
        return self.scores(self.gru(frames)[0])
