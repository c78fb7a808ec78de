"""The fused operators against the Scan, one thread: python benchmarks/lowerings.py

A layer with input = hidden, written both ways. The rule of lowering="auto" is read off this table.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _rounds import machine, medians, session

import rnn_export

SIZES = ((1, 1), (10, 1), (100, 1), (1, 16), (50, 16), (20, 64))
FOLDER = Path("build/benchmarks/lowerings")


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
                sessions[lowering] = session(path / "model.onnx")
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
    found = medians(runs)
    return found["scan"] / found["fused"]


if __name__ == "__main__":
    main()
