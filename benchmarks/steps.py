"""One step of a stream at batch 1, one thread: python benchmarks/steps.py

The graph for single steps against the graph for sequences, where a bundle has both, each through Stream.push. With it
the RNN operator in place of either, and what a bundle weighs.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import torch
from _rounds import machine, seconds
from torch import nn

import rnn_export
import rnn_models
import rnn_runtime

FOLDER = Path("build/benchmarks/steps")


def cases() -> dict[str, dict]:
    """What to export: models of which a layer is a Scan."""
    plain = {
        **{f"RNN {hidden}": nn.RNN(hidden, hidden) for hidden in (64, 128, 256, 512)},
        "LSTM 128, proj_size 64": nn.LSTM(128, 128, proj_size=64),
        "LSTM 64, float64": nn.LSTM(64, 64).double(),
        "GRU 64, float64": nn.GRU(64, 64).double(),
    }
    found = {}
    for name, model in plain.items():
        like = next(model.parameters())
        found[name] = {"model": model, "example_inputs": torch.randn(5, 3, model.input_size, dtype=like.dtype)}
    for name in ("layer-norm-lstm", "peephole-lstm", "min-gru"):
        found[name] = rnn_models.get(name).export_arguments()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(machine())
    print("\n| model | sequence graph, µs | step graph, µs | ÷ | fused, µs | model.onnx, KB | step.onnx, KB |")
    print("|---|---|---|---|---|---|---|")
    for name, arguments in cases().items():
        if not chosen.cases or name in chosen.cases:
            print(row(name, arguments, chosen.rounds), flush=True)


def row(name: str, arguments: dict, rounds: int) -> str:
    path = FOLDER / name.replace(" ", "-").replace(",", "")
    rnn_export.export(path=path, **{**arguments, "formats": ("onnx",), "overwrite": True})
    without = path.with_name(f"{path.name}-sequence")
    shutil.rmtree(without, ignore_errors=True)
    shutil.copytree(path, without)
    manifest = json.loads((without / "manifest.json").read_text())
    del manifest["step"]
    (without / "manifest.json").write_text(json.dumps(manifest))
    bundles = {"sequence": without, "step": path}
    if name.startswith("RNN"):
        bundles["fused"] = path.with_name(f"{path.name}-fused")
        options = {"formats": ("onnx",), "lowering": "fused", "overwrite": True}
        rnn_export.export(path=bundles["fused"], **{**arguments, **options})
    pushes = {kind: push(bundle) for kind, bundle in bundles.items()}
    times = {kind: [] for kind in pushes}
    for _ in range(rounds):
        for kind, run in pushes.items():
            times[kind].append(seconds(run, 400))
    micro = {kind: f"{statistics.median(found) * 1e6:.1f}" for kind, found in times.items()}
    ratios = [a / b for a, b in zip(times["step"], times["sequence"], strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    sizes = [f"{(path / file).stat().st_size / 1e3:.1f}" for file in ("model.onnx", "step.onnx")]
    return f"| {' | '.join([name, micro['sequence'], micro['step'], ratio, micro.get('fused', '-'), *sizes])} |"


def push(bundle: Path):
    """A function that pushes one step, warm."""
    model = rnn_runtime.load(bundle, threads=1)
    (spec,) = model.signature.data_inputs
    chunk = np.ones([1 if isinstance(axis, str) else axis for axis in spec.axes], spec.dtype)
    stream = model.stream()
    for _ in range(50):
        stream.push(chunk)
    return lambda: stream.push(chunk)


if __name__ == "__main__":
    main()
