"""Peers measured side by side: each in a process of its own, one round of each after the other, medians of the rounds.

A process that is not measured waits for a line on its standard input, so that it takes nothing from the one that is.
"""

import importlib.metadata
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def serve(setup: Callable[..., Callable[[], float]], *arguments: str) -> None:
    """The worker's side: `setup` gives a function that runs one round and returns its seconds per unit of work."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to stderr, and not among the answers

    def answer(**content: object) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        one_round = setup(*arguments)
    except Exception as error:  # a peer that refuses a model is a result too
        lines = str(error).strip().splitlines() or [""]
        answer(missing=f"{type(error).__name__}: {lines[0]}")
        return
    answer(ready=True)
    for _ in sys.stdin:
        answer(seconds=one_round())


def measure(
    script: str,
    peers: Iterable[str],
    *arguments: str,
    rounds: int = 9,
    patience: float = 600,
    missing: dict[str, str] | None = None,
    pause: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of each round for each peer that could be set up: the workers are `script --worker PEER ARGUMENTS`.

    Peers that could not be, or were not within `patience` seconds, are put into `missing` with the reason. `pause` is
    the time before each turn, in seconds, in which the threads of the one before fall asleep.
    """
    commands = {peer: [sys.executable, script, "--worker", peer, *arguments] for peer in peers}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    workers = {peer: subprocess.Popen(command, **pipes) for peer, command in commands.items()}
    end = time.monotonic() + patience
    missing = {} if missing is None else missing
    for peer, worker in list(workers.items()):
        late = not select.select([worker.stdout], [], [], max(0.0, end - time.monotonic()))[0]
        answer = {"missing": f"not ready within {patience:.0f} s"} if late else _answer(worker)
        if "missing" in answer:
            missing[peer] = answer["missing"]
            print(f"{peer} is left out: {missing[peer]}", file=sys.stderr)
            workers.pop(peer).kill()
            worker.communicate()
    found = {peer: [] for peer in workers}
    for _ in range(rounds):
        for peer, worker in workers.items():
            time.sleep(pause)
            worker.stdin.write("\n")
            worker.stdin.flush()
            found[peer].append(_answer(worker)["seconds"])
    for worker in workers.values():
        worker.communicate()  # closes its input, at which it ends
    return found


def _answer(worker: subprocess.Popen) -> dict[str, object]:
    return json.loads(worker.stdout.readline() or '{"missing": "its process has ended"}')


README = Path(__file__).parent / "README.md"


def put(name: str, text: str, page: Path = README) -> None:
    """Write what was measured into a page, between the marks of this name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")


def stale(bundle: Path) -> bool:
    """Whether a bundle is missing, or older than the exporter."""
    made = bundle / "manifest.json"
    sources = (Path(__file__).parent.parent / "export" / "rnn_export").rglob("*.py")
    return not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in sources)


def seconds(run: Callable[[], object], count: int) -> float:
    """Seconds of one run, the mean of `count`."""
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


SPINNING = 0.06
"""Seconds for which the threads of a pool may spin after their last run, with some to spare: ONNX Runtime's do for 40 ms,
PyTorch's for 10, and take a core from whoever has the next turn."""


def medians(runs: dict[str, Callable[[], object]], rounds: int = 7, pause: float = 0.0) -> dict[str, float]:
    """Median seconds of each run, in one process and in turns; a turn lasts about as long as 30 ms of the first."""
    for run in runs.values():
        run()
    count = max(2, min(500, int(0.03 / seconds(next(iter(runs.values())), 1))))
    found = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(pause)
            found[name].append(seconds(run, count))
    return {name: statistics.median(values) for name, values in found.items()}


def session(model: bytes | Path, threads: int = 1, spinning: str = "1") -> object:
    """ONNX Runtime's session on the CPU, with this many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """The median of ours over theirs, round by round, with the smallest and the largest."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def machine() -> str:
    """The processor, and the versions of what was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    vector = "AVX-512 with VNNI" if "avx512_vnni" in flags else "AVX-512" if "avx512f" in flags else "AVX2"
    versions = []
    for package in ("onnxruntime", "torch", "openvino", "tract", "numpy"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    processor = f"{len(names)} cores of {names[0]} ({vector})" if names else platform.processor()
    return f"{processor}; Python {platform.python_version()}, {', '.join(versions)}"
