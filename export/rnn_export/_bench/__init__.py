"""bench(): a bundle's backends side by side, each in a process of its own, equal before they are timed."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rnn_runtime import Error, InputError, MismatchError, _golden, _guards
from rnn_runtime._bundle import GOLDEN, ONNX, PT2, TORCHSCRIPT, Bundle
from rnn_runtime._properties._draw import Draw
from rnn_runtime._report import compare
from rnn_runtime._text import aligned
from rnn_runtime._verify import hardware, versions

VERSION = 1
BACKENDS = {"onnxruntime": ONNX, "torchscript": TORCHSCRIPT, "torch.export": PT2}
"""Each backend and the file of the bundle that it runs; "eager" runs the model itself."""


@dataclass(frozen=True)
class Timing:
    """One backend at one size.

    Attributes:
        backend: "onnxruntime", "torchscript", "torch.export" or "eager".
        sizes: the size of each axis.
        p50, p90, p99: seconds of a run; p50 is the median over the rounds' medians.
        spread: the smallest and the largest of these medians.
        throughput: steps of all rows per second, at the median.
    """

    backend: str
    sizes: dict[str, int]
    p50: float
    p90: float
    p99: float
    spread: tuple[float, float]
    throughput: float


@dataclass(frozen=True)
class Bench:
    """What `bench` measured; `str()` is a table.

    Attributes:
        timings: one for each backend and size.
        load: seconds that a backend took to load its file.
        memory: bytes of its process at the most.
        size: bytes of its file; 0 for eager PyTorch.
        threads: how many each had.
        about: the bundle, the hardware, versions, and the precision where it is not the model's own.
    """

    timings: tuple[Timing, ...]
    load: dict[str, float]
    memory: dict[str, int]
    size: dict[str, int]
    threads: int
    about: dict[str, Any]

    def to_json(self) -> str:
        """One line of JSON with a "version"."""
        return json.dumps({"version": VERSION, **asdict(self)})

    def __str__(self) -> str:
        head = ("size", "backend", "p50, µs", "spread", "p90", "p99", "steps/s", "÷ fastest")
        lines = []
        for _, group in itertools.groupby(self.timings, lambda timing: timing.sizes):
            rows = list(group)
            fastest = min(row.p50 for row in rows)
            lines += [
                (
                    " ".join(f"{axis}={size}" for axis, size in row.sizes.items()),
                    row.backend,
                    f"{row.p50 * 1e6:.1f}",
                    f"{row.spread[0] * 1e6:.1f}-{row.spread[1] * 1e6:.1f}",
                    *(f"{value * 1e6:.1f}" for value in (row.p90, row.p99)),
                    f"{row.throughput:,.0f}",
                    f"{row.p50 / fastest:.2f}",
                )
                for row in rows
            ]
        files: list[tuple[str, ...]] = [("backend", "load, ms", "memory, MB", "file, MB")]
        files += [
            (name, f"{self.load[name] * 1e3:.0f}", f"{self.memory[name] / 1e6:.0f}", f"{self.size[name] / 1e6:.3g}")
            for name in self.load
        ]
        title = f"{self.about['hardware']}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        if "precision" in self.about:
            title += f", {self.about['precision']}"
        return "\n\n".join([title, aligned([head, *lines]), aligned(files)])

    def plot(self, path: Path) -> None:
        """Draw the time of a run by size, a point for each backend with its spread, to a .svg, .png or .pdf file.

        Raises:
            DependencyError: matplotlib is missing.
        """
        from rnn_runtime._plots import require

        require()
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        names = list(dict.fromkeys(row.backend for row in self.timings))
        sizes = list(dict.fromkeys(" ".join(f"{a}={n}" for a, n in row.sizes.items()) for row in self.timings))
        for name in names:
            rows = [row for row in self.timings if row.backend == name]
            p50 = np.array([row.p50 for row in rows]) * 1e6
            spread = np.abs(np.array([row.spread for row in rows]).T * 1e6 - p50)
            axes.errorbar(range(len(rows)), p50, yerr=spread, fmt="o", capsize=4, label=name)
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_yscale("log")
        axes.set_ylabel("a run, µs")
        axes.set_title(f"{self.about['hardware']}, {self.threads} thread(s)", fontsize=9)
        axes.legend()
        figure.savefig(path)


def bench(
    bundle: str | Path,
    target: str | None = None,
    *,
    weights: Path | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 1,
    rounds: int = 9,
    seconds: float = 0.1,
) -> Bench:
    """Time every backend of a bundle that is at hand, in turns, each in a process of its own.

    Args:
        bundle: the folder.
        target: as `rnn-export export` takes it, to have eager PyTorch beside them.
        weights: a state dict for it.
        sizes: for each axis the sizes to time; the recorded example's where left out. All combinations are timed.
        threads: for each backend.
        rounds: how often each has its turn.
        seconds: how long a turn lasts at least.

    Raises:
        BundleError: the bundle is missing or damaged.
        InputError: an axis is unknown, or a number is out of range.
        MismatchError: a backend does not give what the first one gives: then nothing is timed.
        Error: a backend fails.
    """
    sealed = Bundle.open(Path(bundle))
    sealed.verify_files()
    sealed.verify_files()
    example = _golden.unpack(sealed.read(GOLDEN))[0].inputs
    grid = list(sizes_of(sealed, example, sizes or {}))
    check_numbers(threads, rounds, seconds)
    names = [name for name, file in BACKENDS.items() if file in sealed.files] + (["eager"] if target else [])
    draw = Draw(sealed.signature, whole(sealed, example))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {
            name: stack.enter_context(Worker(name, sealed.path, target, weights, threads, folder)) for name in names
        }
        timings = []
        for one in grid:
            inputs = draw(one)
            np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]  # as in _golden
            require_equal(sealed, {name: worker.run() for name, worker in workers.items()}, one)
            turns = in_turns(workers, rounds, seconds, threads)
            timings += [_timing(name, one, turns[name]) for name in names]
        memory = {name: worker.memory() for name, worker in workers.items()}
        load = {name: worker.load for name, worker in workers.items()}
    size = {name: sealed.files[BACKENDS[name]].size if name in BACKENDS else 0 for name in names}
    about = {"bundle": str(sealed.path), "hardware": hardware(), "versions": versions()}
    if "precision" in sealed.manifest:
        about["precision"] = sealed.manifest["precision"]
    return Bench(tuple(timings), load, memory, size, threads, about)


def check_numbers(threads: int, rounds: int, seconds: float) -> None:
    """Raises InputError where one of these is too small, or no such number."""
    for name, value, kind, least in (
        *(("threads", threads, int, 1), ("rounds", rounds, int, 1)),
        ("seconds", seconds, int | float, 1e-3),
    ):
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < math.inf:
            whole = ", a whole number" if kind is int else ""
            raise InputError(f"{name} is {value!r}; expected {least} or more{whole}")


_ASLEEP = 0.06
"""Seconds until the threads of the worker before have ceased to spin: ONNX Runtime's do for 40 ms."""


def in_turns(workers: Mapping[str, Worker], rounds: int, seconds: float, threads: int) -> dict[str, list[list[float]]]:
    """For each worker the seconds of each run of each round, one worker after the other in every round."""
    turns: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(_ASLEEP if threads > 1 else 0)
            turns[name].append(worker.time(seconds))
    return turns


def sizes_of(
    sealed: Bundle, example: Mapping[str, Any], sizes: Mapping[str, Sequence[int]]
) -> Iterator[dict[str, int]]:
    """All combinations of the sizes of each axis, the example's where none are given. Raises InputError."""
    axes = sealed.signature.axis_names
    if unknown := [axis for axis in sizes if axis not in axes]:
        raise InputError(f"the model has no axis {unknown[0]!r}: its axes are {', '.join(axes) or 'none'}")
    for axis, values in sizes.items():
        if not values or min(values) < 1:
            raise InputError(f"the sizes of {axis!r} are {list(values)}; expected 1 or more each")
        limit = sealed.signature.limit(axis)
        if beyond := [size for size in values if not limit.allows(size)]:
            raise InputError(_guards.beyond(limit, beyond[0], "what is to be timed has"))
    own: dict[str, int] = {}
    for spec in sealed.signature.inputs:
        if spec.name in example:
            own |= {a: n for a, n in zip(spec.axes, example[spec.name].shape, strict=True) if isinstance(a, str)}
    lists = [list(sizes.get(axis, [sealed.signature.limit(axis).nearest(own.get(axis, 1))])) for axis in axes]
    return (dict(zip(axes, combination, strict=True)) for combination in itertools.product(*lists))


def whole(sealed: Bundle, example: Mapping[str, Any]) -> dict[str, Any]:
    """The example with zeros for what it leaves out."""
    zeros = {
        spec.name: np.zeros([1 if isinstance(axis, str) else axis for axis in spec.axes], spec.dtype)
        for spec in sealed.signature.inputs
    }
    return {**zeros, **example}


def require_equal(sealed: Bundle, outputs: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]) -> None:
    """Raises MismatchError where the outputs by name, one mapping for each backend, are not the same."""
    first, *others = outputs
    for other in others:
        for name, allowed in sealed.tolerance.items():
            # Each may be that far from eager float64.
            found = compare(outputs[other][name], outputs[first][name], 2 * allowed)
            if not found.passed:
                at = " ".join(f"{axis}={size}" for axis, size in sizes.items())
                raise MismatchError(
                    f"{other} and {first} differ on {name!r} at {at} by {found.error:.2g}, {found.bound:.2g} allowed"
                    f"{f' ({found.note})' if found.note else ''}: nothing was timed; run rnn-export verify"
                )


def _timing(backend: str, sizes: dict[str, int], turns: list[list[float]]) -> Timing:
    medians = [float(np.median(turn)) for turn in turns]
    every = np.concatenate(turns)
    p50 = float(np.median(medians))
    return Timing(
        backend=backend,
        sizes=sizes,
        p50=p50,
        p90=float(np.percentile(every, 90)),
        p99=float(np.percentile(every, 99)),
        spread=(min(medians), max(medians)),
        throughput=float(np.prod(list(sizes.values()) or [1])) / p50,
    )


class Worker:
    """A backend in a process of its own, which waits for one line of JSON and answers with one.

    Attributes:
        load: seconds that it took to load.
    """

    def __init__(
        self, name: str, bundle: Path, target: str | None, weights: Path | None, threads: int, folder: Path
    ) -> None:
        command = [sys.executable, "-m", "rnn_export._bench._worker", name, str(bundle), str(folder), str(threads)]
        self._name = name
        self._folder = folder
        self._process = subprocess.Popen(
            [*command, target or "", str(weights or "")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.load: float = self._answer()["load"]
        except BaseException:
            self.__exit__()
            raise

    def run(self) -> dict[str, Any]:
        """All outputs for the inputs in the folder."""
        self._ask({"run": True})
        self._answer()
        with np.load(self._folder / f"{self._name}.npz", allow_pickle=False) as file:
            return dict(file)

    def time(self, seconds: float) -> list[float]:
        """Seconds of each run, for `seconds` in all at least."""
        self._ask({"time": seconds})
        return list(self._answer()["times"])

    def memory(self) -> int:
        """Bytes that the process had at the most."""
        self._ask({"memory": True})
        return int(self._answer()["memory"])

    def _ask(self, request: dict[str, Any]) -> None:
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps(request) + "\n")
        pipe.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Error(f"the process that runs {self._name} has ended: see what it printed above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Error(f"{self._name} fails: {answer['error']}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, at which it ends
