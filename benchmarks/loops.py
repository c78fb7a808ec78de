"""Rolled loops against the same model in eager mode, under torch.compile and as a scripted loop, on one thread.

Writes docs/loops-speed.md. Each figure is the shortest of several runs over a hundred steps at hidden 128, batch 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

import rnn_export
import rnn_runtime

HIDDEN, STEPS, SOURCE = 128, 100, 20
OUTPUT = Path(__file__).parent.parent / "docs" / "loops-speed.md"


class LSTMCellLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = HIDDEN
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.zeros(x.size(1), self.hidden)
        c = torch.zeros(x.size(1), self.hidden)
        out: list[Tensor] = []
        for t in range(x.size(0)):
            h, c = self.cell(x[t], (h, c))
            out.append(h)
        return torch.stack(out), h, c


class LSTM(nn.Module):
    """What the loop above is held against."""

    def __init__(self):
        super().__init__()
        self.hidden = HIDDEN
        self.lstm = nn.LSTM(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x)
        return y, h, c


class LayerNormLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = HIDDEN
        self.cell, self.norm = nn.LSTMCell(HIDDEN, HIDDEN), nn.LayerNorm(HIDDEN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.zeros(x.size(1), self.hidden)
        c = torch.zeros(x.size(1), self.hidden)
        out: list[Tensor] = []
        for t in range(x.size(0)):
            h, c = self.cell(x[t], (h, c))
            h = self.norm(h)
            out.append(h)
        return torch.stack(out), h, c


class PeepholeLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = HIDDEN
        self.w, self.u = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(HIDDEN, 4 * HIDDEN, bias=False)
        self.p = nn.Parameter(torch.randn(3, HIDDEN) * 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.zeros(x.size(1), self.hidden)
        c = torch.zeros(x.size(1), self.hidden)
        out: list[Tensor] = []
        for t in range(x.size(0)):
            i, f, g, o = (self.w(x[t]) + self.u(h)).chunk(4, 1)
            i, f = torch.sigmoid(i + self.p[0] * c), torch.sigmoid(f + self.p[1] * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + self.p[2] * c) * torch.tanh(c)
            out.append(h)
        return torch.stack(out), h, c


class GRUWithAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = HIDDEN
        self.cell = nn.GRUCell(2 * HIDDEN, HIDDEN)
        self.query, self.key, self.score = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.zeros(x.size(1), self.hidden)
        out: list[Tensor] = []
        for t in range(x.size(0)):
            energy = self.score(torch.tanh(self.query(h).unsqueeze(1) + self.key(memory))).squeeze(-1)
            context = torch.bmm(torch.softmax(energy, -1).unsqueeze(1), memory).squeeze(1)
            h = self.cell(torch.cat([x[t], context], -1), h)
            out.append(h)
        return torch.stack(out), h


def milliseconds(call, runs):
    for _ in range(3):
        call()
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


def measure(model, runs, compiled):
    """Milliseconds of each way of running it, and the operators that its recurrence became."""
    torch.manual_seed(0)
    model = model.eval()
    with_memory = isinstance(model, GRUWithAttention)

    def inputs(steps):
        x = (torch.randn(steps, 1, HIDDEN),)
        return (*x, torch.randn(1, SOURCE, HIDDEN)) if with_memory else x

    x = inputs(STEPS)
    found = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        start = time.perf_counter()
        bundle = rnn_export.export(model, inputs(5), folder + "/bundle", axes={"x": {0: "sequence"}})
        seconds = time.perf_counter() - start
        runtime = rnn_runtime.load(bundle, threads=1)
        feeds = {spec.name: tensor.numpy() for spec, tensor in zip(bundle.signature.inputs, x, strict=True)}
        ours = torch.jit.load(str(bundle.path / "model.pt"))
        scripted = torch.jit.script(model)
        found["eager"] = milliseconds(lambda: model(*x), runs)
        if compiled:
            fast = torch.compile(model)  # unrolls the hundred steps
            found["torch.compile"] = milliseconds(lambda: fast(*x), runs)
        found["scripted loop"] = milliseconds(lambda: scripted(*x), runs)
        found["our TorchScript"] = milliseconds(lambda: ours(*x), runs)
        found["ONNX Runtime"] = milliseconds(lambda: runtime.run(feeds), runs)
    return found, ", ".join(layer.operator for layer in bundle.layers), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for model in (LSTMCellLoop, LSTM, LayerNormLSTM, PeepholeLSTM, GRUWithAttention):
        found, operators, seconds = measure(model(), args.runs, not args.no_compile)
        rows.append((model.__name__, found, operators, seconds))
        print(model.__name__, {k: round(v, 2) for k, v in found.items()}, operators, f"{seconds:.1f} s", flush=True)
    OUTPUT.write_text(page(rows))


def page(rows):
    ways = list(rows[0][1])
    lines = [
        "# The speed of rolled loops",
        "",
        f"Written by `python benchmarks/loops.py`: milliseconds for {STEPS} steps, batch 1, hidden {HIDDEN}, one thread, the",
        f"shortest of several runs; the attention looks at {SOURCE} rows. The scripted loop is `torch.jit.script` of the same",
        "model; our TorchScript and ONNX Runtime run the bundle.",
        "",
        f"| model | {' | '.join(ways)} | eager / ONNX Runtime | became | export |",
        "|---|" + "---|" * (len(ways) + 3),
    ]
    for name, found, operators, seconds in rows:
        cells = " | ".join(f"{found[way]:.2f}" for way in ways)
        times = found["eager"] / found["ONNX Runtime"]
        lines.append(f"| {name} | {cells} | {times:.1f} | {operators} | {seconds:.1f} s |")
    cpu = next(
        (l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in l), "?"
    )
    lines += ["", f"{cpu}; torch {torch.__version__}, Python {platform.python_version()}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
