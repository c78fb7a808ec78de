"""The sweep of operators: `python tests/operators/run.py [--only TEXT]`.

Each operator is exported alone and run on ONNX Runtime beside eager PyTorch, in a child process. Writes
docs/operators.md; exit code 1 if any is wrong.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import corpus

import rnn_runtime
from rnn_export._capture import capture
from rnn_export._lower.onnx import to_onnx

ROOT = Path(__file__).parents[2]

OWN = 8
"""A result may be this many times as far off as eager float32 is."""

FOLDERS = re.compile(r"(?<![\w.])(?:/[\w.+-]+)+/(?=[\w.+-])")
"""The folders before the name of a file, which differ from machine to machine."""

TABLE = 1e-5
SECONDS = 1200
TOGETHER = 8


class Operator(nn.Module):
    """An expression of the corpus as a model."""

    def __init__(self, code: str) -> None:
        super().__init__()
        names = corpus.arguments(code)
        self.layer: nn.Module | None = None
        self.first = False
        if code.startswith("nn."):
            self.layer = eval(code, vars(corpus))
            self.first = any(word in code for word in corpus.CHANNELS_FIRST)
            torch.manual_seed(0)
            for value in [*self.layer.parameters(), *self.layer.buffers()]:
                if value.is_floating_point():
                    value.data = torch.rand_like(value) - 0.3 * value.dim().__gt__(1)
            code = "None"
        self.call = eval(f"lambda {', '.join(names)}: {code}", vars(corpus))

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        """The expression's value."""
        if self.layer is None:
            return self.call(x, *others)
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.layer(x, x, x)[0]
        return self.layer(x.mT).mT if self.first else self.layer(x)


def flat(value: Any) -> list[Tensor]:
    """The tensors of a result."""
    return [value] if isinstance(value, Tensor) else [tensor for item in value for tensor in flat(item)]


def model_of(codes: Sequence[str]) -> nn.Module:
    """Expressions of the same arguments as a model whose arguments have their names."""
    names = ", ".join(corpus.arguments(codes[0]))
    space: dict[str, Any] = {"nn": nn, "Operator": Operator, "__name__": corpus.__name__}
    exec(
        "class Named(nn.Module):\n    def __init__(self, codes):\n        super().__init__()\n"
        "        self.parts = nn.ModuleList([Operator(code) for code in codes])\n"
        f"    def forward(self, {names}):\n        return [part({names}) for part in self.parts]",
        space,
    )
    named: nn.Module = space["Named"](codes).eval()
    return named


def session_of(codes: Sequence[str]) -> onnxruntime.InferenceSession:
    """The graph of expressions, as an export writes it, in ONNX Runtime."""
    names = corpus.arguments(codes[0])
    example = tuple(corpus.draw(name, "random", (3, 11)) for name in names)
    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    captured = capture(model_of(codes), example, axes=axes, state={})
    graph = onnx_ir.to_proto(to_onnx(captured)).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Fails(Exception):
    """ONNX Runtime does not run a graph of several operators."""


def check(codes: Sequence[str]) -> list[dict[str, Any]]:
    """What became of operators with the same arguments: a verdict, why, and the inputs where it is wrong.

    Raises:
        Fails: there are several, and one of them fails.
    """
    try:
        session = session_of(codes)
    except Exception as error:
        if len(codes) > 1:
            raise Fails from error
        refused = isinstance(error, rnn_runtime.Error)
        why = str(error).splitlines()[0] if refused else f"{type(error).__name__}: {str(error)[:200]}"
        return [{"verdict": "refused" if refused else "wrong", "why": why}]
    model = model_of(codes)
    wide = copy.deepcopy(model).double()
    outputs = [output.name for output in session.get_outputs()]
    feeds = [given.name for given in session.get_inputs()]
    names = corpus.arguments(codes[0])
    found: list[dict[str, Any]] = [{"inputs": 0, "wrong": {}} for _ in codes]
    for label, inputs in corpus.values(codes):
        parts = [eager(part, inputs) for part in model.parts]
        if all(part is None for part in parts):
            continue
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True) if name in feeds}
        try:
            got = session.run(outputs, feed)
        except Exception as error:
            if len(codes) > 1:
                raise Fails from error
            found[0]["inputs"] += 1
            found[0]["wrong"][label] = "fails: " + str(error).splitlines()[0][-100:]
            continue
        at = 0
        for result, part, twin, count in zip(found, parts, wide.parts, counts(model, names), strict=True):
            mine, at = got[at : at + count], at + count
            if part is None:
                continue
            want = wide_eager(twin, inputs) or part
            result["inputs"] += 1
            notes = [differs(a, b.numpy(), c.numpy()) for a, b, c in zip(mine, part, want, strict=True)]
            if any(notes):
                result["wrong"][label] = next(note for note in notes if note)
    for code, result in zip(codes, found, strict=True):
        result["verdict"] = verdict(code, result["wrong"]) if result["inputs"] else "skipped"
    return found


def verdict(code: str, wrong: dict[str, str]) -> str:
    """What the notes on an operator's inputs come to.

    Nothing is silent about a run that fails, where an axis has no element.
    """
    loud = {label for label, note in wrong.items() if note.startswith("fails") and label == "no step"}
    rest = wrong.keys() - loud
    labels, _ = corpus.LIMITS.get(code, ((), ""))
    known = {label for label in rest if label in labels or ("*" in labels and not wrong[label].startswith("fails"))}
    if rest - known:
        return "wrong"
    return "limit" if rest else "right"


def counts(model: nn.Module, names: Sequence[str]) -> list[int]:
    """How many tensors each operator gives."""
    example = [corpus.draw(name, "random", (3, 11)) for name in names]
    with torch.no_grad():
        return [len(flat(part(*example))) for part in model.parts]


def eager(part: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """What eager PyTorch gives; None where it refuses these inputs."""
    try:
        with torch.no_grad():
            return flat(part(*inputs))
    except Exception:
        return None


def wide_eager(part: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """The same in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        return eager(part, [value.double() if value.is_floating_point() else value for value in inputs])
    finally:
        torch.set_default_dtype(torch.float32)


def differs(got: np.ndarray, eager: np.ndarray, want: np.ndarray) -> str:
    """How a result differs from eager PyTorch; empty where it does not."""
    if got.dtype != eager.dtype:
        return f"dtype {got.dtype}, not {eager.dtype}"
    if got.shape != eager.shape:
        return f"shape {got.shape}, not {eager.shape}"
    if got.dtype.kind != "f":
        bad = got != eager
        return f"{got[bad][0]}, not {eager[bad][0]}" if bad.any() else ""
    with np.errstate(over="ignore"):
        narrow = want.astype(eager.dtype) if want.shape == eager.shape else eager
    # Where eager float32 overflows and float64 does not, or the other way round, both are right.
    bad = (kind(got) != kind(eager)) & (kind(got) != kind(narrow))
    if bad.any():
        return f"{got[bad][0]}, not {eager[bad][0]}"
    finite = np.isfinite(eager) & np.isfinite(got)
    a, b = got[finite].astype(np.float64), eager[finite].astype(np.float64)
    c = want[finite].astype(np.float64) if want.shape == eager.shape else b
    c = np.where(np.isfinite(c), c, b)
    if not a.size:
        return ""
    scale = np.maximum(1.0, np.abs(c))
    bad = np.abs(a - c) > np.maximum(TABLE * scale, OWN * np.abs(b - c).max())
    return f"{a[bad][0]:.9g}, not {c[bad][0]:.9g} (eager {b[bad][0]:.9g})" if bad.any() else ""


def kind(values: np.ndarray) -> np.ndarray:
    """Of each number whether it is finite, NaN, or which infinity."""
    return np.isnan(values) * 2.0 + np.where(np.isinf(values), np.sign(values), 0.0)


def child(codes: list[str], together: int, pipe: Connection) -> None:
    """Checks operators one after another and sends what it found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    at = 0
    while at < len(codes):
        names = corpus.arguments(codes[at])
        group = [codes[at]]
        while len(group) < together and at + len(group) < len(codes):
            if corpus.arguments(codes[at + len(group)]) != names:
                break
            group.append(codes[at + len(group)])
        try:
            results = check(group)
        except Fails:
            results = [result for code in group for result in check([code])]
        at += len(group)
        for result in results:
            pipe.send(result)


def sweep(codes: list[str], say: Any = None) -> dict[str, dict[str, Any]]:
    """What became of each operator. A child process that dies is replaced by another."""
    found: dict[str, dict[str, Any]] = {}
    together = TOGETHER
    while len(found) < len(codes):
        rest = [code for code in codes if code not in found]
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=child, args=(rest, together, there))
        process.start()
        there.close()
        for code in rest:
            try:
                found[code] = here.recv() if here.poll(SECONDS) else {"verdict": "wrong", "why": "takes too long"}
            except EOFError:
                if together > 1:  # which of them it was shows one by one
                    together = 1
                    break
                found[code] = {"verdict": "wrong", "why": "the process dies"}
                together = TOGETHER
            if say is not None:
                say(code, found[code])
            if found[code].get("why") in ("takes too long", "the process dies"):
                break
        process.kill()
        process.join()
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The page of what was found."""
    total = Counter(result["verdict"] for result in found.values())
    lines = [
        "# Operators",
        "",
        "Written by `make operators`: each operator is exported alone and run on ONNX Runtime beside eager PyTorch, on",
        "zeros, signed zeros, ties, negative and denormal values, infinities, NaN, 1e4, 1e30, 500 steps, one step and",
        "none. Right is: NaN and infinities in the same places, and numbers to within 1e-5 (times those above 1) or",
        "8 times what eager float32 is off. Refused: the export names it and writes nothing. A limit is known",
        "and stated here.",
        "",
        f"{len(found)} of {len(corpus.OPERATORS)} operators: " + ", ".join(f"{n} {v}" for v, n in total.items()) + ".",
    ]
    for group in corpus.GROUPS:
        rows = [(code, found[code]) for own, code in corpus.OPERATORS if own == group and code in found]
        lines += (
            ["", f"## {group.capitalize()}", "", "| operator | inputs | verdict | |", "|---|---|---|---|"]
            if rows
            else []
        )
        for code, result in rows:
            notes = corpus.LIMITS[code][1] if result["verdict"] == "limit" else result.get("why", "")
            if result["verdict"] == "wrong":
                notes = notes or "; ".join(f"{label}: {note}" for label, note in result["wrong"].items())
            notes = FOLDERS.sub("", notes)
            shown = [text.replace("|", "\\|") for text in (code, notes)]
            lines.append(f"| `{shown[0]}` | {result.get('inputs', '')} | {result['verdict']} | {shown[1][:200]} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs the sweep and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="operators whose group or text has this in it; writes no table")
    parser.add_argument("--results", type=Path, help="go on from what this file has, and add to it")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "operators.md")
    options = parser.parse_args()
    codes = [code for group, code in corpus.OPERATORS if options.only in f"{group}: {code}"]
    begun = time.monotonic()
    before: dict[str, Any] = (
        json.loads(options.results.read_text()) if options.results and options.results.exists() else {}
    )
    codes = [code for code in codes if code not in before]

    def say(code: str, result: dict[str, Any]) -> None:
        before[code] = result
        if options.results:
            options.results.write_text(json.dumps(before, indent=1))
        if result["verdict"] != "right":
            print(f"{result['verdict']:8s} {code}  {str(result.get('why') or result.get('wrong'))[:200]}", flush=True)

    found = sweep(codes, say)
    count = Counter(result["verdict"] for result in before.values())
    print(
        ", ".join(f"{n} {v}" for v, n in count.items()),
        f"in {time.monotonic() - begun:.0f} s, {len(found)} of them new",
    )
    if options.results or not options.only:
        known = {code for _, code in corpus.OPERATORS}
        options.output.write_text(table({code: result for code, result in before.items() if code in known}))
    return int(count["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
