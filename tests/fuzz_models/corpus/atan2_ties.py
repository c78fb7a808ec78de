"""WRONG: at batch 3, time 17, ties values: result 0 is off by 1.7 at values up to 1, eager float32 by 1e-07 ("""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)

    def forward(self, x):
        x = torch.atan2(x, x.flip(-1))
        x, h_n = self.rnn(x)
        return x


SEED = 16
INPUTS = {'x': ('float', 'batch', 'time', 4)}
EXAMPLE = {'batch': 2, 'time': 7, 'source': 9}
EXPORT = {'state': 'auto', 'axes': {'x': {0: 'batch', 1: 'time'}}}
NEAR = {}
CALLS = 1
VALUES = ('normal', 'zeros', 'loud', 'huge', 'tiny', 'negative', 'equal', 'offset', 'ties')
