"""The suite: whole models against seven other ways to run them: python benchmarks/suite.py

Each peer has a process of its own and its turn in every round; before anything is timed it has to give what eager
PyTorch gives in float64. What was measured is kept in build/benchmarks/suite.json case by case, so that a run that was
stopped goes on where it was, and the tables in benchmarks/README.md are written from there.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from _peers import MATMULS, PEERS, products
from _rounds import SPINNING, machine, measure, put, seconds, serve, stale

FOLDER = Path("build/benchmarks/suite")
# input, hidden, layers, batch, sequence
SIZES = (
    (4, 2, 1, 3, 5),  # the seeded RNN of PyTorch's course material
    (128, 128, 1, 1, 1),
    (512, 512, 1, 1, 1),
    (256, 256, 2, 1, 100),
    (512, 512, 1, 16, 50),
    (256, 256, 1, 64, 50),
    (64, 64, 1, 32, 200),
    (1024, 1024, 1, 1, 20),
    (1760, 1760, 1, 16, 20),  # the vanilla RNN of DeepBench
)
LARGE = 1024  # rows and columns of the product that stands for the machine's rate
NOISE = 1.05


@dataclass(frozen=True)
class Case:
    """One model at one size. Sequences come first: (sequence, batch, input)."""

    cell: str
    input: int
    hidden: int
    layers: int
    batch: int
    sequence: int
    tagger: bool = False

    @property
    def name(self) -> str:
        if self.tagger:
            return f"tagger, {self.cell} {self.layers}x{self.hidden} both ways, {self.batch}, {self.sequence}"
        width = f"{self.input}->{self.hidden}" if self.input != self.hidden else str(self.hidden)
        return f"{self.cell} {width}, {self.layers}, {self.batch}, {self.sequence}"

    @property
    def folder(self) -> Path:
        return FOLDER / self.name.replace(", ", "-").replace(" ", "-").replace(">", "")

    @property
    def carried(self) -> bool:
        """Whether this is a step whose state goes into the next one."""
        return self.sequence == 1

    @property
    def flops(self) -> int:
        """Operations of its matrix products, all in all."""
        gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[self.cell] * self.hidden
        directions = 2 if self.tagger else 1
        widths = [self.input] + [directions * self.hidden] * (self.layers - 1)
        each = sum(directions * gates * (width + self.hidden) for width in widths)
        tags = directions * self.hidden * TAGS if self.tagger else 0
        return 2 * self.batch * self.sequence * (each + tags)

    @property
    def bound(self) -> bool:
        """Whether the rate of the machine's matrix products is what it should come close to."""
        return self.batch >= 16 and self.hidden >= 256 and not self.tagger

    def model(self):
        import torch

        torch.manual_seed(0)
        layer = getattr(torch.nn, self.cell)
        if self.tagger:
            return tagger(layer(self.input, self.hidden, self.layers, bidirectional=True, batch_first=True)).eval()
        return layer(self.input, self.hidden, self.layers).eval()

    @cached_property
    def _inputs(self) -> list:
        random = np.random.default_rng(0)
        if self.tagger:
            return [random.integers(0, WORDS, (self.batch, self.sequence))]
        state = (self.layers, self.batch, self.hidden)
        count = 2 if self.cell == "LSTM" else 1
        arrays = [random.standard_normal((self.sequence, self.batch, self.input), np.float32)]
        return arrays + [random.standard_normal(state, np.float32) for _ in range(count)]

    def inputs(self) -> list:
        return self._inputs

    def arguments(self, x, *states) -> tuple:
        """The inputs as the model's own forward takes them."""
        return (x, states) if len(states) == 2 else (x, *states)

    def flat(self):
        """The model with plain tensors among its arguments and results alone."""
        return flattened(self.model(), self)

    def want(self) -> list:
        """What eager PyTorch gives in float64: for a step that is carried, all outputs of three steps."""
        import torch

        model = self.model().double()
        arrays = [torch.from_numpy(a).double() if a.dtype == np.float32 else torch.from_numpy(a) for a in self.inputs()]
        with torch.inference_mode():
            return steps(lambda *arrays: leaves(model(*self.arguments(*arrays))), arrays, 3 if self.carried else 1)


WORDS, TAGS = 1000, 32


def tagger(layer):
    import torch

    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.layer = torch.nn.Embedding(WORDS, layer.input_size), layer
            self.linear = torch.nn.Linear(2 * layer.hidden_size, TAGS)

        def forward(self, ids):
            return self.linear(self.layer(self.embedding(ids))[0])

    return Tagger()


def flattened(model, case: Case):
    import torch

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x, h_0):
            return self.model(x, h_0)

    class Two(One):
        def forward(self, x, h_0, c_0):
            y, (h_n, c_n) = self.model(x, (h_0, c_0))
            return y, h_n, c_n

    return model if case.tagger else Two() if case.cell == "LSTM" else One()


def leaves(found) -> list:
    return [leaf for part in found for leaf in leaves(part)] if isinstance(found, tuple | list) else [found]


def steps(call, arrays: list, count: int) -> list:
    """All outputs of `count` steps with the state carried."""
    found = []
    for _ in range(count):
        outputs = list(call(*arrays))
        found += [np.array(output.numpy() if hasattr(output, "numpy") else output) for output in outputs]
        arrays = [arrays[0], *outputs[1:]]
    return found


def cases() -> Iterator[Case]:
    for size in SIZES:
        for cell in ("RNN", "LSTM", "GRU"):
            yield Case(cell, *size)
    yield Case("LSTM", 256, 256, 2, 8, 40, tagger=True)


@cache
def named(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


def setup(peer: str, name: str, threads: str):
    """A worker's: checks the peer, and gives the function that runs one round."""
    if name == "large":
        run = MATMULS[peer](LARGE, LARGE, LARGE, int(threads))
        seconds(run, 3)
        return lambda: seconds(run, 20)
    case = named(name)
    if peer in MATMULS:
        return products(peer, case, int(threads))
    call = PEERS[peer][0](case, case.folder, int(threads))
    with np.load(case.folder / "want.npz") as file:
        want = [file[key] for key in file.files]
    got = steps(call, case.inputs(), 3 if case.carried else 1)
    for mine, right in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, right, rtol=0, atol=1e-5 * max(1.0, float(np.abs(right).max())))
    return rounds(call, case)


def rounds(call, case: Case):
    """One round is as many runs as last 50 ms, after one to come back to speed."""
    arrays = case.inputs()

    if case.carried:
        x, state = arrays[0], arrays[1:]

        def run():
            nonlocal state
            state = call(x, *state)[1:]
    else:

        def run():
            call(*arrays)

    seconds(run, 3)
    count = max(1, round(0.05 / min(seconds(run, 1) for _ in range(5))))

    def one_round() -> float:
        run()
        return seconds(run, count)

    return one_round


def prepare(case: Case) -> None:
    """The bundle, made again where the exporter is newer, and what eager PyTorch gives."""
    import torch

    import rnn_export

    case.folder.mkdir(parents=True, exist_ok=True)
    bundle = case.folder / "ours"
    if stale(bundle):
        example = (torch.zeros(3, 5, dtype=torch.int64),) if case.tagger else (torch.randn(5, 3, case.input),)
        axes = {"ids": {0: "batch", 1: "sequence"}} if case.tagger else None
        rnn_export.export(case.model(), example, bundle, axes=axes, formats=["onnx"], overwrite=True)
    if not (case.folder / "want.npz").exists():
        np.savez(case.folder / "want.npz", *case.want())


def run(case: Case, threads: int, count: int) -> dict:
    """Seconds of each round for each peer, or why it has none; where its products are a limit, theirs by library."""
    prepare(case)
    missing: dict[str, str] = {}
    arguments = {"rounds": count, "pause": _pause(threads)}
    found = measure(__file__, PEERS, case.name, str(threads), missing=missing, **arguments)
    limit = {"limit": measure(__file__, MATMULS, case.name, str(threads), **arguments)} if case.bound else {}
    return {**missing, **found, **limit}


def _pause(threads: int) -> float:
    return SPINNING if threads > 1 else 0.0


class Kept:
    """What was measured, in a file: by number of threads and case."""

    def __init__(self, path: Path, about: str, fresh: bool) -> None:
        self._path = path
        kept = json.loads(path.read_text()) if path.exists() and not fresh else {}
        self.about = about
        self.found = kept.get("found", {}) if kept.get("about") == about else {}

    def add(self, threads: int, name: str, found: dict) -> None:
        self.found.setdefault(str(threads), {})[name] = found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"about": self.about, "found": self.found}))

    def has(self, threads: int, name: str) -> bool:
        return name in self.found.get(str(threads), {})


def over(ours: list, theirs: list) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def fastest(found: dict) -> tuple[float, str]:
    """Our time over that of the fastest peer, and who it is."""
    times = {p: statistics.median(v) for p, v in found.items() if p in PEERS and p != "ours" and isinstance(v, list)}
    best = min(times, key=times.get)
    return over(found["ours"], found[best]), best


def table(threads: int, found: dict[str, dict]) -> str:
    """The tables for this many threads, in Markdown."""
    labels = {peer: label for peer, (_, label) in PEERS.items()}
    others = list(labels)[1:]
    products = {name: min(times) for name, times in found["large"].items()}  # the limit is the best there was
    library = min(products, key=products.get)
    rate = 2 * LARGE**3 / products[library] / 1e9
    lines = [
        f"### {threads} thread{'s' if threads > 1 else ''}",
        "",
        "| case | rnn_runtime, µs | " + " | ".join(f"÷ {labels[p]}" for p in others) + " | ÷ the fastest |",
        "|---|---|" + "---|" * len(others) + "---|",
    ]
    named = {case.name: case for case in cases() if case.name in found}
    for name in named:
        row = found[name]
        ratios = [f"{over(row['ours'], row[p]):.2f}" if isinstance(row[p], list) else "-" for p in others]
        worst, who = fastest(row)
        ours = statistics.median(row["ours"]) * 1e6
        mark = f"**{worst:.2f}** {labels[who]}" if worst > NOISE else f"{worst:.2f}"
        lines.append(f"| {name} | {ours:.1f} | " + " | ".join(ratios) + f" | {mark} |")
    means = {p: [over(r["ours"], r[p]) for n in named for r in [found[n]] if isinstance(r[p], list)] for p in others}
    geometric = {p: math.exp(statistics.fmean(map(math.log, v))) for p, v in means.items() if v}
    cells = [f"{geometric[p]:.2f}" if p in geometric else "-" for p in others]
    every = math.exp(statistics.fmean(math.log(fastest(found[n])[0]) for n in named))
    lines.append("| geometric mean | | " + " | ".join(cells) + f" | {every:.2f} |")
    losses = sum(fastest(found[n])[0] > NOISE for n in named)
    best = max(geometric, key=geometric.get)
    lines += [
        "",
        f"Never slower than the fastest peer: {len(named) - losses} of {len(named)} cases (a ratio up to {NOISE} is noise). "
        f"The best single peer over all cases is {labels[best]}: {1 / geometric[best]:.2f} times faster than it in the "
        "geometric mean.",
        "",
        f"Matrix products of {LARGE} x {LARGE} run at {rate:.0f} GFLOP/s here ({library}). Where batch is 16 or more and "
        "hidden 256 or more:",
        "",
        "| case | GFLOP/s | of that rate | time of its products alone in the fastest library ÷ ours |",
        "|---|---|---|---|",
    ]
    for name, case in named.items():
        if case.bound:
            own = case.flops / statistics.median(found[name]["ours"]) / 1e9
            alone = min(map(statistics.median, found[name]["limit"].values()))
            alone /= statistics.median(found[name]["ours"])
            lines.append(f"| {name} | {own:.0f} | {own / rate:.0%} | {alone:.0%} |")
    refused: dict[str, dict[str, list[str]]] = {}
    for name in named:
        for peer in others:
            if not isinstance(found[name][peer], list):
                refused.setdefault(labels[peer], {}).setdefault(found[name][peer], []).append(name)
    for peer, reasons in refused.items():
        for reason, names in reasons.items():
            lines += ["", f"{peer} has no figure for {'; '.join(names)}: `{reason[:150]}`"]
    return "\n".join(lines)


def write(kept: Kept) -> None:
    parts = [table(int(threads), found) for threads, found in sorted(kept.found.items()) if len(found) > 1]
    put("suite", "\n\n".join([kept.about, *parts]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--cases", nargs="*", help="only those whose name has one of these in it", default=[""])
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--again", action="store_true", help="measure the cases named again")
    parser.add_argument("--prepare", action="store_true", help="make what the peers run, time nothing")
    chosen = parser.parse_args()
    kept = Kept(FOLDER.with_suffix(".json"), machine(), chosen.fresh)
    start = time.monotonic()
    for threads in chosen.threads:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
        if not chosen.prepare:
            before = kept.found.get(str(threads), {}).get("large", {})
            large = measure(__file__, MATMULS, "large", str(threads), rounds=chosen.rounds, pause=_pause(threads))
            kept.add(threads, "large", {name: before.get(name, []) + times for name, times in large.items()})
        for case in cases():
            if not any(part in case.name for part in chosen.cases):
                continue
            if kept.has(threads, case.name) and not chosen.again and not chosen.prepare:
                continue
            found = run(case, threads, 0 if chosen.prepare else chosen.rounds)
            if chosen.prepare:
                continue
            kept.add(threads, case.name, found)
            ratio, who = fastest(found)
            print(
                f"{time.monotonic() - start:5.0f} s  {threads} thread(s)  {case.name}: "
                f"{statistics.median(found['ours']) * 1e6:.1f} µs, {ratio:.2f} of {who}",
                flush=True,
            )
    if not chosen.prepare:
        write(kept)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(setup, *sys.argv[2:])
    else:
        main()
