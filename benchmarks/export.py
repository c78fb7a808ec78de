"""How long an export takes from the command line, verification included: python benchmarks/export.py

Each time in a new process, whose imports count too.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _rounds import machine, put

FOLDER = Path("build/benchmarks/export")
CALL = "from rnn_export.cli import main; main()"


def export(target: str) -> float:
    """Seconds of one export."""
    command = [sys.executable, "-c", CALL, "export", target, "-o", str(FOLDER / target), "--overwrite"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--targets", nargs="*", default=["hello", "lstm", "gru", "tagger"])
    chosen = parser.parse_args()
    lines = [machine(), "", "| export | median, s | fastest | slowest |", "|---|---|---|---|"]
    for target in chosen.targets:
        times = [export(target) for _ in range(chosen.rounds)]
        lines.append(f"| {target} | {statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} |")
        print(lines[-1], flush=True)
    put("export", "\n".join(lines))


if __name__ == "__main__":
    main()
