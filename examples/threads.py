"""A pool of threads over one StreamPool: requests for text, each written in a stream of its own, run as one batch.

rnn-export export charlm -o build/charlm
python examples/threads.py [build/charlm]
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import rnn_runtime

CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,!?'"
WORKERS = 8


def answer(pool: rnn_runtime.StreamPool, prompt: str) -> str:
    """What a worker does with one request; any number of workers may do it at once."""
    text = prompt
    ids = np.array([[CHARACTERS.index(character) for character in text]])
    with pool.open() as stream:
        for _ in range(40):
            logits = stream.push(ids)["logits"]
            ids = logits[:, -1:].argmax(-1)
            text += CHARACTERS[ids.item()]
    return text


def main() -> None:
    model = rnn_runtime.load(sys.argv[1] if len(sys.argv) > 1 else "build/charlm", threads=1)
    prompts = ["hello", "good morning", "what", "is it", "no", "well, then", "who", "a", "the end", "hello"]
    with rnn_runtime.StreamPool(model, capacity=WORKERS) as pool, ThreadPoolExecutor(WORKERS) as workers:
        for text in workers.map(lambda prompt: answer(pool, prompt), prompts):
            print(text)
        seen = pool.metrics()
    print(f"{seen.chunks} pushes in {seen.batches} batches", file=sys.stderr)


if __name__ == "__main__":
    main()
