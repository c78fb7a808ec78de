"""The fused operators against the Scan, one thread: python benchmarks/lowerings.py

A layer with input = hidden, written both ways. The rule of lowering="auto" is read off this table.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from _rounds import machine

import rnn_export

SIZES = ((1, 1), (10, 1), (100, 1), (1, 16), (50, 16), (20, 64))
FOLDER = Path("build/benchmarks/lowerings")


def session(path: Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path / "model.onnx", options, providers=["CPUExecutionProvider"])


def seconds(run, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="*", default=["RNN", "LSTM", "GRU"])
    parser.add_argument("--hidden", nargs="*", type=int, default=[16, 32, 64, 128, 256, 512, 1024])
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(machine())
    print("\nTime of the Scan over the operator's, at (sequence, batch).\n")
    print("| cell | hidden | " + " | ".join(map(str, SIZES)) + " |\n|---|---|" + "---|" * len(SIZES))
    for cell in chosen.cells:
        for hidden in chosen.hidden:
            model = getattr(torch.nn, cell)(hidden, hidden)
            sessions = {}
            for lowering in ("fused", "scan"):
                path = FOLDER / f"{cell}-{hidden}-{lowering}"
                options = {"formats": ("onnx",), "lowering": lowering, "overwrite": True}
                rnn_export.export(model, torch.randn(5, 3, hidden), path, **options)
                sessions[lowering] = session(path)
            ratios = [f"{ratio(sessions, hidden, *sizes):.2f}" for sizes in SIZES]
            print(f"| {cell} | {hidden} | " + " | ".join(ratios) + " |", flush=True)


def ratio(sessions, hidden: int, sequence: int, batch: int) -> float:
    feeds = {
        node.name: np.random.default_rng(0).standard_normal(
            (sequence if node.name == "input" else 1, batch, hidden), np.float32
        )
        for node in sessions["fused"].get_inputs()
    }
    runs = {name: lambda s=s: s.run(None, feeds) for name, s in sessions.items()}
    for run in runs.values():
        run()
    count = max(2, min(500, int(0.03 / seconds(runs["fused"], 1))))
    found = {name: [] for name in runs}
    for _ in range(7):
        for name, run in runs.items():
            found[name].append(seconds(run, count))
    return statistics.median(found["scan"]) / statistics.median(found["fused"])


if __name__ == "__main__":
    main()
