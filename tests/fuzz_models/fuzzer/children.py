"""Cases in child processes, forked from one that has PyTorch already: a case that dies or hangs is a verdict."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import attempt
from .attempt import Verdict

LIMIT = 120.0
"""Seconds of a processor that a case may take."""
SHARED = 4
"""How many times as long it may take by the clock, on a machine that others use too."""


@dataclasses.dataclass
class _Child:
    path: Path
    folder: Path
    pid: int
    until: float


def attempts(
    paths: Iterable[Path], jobs: int = 1, limit: float = LIMIT, ends: float = float("inf")
) -> Iterator[tuple[Path, Verdict]]:
    """Try each file's case in a child of its own, `jobs` at a time; gives each verdict as it comes.

    Args:
        paths: the files.
        jobs: how many children run at once.
        limit: seconds of a processor for each.
        ends: the time, of time.monotonic, at which those that still run are timed out.
    """
    waiting, running = iter(paths), list[_Child]()
    with tempfile.TemporaryDirectory(prefix="fuzz-models-") as work:
        try:
            more = True
            while more or running:
                while more and len(running) < jobs:
                    if (path := next(waiting, None)) is None:
                        more = False
                    else:
                        running.append(_start(path, Path(tempfile.mkdtemp(dir=work)), limit, ends))
                for child in running[:]:
                    if (verdict := _look(child, limit)) is not None:
                        running.remove(child)
                        yield child.path, verdict
                time.sleep(0.05)
        finally:
            for child in running:
                _end(child)


def _start(path: Path, folder: Path, limit: float, ends: float) -> _Child:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be_child(path, folder, limit)
    return _Child(path, folder, pid, min(time.monotonic() + SHARED * limit, ends))


def _be_child(path: Path, folder: Path, limit: float) -> None:
    """Try the case, write the verdict, and leave without what a process does at its end."""
    try:
        os.setpgid(0, 0)  # processes of the export end with it
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            verdict = attempt.attempt(path)
        except BaseException as error:
            verdict = Verdict(attempt.CRASHED, f"{type(error).__name__}: {error}"[:600])
        (folder / "writing").write_text(json.dumps(dataclasses.asdict(verdict)))
        (folder / "writing").rename(folder / "verdict")
    finally:
        os._exit(0)


def _look(child: _Child, limit: float) -> Verdict | None:
    """The child's verdict, or None while it runs."""
    ended, status = os.waitpid(child.pid, os.WNOHANG)
    if not ended:
        if time.monotonic() < child.until:
            return None
        _end(child)
        return Verdict(attempt.TIMED_OUT, "by the clock")
    written = child.folder / "verdict"
    if written.exists():
        return Verdict(**json.loads(written.read_text()))
    output = child.folder / "output"
    last = output.read_text(errors="replace").strip().splitlines()[-1:] if output.exists() else []
    number = os.waitstatus_to_exitcode(status)
    if number == -signal.SIGXCPU:
        return Verdict(attempt.TIMED_OUT, f"after {limit:.0f} seconds of a processor")
    name = signal.Signals(-number).name if number < 0 else f"status {number}"
    return Verdict(attempt.DIED, " ".join([name, *last])[:600])


def _end(child: _Child) -> None:
    """End a child and the processes that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:  # not yet a group of its own
        os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
