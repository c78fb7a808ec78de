"""A plain loop over one stream: a character model writes on, one character at a time.

rnn-export export charlm -o build/charlm
python examples/loop.py [build/charlm]
"""

import sys

import numpy as np

import rnn_runtime

CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,!?'"

model = rnn_runtime.load(sys.argv[1] if len(sys.argv) > 1 else "build/charlm", threads=1)
stream = model.stream()

text = "hello"
ids = np.array([[CHARACTERS.index(character) for character in text]])
for _ in range(40):
    logits = stream.push(ids)["logits"]  # the prompt at first, then what came of it; the stream keeps the state
    ids = logits[:, -1:].argmax(-1)
    text += CHARACTERS[ids.item()]
print(text)
