"""Settle the reported problems and write docs/reported-problems.md: python tests/reported/run.py."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RNN_EXPORT_SEED", "0")
sys.path.insert(0, str(Path(__file__).parent))

import onnx
import onnxruntime
import onnxscript
import pytest
import theirs
import torch
from rows import ROWS

from rnn_export._versions import cpu

ROOT = Path(__file__).parent.parent.parent
SAID = {"settled": "settled", "refused": "refused clearly", "open": "open", "failed": "FAILED"}


class Outcomes:
    """A plugin of pytest: for each row what its tests did."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.open: dict[str, list[str]] = {}
        self.failed: set[str] = set()
        self.figures: dict[str, list[str]] = {}
        self.tests = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = yield
        marks = [mark.args for mark in item.iter_markers("reported")]
        for row, answer in marks:
            if report.failed:
                self.failed.add(row)
            elif report.when == "call" and report.skipped:
                reasons = self.open.setdefault(row, [])
                reasons += [reason for reason in [report.wasxfail] if reason not in reasons]
            elif report.when == "call":
                self.tests += 1
                self.answers.setdefault(row, []).append(answer)
                self.figures.setdefault(row, []).extend(str(v) for k, v in report.user_properties if k == "figure")
        return report

    def state(self, row: str) -> str:
        """settled, refused, open or failed."""
        if row in self.failed:
            return "failed"
        if row in self.open or row not in self.answers:
            return "open"
        return "refused" if set(self.answers[row]) == {"X"} else "settled"


def page(outcomes: Outcomes, other: dict[str, dict[str, tuple[str, str]]]) -> str:
    counts = Counter(outcomes.state(row) for row in ROWS)
    lines = [
        "| row | reported in | problem | here | torch.onnx dynamo=True | torch.onnx dynamo=False | left |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        letters = "".join(letter for letter in "RXWF" if letter in outcomes.answers.get(name, ()))
        here = SAID[outcomes.state(name)] + (f" ({letters})" if letters else "")
        left = [*outcomes.open.get(name, ()), *([row.left] if row.left else [])]
        cells = [other.get(name, {}).get(exporter, ("", ""))[0] for exporter in theirs.EXPORTERS]
        lines.append(f"| {name} | {row.thread} | {row.problem} | {here} | {' | '.join(cells)} | {'; '.join(left)} |")
    figures = [f"- {name}: {text}" for name, texts in outcomes.figures.items() for text in texts]
    reasons = [
        f"- {name}, {exporter}: {result}: {short(why)}"
        for name, by_exporter in other.items()
        for exporter, (result, why) in by_exporter.items()
        if result != "ok"
    ]
    of_theirs = {
        exporter: Counter(by_exporter[exporter][0] for by_exporter in other.values()) for exporter in theirs.EXPORTERS
    }
    said = "; ".join(
        f"{exporter}: {', '.join(f'{found[verdict]} {verdict}' for verdict in reversed(theirs.WORST))}"
        for exporter, found in of_theirs.items()
    )
    return f"""# Problems that people reported

Written by `make reported`: {outcomes.tests} tests in `tests/reported`, each of which names its row. A case is built as the thread
describes it, exported once, and run at sizes that were never traced; all outputs and states are held against eager float64.

**Of {len(ROWS)} rows {counts["settled"]} are settled, {counts["refused"]} refused clearly, {counts["open"]} open{f", {counts['failed']} FAILED" if counts["failed"] else ""}.**
PyTorch's own exporters on the {len(other)} rows that they can be given, with `Dim.DYNAMIC` or `dynamic_axes` for the same axes, each in a
fresh process: {said}.

- *Here*: R the right result; X refused, with the module or input named, a way out, and nothing written; W a line or a
  figure in a report; F something that was built for it. A row is open where a test is expected to fail, or where there
  is none, and the last column says why.
- *torch.onnx*: `ok` right at every size; `bad` an error; `bad-silent` no error, and a file that is wrong or does not
  run at other sizes.

torch {torch.__version__}, onnxscript {onnxscript.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()},
{cpu()}.

{chr(10).join(lines)}

## Figures
{chr(10).join(figures) or "None."}

## What PyTorch's exporters say or do
{chr(10).join(reasons) or "Nothing is wrong."}
"""


def short(text: str) -> str:
    plain = re.sub(r"\x1b\[\d*m", "", text)
    return " ".join(plain.replace("|", "/").split())[:150]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "reported.json", help="PyTorch's verdicts")
    parser.add_argument("--ours", action="store_true", help="take PyTorch's verdicts from --kept")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reported-problems.md")
    options = parser.parse_args()
    if options.ours:
        other = json.loads(options.kept.read_text())
    else:  # first, so that the processes that it forks have exported nothing
        other = theirs.run(options.workers)
        options.kept.parent.mkdir(parents=True, exist_ok=True)
        options.kept.write_text(json.dumps(other))
    outcomes = Outcomes()
    os.chdir(ROOT)
    # rnn_export is imported already, so that its plugin's own assertions cannot be told in full.
    told = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    code = pytest.main(
        ["tests/reported", "-m", "full or not full", "-q", "--show-capture=no", "-p", "no:cacheprovider", *told],
        plugins=[outcomes],
    )
    options.output.write_text(page(outcomes, other), encoding="utf-8")
    counts = Counter(outcomes.state(row) for row in ROWS)
    print(", ".join(f"{counts[state]} {said}" for state, said in SAID.items()))
    sys.exit(int(code))


if __name__ == "__main__":
    main()
