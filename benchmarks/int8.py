"""Weights in 8 bits against float32, one thread: python benchmarks/int8.py

One layer with input = hidden. Time over the faster of our float32 graphs, and the signal-to-noise ratio against eager
float64. Sequences go through Model.run, single steps through a Stream.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _rounds import machine, medians, put, stale

import rnn_export
import rnn_runtime

SIZES = ((1, 1), (100, 1), (50, 16))
FOLDER = Path("build/benchmarks/int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="*", default=["RNN", "LSTM", "GRU"])
    parser.add_argument("--hidden", nargs="*", type=int, default=[256, 512, 1024, 1760])
    chosen = parser.parse_args()
    head = [f"{size}: float32, µs | int8 / float32 | SNR, dB" for size in SIZES]
    lines = [
        machine(),
        "",
        "| cell | hidden | MB | " + " | ".join(head) + " |",
        "|---|---|---|" + "---|" * 3 * len(SIZES),
    ]
    print("\n".join(lines))
    for cell in chosen.cells:
        for hidden in chosen.hidden:
            torch.manual_seed(0)
            model = getattr(torch.nn, cell)(hidden, hidden)
            paths = {}
            for name, options in {
                "fused": {"lowering": "fused"},
                "scan": {"lowering": "scan"},
                "int8": {"precision": "int8"},
            }.items():
                paths[name] = FOLDER / f"{cell}-{hidden}-{name}"
                example = torch.randn(5, 3, hidden)
                if stale(paths[name]):
                    rnn_export.export(model, example, paths[name], formats=["onnx"], overwrite=True, **options)
            models = {name: rnn_runtime.load(path, threads=1) for name, path in paths.items()}
            sizes = [(paths[name] / "model.onnx").stat().st_size / 1e6 for name in ("fused", "int8")]
            cells = [text for size in SIZES for text in measured(model, models, hidden, *size)]
            lines.append(f"| {cell} | {hidden} | {sizes[0]:.2f} -> {sizes[1]:.2f} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    put("int8", "\n".join(lines))


def measured(model, models, hidden: int, sequence: int, batch: int) -> list[str]:
    names = [spec.name for spec in models["fused"].signature.inputs]
    x = np.random.default_rng(0).standard_normal((sequence, batch, hidden), np.float32)
    feeds = {name: x if name == "input" else np.zeros((1, batch, hidden), np.float32) for name in names}
    with torch.inference_mode():
        want = model.double()(torch.from_numpy(x).double())[0].numpy()
        model.float()
    got = models["int8"].run(feeds)[0]
    snr = 10 * np.log10((want**2).sum() / ((got - want) ** 2).sum())
    runs = {name: lambda one=one: one.run(feeds) for name, one in models.items()}
    if sequence == 1:
        streams = {name: one.stream(batch) for name, one in models.items()}
        runs = {name: lambda one=one: one.push(x) for name, one in streams.items()}
    median = medians(runs)
    best = min(median["fused"], median["scan"])
    return [f"{best * 1e6:.0f}", f"{median['int8'] / best:.2f}", f"{snr:.0f}"]


if __name__ == "__main__":
    main()
