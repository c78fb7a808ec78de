"""Microphones in asyncio: each delivers a block of samples now and then, and each has a stream in one StreamPool.

rnn-export export gru -o build/gru
python examples/microphone.py [build/gru]
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import numpy as np

import rnn_runtime

SAMPLES = 8  # of one step of the model
BLOCK_SECONDS = 0.01


async def microphone(seed: int, seconds: float) -> AsyncIterator[np.ndarray]:
    """Stands for a sound device: blocks of float32 samples, of no even length, at the pace of real time."""
    random = np.random.default_rng(seed)
    for _ in range(round(seconds / BLOCK_SECONDS)):
        await asyncio.sleep(BLOCK_SECONDS)
        yield random.standard_normal(random.integers(10, 40)).astype(np.float32)


async def listen(pool: rnn_runtime.StreamPool, seed: int) -> float:
    """Push what has come in whole steps, and keep the rest for the next time; gives the loudest answer."""
    loudest, rest = 0.0, np.empty(0, np.float32)
    with pool.open() as stream:
        async for block in microphone(seed, seconds=0.3):
            samples = np.concatenate([rest, block])
            steps = len(samples) // SAMPLES
            rest = samples[steps * SAMPLES :]
            if steps:
                result = await stream.push_async(samples[: steps * SAMPLES].reshape(steps, 1, SAMPLES))
                loudest = max(loudest, float(np.abs(result["output"]).max()))
    return loudest


async def main() -> None:
    model = rnn_runtime.load(sys.argv[1] if len(sys.argv) > 1 else "build/gru", threads=1)
    with rnn_runtime.StreamPool(model, capacity=4, max_wait_ms=2) as pool:
        for seed, loudest in enumerate(await asyncio.gather(*(listen(pool, seed) for seed in range(4)))):
            print(f"microphone {seed}: {loudest:.4f}")


if __name__ == "__main__":
    asyncio.run(main())
