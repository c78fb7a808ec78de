"""WRONG: in a stream of chunks (1, 5, 31, 64, 7): result 0 is off by 0.73 at values up to 1, eager float32 by"""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)

    def forward(self, x):
        x = F.pad(x, (0, 0, 24, 0))[:, :-24]
        x, h_n = self.rnn(x)
        return x


SEED = 7
INPUTS = {'x': ('float', 'batch', 'time', 4)}
EXAMPLE = {'batch': 2, 'time': 7, 'source': 9}
EXPORT = {'state': 'lift', 'axes': {'x': {0: 'batch', 1: 'time'}}}
NEAR = {'time': [24]}
CALLS = 1
VALUES = ('normal', 'zeros', 'loud', 'huge', 'tiny', 'negative', 'equal', 'offset', 'ties')
