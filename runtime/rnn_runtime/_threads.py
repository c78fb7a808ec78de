"""How many threads a model gets when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

LARGE = 4 << 20  # bytes of weights
MOST = 4

# benchmarks/threads.py, one LSTM layer on two cores of a virtual machine, threads that sleep between runs. Two take 0.9
# to 1.6 times as long at hidden 256 (2 MB of weights) and less. At 512 and 1024 (8 and 34 MB) a batch of sequences
# takes 0.5 to 0.7 times, and batch 1 or a single step 1.0 to 1.2 times: a core that sleeps is long to wake.


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
