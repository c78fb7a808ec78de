"""Two soaks, too long for the tests: make soak

1. 64 threads on one pool for a minute, each on streams of its own that open, push, reset and close: every result is
   compared with the same sequence run alone.
2. 1,000,000 pushes of a stream: the resident memory grows by less than 5 MB.

Each prints its figures, and the exit code is 1 where one fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

import rnn_runtime

FIXTURES = Path(__file__).parent.parent / "runtime" / "fixtures"
THREADS = 64
ALLOWED = 1e-6  # the vanilla RNN operator's, over batch sizes; the LSTM's is 0


def chunk_of(name: str, random: np.random.Generator) -> object:
    """The next chunk of one stream: mostly one step, now and then up to eight."""
    steps = 1 if random.random() < 0.7 else int(random.integers(2, 9))
    if name == "words":
        return {"ids": random.integers(0, 5, (1, steps)), "gain": random.standard_normal(1).astype(np.float32)}
    return random.standard_normal((steps, 1, 4)).astype(np.float32)


class Client(threading.Thread):
    """Streams of its own, one after another; what they gave is compared when each ends."""

    def __init__(self, pool: rnn_runtime.StreamPool, model: rnn_runtime.Model, name: str, seed: int, until: float):
        super().__init__()
        self._pool, self._model, self._name_of, self._until = pool, model, name, until
        self._random = np.random.default_rng(seed)
        self.pushes = self.sequences = self.mixed = 0
        self.error, self.failure = 0.0, ""

    def run(self) -> None:
        try:
            while time.monotonic() < self._until:
                self._sequence()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _sequence(self) -> None:
        chunks, results = [], []
        with self._pool.open() as stream:
            for _ in range(int(self._random.integers(1, 40))):
                if self._random.random() < 0.05:
                    stream.reset()
                    self._compare(chunks, results)
                    chunks, results = [], []
                chunks.append(chunk_of(self._name_of, self._random))
                results.append(stream.push(chunks[-1]))
        self._compare(chunks, results)

    def _compare(self, chunks: list[object], results: list[rnn_runtime.Result]) -> None:
        state = None
        for chunk, got in zip(chunks, results, strict=True):
            want = self._model.run(chunk, state=state)
            state = want.state
            for name, array in want.items():
                error = float(np.abs(got[name] - array).max()) if got[name].shape == array.shape else float("inf")
                self.error = max(self.error, error)
                self.mixed += error > ALLOWED
        self.pushes += len(chunks)
        self.sequences += 1


def threads(name: str, seconds: float) -> bool:
    model = rnn_runtime.load(FIXTURES / f"{name}.onnx", threads=1)
    with rnn_runtime.StreamPool(model, THREADS, max_wait_ms=2) as pool:
        until = time.monotonic() + seconds
        clients = [Client(pool, model, name, seed, until) for seed in range(THREADS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(seconds + 60)
        seen = pool.metrics()
    hanging = sum(client.is_alive() for client in clients)
    failures = [client.failure for client in clients if client.failure]
    pushes, mixed = sum(client.pushes for client in clients), sum(client.mixed for client in clients)
    print(
        f"{name}: {THREADS} threads, {seconds:g} s, {pushes} pushes in {sum(c.sequences for c in clients)} sequences, "
        f"mean batch {seen.batch_size.mean:.1f}, largest error {max(c.error for c in clients):.1e}, mixed up {mixed}, "
        f"hanging {hanging}, failures {failures or 'none'}",
        flush=True,
    )
    return pushes > 0 and not (mixed or hanging or failures)


def resident() -> int:
    """Bytes of this process that lie in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(pushes: int, limit: float = 5e6) -> bool:
    model = rnn_runtime.load(FIXTURES / "rnn.onnx", threads=1)
    stream, random = model.stream(), np.random.default_rng(0)
    chunks = [random.standard_normal((steps, 1, 4)).astype(np.float32) for steps in (1, 1, 1, 2, 5)]
    for k in range(10_000):  # what is allocated once is there now
        stream.push(chunks[k % 5])
    before, start = resident(), time.monotonic()
    for k in range(pushes):
        stream.push(chunks[k % 5])
    grown = resident() - before
    print(
        f"{pushes} pushes in {time.monotonic() - start:.1f} s: resident memory grew by {grown / 1e6:.2f} MB", flush=True
    )
    return grown < limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of the threads, for each model")
    parser.add_argument("--pushes", type=int, default=1_000_000)
    parser.add_argument("--models", nargs="*", default=["rnn", "packed", "words"])
    options = parser.parse_args()
    passed = [threads(name, options.seconds) for name in options.models]
    passed.append(memory(options.pushes))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
