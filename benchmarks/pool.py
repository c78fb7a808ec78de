"""StreamPool against streams of their own: 32 LSTM streams, one step at a time, ONNX Runtime on one thread.

    python benchmarks/pool.py [--hidden 512] [--streams 32] [--max-wait 5] [--rounds 15]
    python benchmarks/pool.py --hidden 256 --open 10000     what open streams take of memory, and steps of 64 at a time

Each peer is a process of its own, which sleeps while another has its turn; a round gives each one turn of about
`--seconds`. A ratio is taken within a round, against the separate streams of the same round; shown are the median over
the rounds and, in brackets, the smallest and the largest. Before anything is timed each stream has to hold the state
that one run over the whole sequence leaves. Every peer's clients push their next step when they have the result of the
last, so a step per second is one of one stream.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _rounds import machine

import rnn_runtime

Steps = Callable[[int], None]


def separate(streams: list[rnn_runtime.Stream], chunks: list[np.ndarray]) -> Steps:
    def run(steps: int) -> None:
        for _ in range(steps):
            for stream, chunk in zip(streams, chunks, strict=True):
                stream.push(chunk)

    return run


def plain_loop(streams: list[rnn_runtime.PoolStream], chunks: list[np.ndarray]) -> Steps:
    def run(steps: int) -> None:
        for _ in range(steps):
            futures = [stream.submit(chunk) for stream, chunk in zip(streams, chunks, strict=True)]
            for future in futures:
                future.result()

    return run


def tasks(streams: list[rnn_runtime.PoolStream], chunks: list[np.ndarray]) -> Steps:
    async def client(stream: rnn_runtime.PoolStream, chunk: np.ndarray, steps: int) -> None:
        for _ in range(steps):
            await stream.push_async(chunk)

    async def clients(steps: int) -> None:
        await asyncio.gather(*(client(s, c, steps) for s, c in zip(streams, chunks, strict=True)))

    runner = asyncio.Runner()
    return lambda steps: runner.run(clients(steps))


def threads(streams: list[rnn_runtime.PoolStream], chunks: list[np.ndarray]) -> Steps:
    def client(stream: rnn_runtime.PoolStream, chunk: np.ndarray, steps: int) -> None:
        for _ in range(steps):
            stream.push(chunk)

    def run(steps: int) -> None:
        clients = [threading.Thread(target=client, args=(s, c, steps)) for s, c in zip(streams, chunks, strict=True)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()

    return run


BASE = "separate streams, one loop"
PEERS = {"pool, asyncio tasks": tasks, "pool, one loop with submit": plain_loop, "pool, a thread for each": threads}


def peer(name: str, folder: str, count: int, hidden: int, max_wait: float) -> None:
    """Runs as many steps as a line of the input says, and answers with the seconds and the pool's waits."""
    model = rnn_runtime.load(folder, threads=1)
    random = np.random.default_rng(0)
    chunks = [random.standard_normal((1, 1, hidden)).astype(np.float32) for _ in range(count)]
    pool = None
    if name == BASE:
        streams = [model.stream() for _ in range(count)]
        run = separate(streams, chunks)
    else:
        pool = rnn_runtime.StreamPool(model, count, max_wait_ms=max_wait)
        streams = [pool.open() for _ in range(count)]
        run = PEERS[name](streams, chunks)
    run(20)
    for stream, chunk in zip(streams, chunks, strict=True):
        for state, whole in model.run(chunk.repeat(20, axis=0)).state.items():
            np.testing.assert_allclose(stream.state[state], whole, rtol=0, atol=1e-6)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - start
        seen = pool.metrics() if pool else None
        waits = {"p99": seen.queue_ms.p99, "batch": seen.batch_size.mean, "step": seen.step_ms.p50} if seen else {}
        print(json.dumps({"seconds": seconds} | waits), flush=True)


def open_many(folder: str, count: int, hidden: int, rounds: int) -> None:
    """Resident memory that open streams take, each with a state; and steps per second where 64 of them push at a time."""

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    model, chunk = rnn_runtime.load(folder, threads=1), np.ones((1, 1, hidden), np.float32)
    groups = [range(k, min(k + 64, count)) for k in range(0, count, 64)]

    def step(streams: list[rnn_runtime.PoolStream], group: range) -> None:
        for future in [streams[k].submit(chunk) for k in group]:
            future.result()

    with rnn_runtime.StreamPool(model, 64, max_wait_ms=0) as small:  # what a first batch takes once is no stream's
        step([small.open() for _ in range(64)], groups[0])
    before = resident()
    pool = rnn_runtime.StreamPool(model, count, max_wait_ms=1e3, max_batch=64)
    streams, times = [pool.open() for _ in range(count)], []
    for _ in range(rounds):
        for group in groups:
            start = time.perf_counter()
            step(streams, group)
            times.append((time.perf_counter() - start) / len(group))
    bytes_each = (resident() - before) / count
    state = sum(array.nbytes for array in streams[0].state.values())
    pool.close()
    print(f"\n{machine()}\n")
    print(
        f"LSTM, hidden {hidden}: {count:,} open streams take {bytes_each * count / 2**20:.0f} MiB, "
        f"{bytes_each / 1024:.1f} KiB each, of which {state / 1024:g} KiB are its state; a step of 64 of them takes "
        f"{statistics.median(times) * 64e3:.2f} ms, {1 / statistics.median(times):,.0f} steps per second on one core"
    )


def export(folder: str, hidden: int) -> None:
    import torch

    import rnn_export

    torch.manual_seed(0)
    rnn_export.export(torch.nn.LSTM(hidden, hidden), torch.randn(3, 2, hidden), folder, formats=("onnx",))


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def measure(hidden: int, count: int, max_wait: float, rounds: int, seconds: float) -> None:
    me = [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as parent:
        folder = str(Path(parent) / "lstm")
        subprocess.run([*me, "--export", folder, "--hidden", str(hidden)], check=True)
        common = ["--folder", folder, "--hidden", str(hidden), "--streams", str(count), "--max-wait", str(max_wait)]
        running = {
            name: subprocess.Popen(
                [*me, "--peer", name, *common], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for name in (BASE, *PEERS)
        }

        def turn(name: str, steps: int) -> dict[str, float]:
            one = running[name]
            print(steps, file=one.stdin, flush=True)
            return json.loads(one.stdout.readline())

        steps = {name: max(20, int(seconds / (turn(name, 50)["seconds"] / 50))) for name in running}
        turns = [{name: turn(name, steps[name]) for name in running} for _ in range(rounds)]
        for one in running.values():
            one.stdin.close()
            one.wait()

    def rate(found: dict[str, dict[str, float]], name: str) -> float:
        return steps[name] * count / found[name]["seconds"]

    print(f"\n{machine()}\n")
    print(f"LSTM, hidden {hidden}: {count} streams, one thread, max_wait_ms={max_wait:g}, {rounds} rounds\n")
    print("| who | steps per second | ratio | mean batch | one batch, ms | p99 of the wait, ms |")
    print("|---|---|---|---|---|---|")
    for name in running:
        rates = spread([rate(found, name) for found in turns], ",.0f")
        ratio = spread([rate(found, name) / rate(found, BASE) for found in turns], ".2f")
        rest = "| - | - | - |"
        if name != BASE:
            batch, step, p99 = ([found[name][key] for found in turns] for key in ("batch", "step", "p99"))
            rest = f"| {statistics.median(batch):.1f} | {statistics.median(step):.2f} | {spread(p99, '.2f')} |"
        print(f"| {name} | {rates} | {ratio} {rest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[512])
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--max-wait", type=float, default=5.0, help="milliseconds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one turn")
    parser.add_argument("--open", type=int, metavar="N", help="measure the memory of N open streams instead")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        export(options.export, options.hidden[0])
    elif options.open and options.folder:
        open_many(options.folder, options.open, options.hidden[0], options.rounds)
    elif options.open:
        with tempfile.TemporaryDirectory() as folder:
            for hidden in options.hidden:
                common = [sys.executable, __file__, "--hidden", str(hidden)]
                bundle = f"{folder}/{hidden}"
                subprocess.run([*common, "--export", bundle], check=True)
                subprocess.run([*common, "--open", str(options.open), "--folder", bundle], check=True)
    elif options.peer:
        peer(options.peer, options.folder, options.streams, options.hidden[0], options.max_wait)
    else:
        for hidden in options.hidden:
            measure(hidden, options.streams, options.max_wait, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
