"""How many threads a model gets when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

LARGE = 4 << 20  # bytes of weights
MOST = 4

# benchmarks/threads.py, one LSTM layer on two cores, threads that sleep between runs: with two threads a single step
# takes 1.4 times as long at hidden 256 (2 MB of weights), as long at 512 (8 MB), 0.8 times at 1024; at batch 16 and 50
# steps 0.8, 0.6 and 0.55 times.


def choose(weights: int, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """One thread for less than 4 MB of weights, and else as many as the process may use, up to four."""
    return 1 if weights < LARGE else min(MOST, usable(cgroup))


def usable(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The processors that this process may run on at once: its affinity, and the quota of its container if any."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return count
