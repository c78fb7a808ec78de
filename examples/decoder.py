"""An attention decoder in two parts, an encoder and one step, each a bundle, and the loop that runs them.

python examples/decoder.py [build]
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import rnn_export
import rnn_runtime

WORDS, BEGIN, END = 20, 0, 1


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru = nn.Embedding(WORDS, 12), nn.GRU(12, 16, batch_first=True, bidirectional=True)

    def forward(self, source):  # (batch, text)
        return self.gru(self.embedding(source))[0]


class Step(nn.Module):
    """The scores of the next word, from the word before, the encoder's memory and the state."""

    def __init__(self):
        super().__init__()
        self.embedding, self.cell, self.query = nn.Embedding(WORDS, 12), nn.GRUCell(44, 24), nn.Linear(24, 32)
        self.words = nn.Linear(24, WORDS)

    def forward(self, word, memory, h):  # (batch,), (batch, text, 32), (batch, 24)
        weights = torch.softmax((memory @ self.query(h).unsqueeze(-1)).squeeze(-1), 1)
        context = (weights.unsqueeze(1) @ memory).squeeze(1)
        h = self.cell(torch.cat([self.embedding(word), context], 1), h)
        return self.words(h), h


torch.manual_seed(0)
encoder, step = Encoder().eval(), Step().eval()
source = torch.randint(2, WORDS, (3, 7))
example = (torch.full((3,), BEGIN), encoder(source).detach(), torch.zeros(3, 24))
axes = {"word": {0: "batch"}, "memory": {0: "batch", 1: "text"}}
build = Path(sys.argv[1] if len(sys.argv) > 1 else "build")
options = {"formats": ["onnx"], "overwrite": True}
names = {"output_names": ["scores", "h_n"], "state": {"h": "h_n"}}
rnn_export.export(encoder, source, build / "encoder", axes={"source": {0: "batch", 1: "text"}}, **options)
rnn_export.export(step, example, build / "step", axes=axes, **names, **options)

# From here on no PyTorch is needed.
memory = rnn_runtime.load(build / "encoder").run(np.array([[5, 9, 4, 4, 17], [3, 2, 8, 11, 6]]))["output"]
stream = rnn_runtime.load(build / "step").stream(batch=2)
start = {"word": np.array([BEGIN, BEGIN]), "memory": memory}
for words in stream.greedy(start, end=END, most=12, back=("word", "scores")):
    print(*words)
