"""WRONG: at batch 1, time 301: result 0 has shape (1, 301, 3) instead of (1, 300, 3) (ONNX Runtime)"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    max_len: int = 300


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.cfg = Config()
        self.into = nn.Linear(4, 3)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 3)
        out = []
        for t in range(min(x.size(1), self.cfg.max_len)):
            h = 0.9 * h + 0.1 * self.into(x[:, t])
            out.append(h)
        x = torch.stack(out, 1)
        return x


SEED = 5
INPUTS = {'x': ('float', 'batch', 'time', 4)}
EXAMPLE = {'batch': 2, 'time': 7, 'source': 9}
EXPORT = {'state': 'auto', 'axes': {'x': {0: 'batch', 1: 'time'}}}
NEAR = {'time': [300]}
CALLS = 1
VALUES = ('normal', 'zeros', 'loud', 'huge', 'tiny', 'negative', 'equal', 'offset', 'ties')
