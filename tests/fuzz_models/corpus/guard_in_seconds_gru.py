"""WRONG: at batch 2, time 150: result 0 is off by 0.64 at values up to 1, eager float32 by 1e-07 (ONNX Runtim"""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)

    def forward(self, x):
        if x.size(1) * 0.02 >= 150 * 0.02:
            x = x * 0.5
        x, h_n = self.rnn(x)
        return x


SEED = 1
INPUTS = {'x': ('float', 'batch', 'time', 4)}
EXAMPLE = {'batch': 2, 'time': 7, 'source': 9}
EXPORT = {'state': 'auto', 'axes': {'x': {0: 'batch', 1: 'time'}}}
NEAR = {'time': [150]}
CALLS = 1
VALUES = ('normal', 'zeros', 'loud', 'huge', 'tiny', 'negative', 'equal', 'offset', 'ties')
