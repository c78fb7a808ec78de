"""Export models from a generator, each in a child process, and compare them with eager PyTorch.

run.py --count N --seed S     N fresh models; a line per failure, each failure shrunk and kept
run.py FILE ...               cases that were kept
Ends with the counts, and with status 1 where a model was wrong, crashed, died, timed out or was not tried.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the children share the cores

import torch
from fuzzer import children, corpus
from fuzzer.attempt import CRASHED, DIED, FAILURES, REFUSED, RIGHT, TIMED_OUT, WRONG, Verdict
from fuzzer.generate import generate
from fuzzer.model import Model
from fuzzer.shrink import shrink


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="cases that were kept, instead of fresh ones")
    parser.add_argument("--count", type=int, default=100, help="how many models")
    parser.add_argument(
        "--seed", type=int, default=int(time.strftime("%Y%m%d")), help="of the run; today's date if not given"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--minutes", type=float, help="end after so long; models that were not tried count as failed")
    parser.add_argument("--limit", type=float, default=children.LIMIT, help="seconds for each model")
    parser.add_argument("--shrink", type=float, default=300, help="seconds for each failure; 0 keeps it as it is")
    parser.add_argument("--keep", type=Path, default=corpus.CORPUS, help="the folder for failures")
    parser.add_argument("--verbose", action="store_true", help="a line for every model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz-models-") as work:
        return Run(args, Path(work)).all()


class Run:
    """One run of the command."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.until = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
        self.counts: Counter[str] = Counter()
        self.failed: list[tuple[Model, Verdict]] = []

    def all(self) -> int:
        args = self.args
        drawn = {} if args.files else {f"seed {s}": generate(s) for s in seeds(args.seed, args.count)}
        paths = self._paths(args.files or [self._write(model, i) for i, model in enumerate(drawn.values())])
        models = dict(enumerate(drawn.values()))
        for path, verdict in children.attempts(paths, args.jobs, args.limit, self.until):
            self._count(path.stem, verdict)
            if verdict.word in FAILURES and not args.files:
                self.failed.append((models[int(path.stem.split("_")[1])], verdict))
        self._summary(len(args.files or drawn))
        for model, verdict in self.failed:
            self._keep(model, verdict)
        wanted = len(args.files or drawn)
        return int(self.counts[RIGHT] + self.counts[REFUSED] != wanted)

    def _paths(self, paths: Sequence[Path]) -> Iterator[Path]:
        for path in paths:
            if time.monotonic() > self.until:
                return
            yield path

    def _write(self, model: Model, i: int) -> Path:
        path = self.work / f"model_{i}_{model.seed}.py"
        path.write_text(model.text())
        return path

    def _count(self, name: str, verdict: Verdict) -> None:
        self.counts[verdict.word] += 1
        self.counts["named"] += verdict.word == REFUSED and verdict.names_line
        self.counts["mismatch"] += verdict.word == REFUSED and verdict.why.startswith("MismatchError")
        self.counts["answers"] += any("answers where eager" in note for note in verdict.notes)
        self.counts["limited"] += bool(verdict.limited) and verdict.word == RIGHT
        if verdict.word in FAILURES or self.args.verbose:
            print(f"{verdict.word:9s} {name:24s} {verdict.why[:300]}", flush=True)

    def _summary(self, wanted: int) -> None:
        n = self.counts
        dead = n[CRASHED] + n[DIED] + n[TIMED_OUT]
        print(
            f"seed {self.args.seed}: {n[RIGHT]} right, {n[REFUSED]} refused, {n[WRONG]} wrong, "
            f"{dead} crashed, died or timed out; of the refusals {n['named']} name a line and {n['mismatch']} are a "
            f"MismatchError; {n['limited']} right within limits; {n['answers']} answer where eager PyTorch raises"
        )
        if left := wanted - n[RIGHT] - n[REFUSED] - n[WRONG] - dead:
            print(f"{left} were not tried: the time was up")

    def _keep(self, model: Model, verdict: Verdict) -> None:
        """Shrink a failure as far as its time goes, and keep it unless one of its shape is kept already."""
        seen = {model.text(): verdict}

        def fails(steps: Sequence[Model]) -> Model | None:
            paths = {self._write(step, 10**6 + len(seen) * 100 + i): step for i, step in enumerate(steps)}
            found = dict(children.attempts(paths, self.args.jobs, self.args.limit))
            for path, step in paths.items():
                if found[path].word == verdict.word and alike(found[path], verdict):
                    seen[step.text()] = found[path]
                    return step
            return None

        seconds = min(self.args.shrink, max(0.0, self.until - time.monotonic()))
        small = shrink(model, fails, seconds, self.args.jobs)
        path = corpus.keep(small, seen[small.text()], self.args.keep)
        print(f"\nseed {model.seed}: {path or 'like one that is kept already'}\n{small.text()}", flush=True)


def alike(one: Verdict, other: Verdict) -> bool:
    """Whether two crashes are the same; the other failures are alike by their word."""
    return one.word != CRASHED or one.why.split(":")[0] == other.why.split(":")[0]


def seeds(seed: int, count: int) -> list[int]:
    """The seeds of the models of a run."""
    return [seed * 100_000 + i for i in range(count)]


if __name__ == "__main__":
    sys.exit(main())
