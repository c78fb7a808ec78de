"""Exports other people's models as they are, beside PyTorch's own exporters; writes docs/real-models.md.

python tests/real/run.py                      all of it, each model and exporter in a process of its own
python tests/real/run.py kraken_recognition   one model, printed
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from likenesses import LIKENESSES  # noqa: E402 - these three lie beside, in no package
from packages import REAL, SIZES, build  # noqa: E402
from test_likenesses import outcome, tensors  # noqa: E402

import rnn_export  # noqa: E402
import rnn_runtime  # noqa: E402
from rnn_export._capture.module import float64, wide_copy  # noqa: E402

TOLERANCE = 1e-5
"""Largest absolute error against eager PyTorch in float64, times the largest value where that is above 1; or four times
what eager PyTorch itself is off in float32, as everywhere in this project."""

PARTS = {"ours": "rnn-export", "dynamo": "torch.onnx dynamo=True", "script": "torch.onnx dynamo=False"}


@dataclass
class Want:
    """A result of eager PyTorch: in float64 where it is a number with a point, and as the model gives it."""

    exact: Tensor
    eager: Tensor

    def error(self, got: np.ndarray) -> float:
        """The largest difference, in units of what is allowed; infinite where shapes differ."""
        if got.shape != tuple(self.exact.shape):
            return float("inf")
        expected = self.exact.double().numpy()
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        own = float((self.eager.double() - self.exact.double()).abs().max()) / scale if expected.size else 0.0
        found = float(np.abs(got.astype(np.float64) - expected).max(initial=0.0)) / scale
        return found * TOLERANCE / max(TOLERANCE, 4 * own)


def wanted(name: str, inputs: tuple[Any, ...]) -> list[Want]:
    """What eager PyTorch makes of inputs; the models are new ones, since a model may keep what it was given."""

    def wide(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(wide, value))
        return value.double() if value.is_floating_point() else value.clone()

    model = wide_copy(build(name))
    with torch.no_grad(), float64():
        exact = tensors(model(*map(wide, inputs)))
    with torch.no_grad():
        eager = tensors(build(name)(*inputs))
    return [Want(x if x.is_floating_point() else y, y) for x, y in zip(exact, eager, strict=True)]


def cases(name: str) -> list[tuple[list[Tensor], list[Want]]]:
    """Fresh inputs at the three sizes, flat, and what eager PyTorch makes of them."""
    found = []
    for seed, sizes in enumerate(SIZES):
        torch.manual_seed(1000 + seed)
        inputs = REAL[name].draw(*sizes)
        flat = [tensor.clone() for tensor in tensors(list(inputs))]
        found.append((flat, wanted(name, inputs)))
    return found


def verdict(errors: list[float], problem: str = "") -> dict[str, Any]:
    worst = max(errors) if errors else float("inf")
    if worst <= TOLERANCE:
        return {"verdict": "exact", "error": worst}
    return {"verdict": "wrong", "error": None if np.isinf(worst) else worst, "reason": problem}


def refused(reason: Exception) -> dict[str, Any]:
    text = str(reason).strip().splitlines()[0] if str(reason).strip() else ""
    return {"verdict": "refused", "reason": f"{type(reason).__name__}: {text}"}


def ours(name: str) -> dict[str, Any]:
    real = REAL[name]
    torch.manual_seed(0)
    example = real.example()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        try:
            bundle = rnn_export.export(build(name), example, path, axes=real.axes)
        except (rnn_export.ExportError, rnn_export.MismatchError, rnn_export.InputError) as reason:
            return {**refused(reason), "streaming": {"verdict": "not tried"}}
        runtime, script = rnn_runtime.load(bundle), torch.jit.load(path / "model.pt")
        names = [spec.name for spec in bundle.signature.inputs]
        errors, problem = [], ""
        for flat, wants in cases(name):
            try:
                feeds = {key: tensor.numpy() for key, tensor in zip(names, flat, strict=True)}
                got = list(runtime.run(feeds).values())
                with torch.no_grad():
                    traced = script(*[tensor.clone() for tensor in flat])
                for a, b, want in zip(got, traced, wants, strict=True):
                    errors += [want.error(a), want.error(b.numpy())]
            except Exception as reason:
                errors.append(float("inf"))
                problem = str(reason).strip().splitlines()[0]
        result = verdict(errors, problem)
        return {**result, "streaming": streaming(name, example, bundle, Path(folder) / "lifted")}


def streaming(name: str, example: tuple[Any, ...], bundle: rnn_export.Bundle, path: Path) -> dict[str, Any]:
    """Chunks with the state carried against the whole in one run; or that lifting is refused by name."""
    real = REAL[name]
    if not real.streams:
        return {"verdict": "-"}
    if real.streams in ("lift", "no"):
        try:
            bundle = rnn_export.export(build(name), example, path, axes=real.axes, state="lift", formats=["onnx"])
        except rnn_export.ExportError as reason:
            named = "bidirectional" in str(reason) or "'" in str(reason).partition("state='lift', but")[2]
            right = real.streams == "no" and named
            return {"verdict": "refused by name" if right else "refused", "reason": str(reason)}
        if real.streams == "no":
            return {"verdict": "wrong", "reason": "lifting was not refused"}
    runtime = rnn_runtime.load(bundle)
    torch.manual_seed(7)
    inputs = real.draw(3, 12)
    flat = tensors(list(inputs))
    specs = bundle.signature.inputs[: len(flat)]
    once = runtime.run({spec.name: tensor.numpy() for spec, tensor in zip(specs, flat, strict=True)})
    whole = [Want(torch.from_numpy(array), torch.from_numpy(array)) for array in once.values()]
    states = {state.input for state in bundle.signature.states}
    state = {spec.name: t.numpy() for spec, t in zip(specs, flat, strict=True) if spec.name in states} or None
    results, chunks = [], []
    for start, end in ((0, 1), (1, 5), (5, 12)):
        feeds = {}
        for spec, tensor in zip(specs, flat, strict=True):
            if spec.name in states:
                continue
            for dim, axis in enumerate(spec.axes):
                tensor = tensor.narrow(dim, start, end - start) if axis == "sequence" else tensor
            feeds[spec.name] = tensor.contiguous().numpy()
        result = runtime.run(feeds, state=state)
        state = result.state
        results.append(list(result.values()))
        chunks.append(next(iter(feeds.values())))
    errors = []
    for spec, want, *parts in zip(bundle.signature.outputs, whole, *results, strict=False):
        dims = [dim for dim, axis in enumerate(spec.axes) if axis == "sequence"]
        errors.append(want.error(np.concatenate(parts, dims[0]) if dims else parts[-1]))
    if real.stateful is not None:
        own = real.stateful([torch.from_numpy(chunk) for chunk in chunks])
        errors += [Want(want, want).error(result[0]) for result, want in zip(results, own, strict=True)]
    return verdict(errors) | ({"against": "the package's own stateful calls too"} if real.stateful else {})


def plain(name: str, *, dynamo: bool) -> dict[str, Any]:
    """PyTorch's exporter, given the same axes."""
    real = REAL[name]
    torch.manual_seed(0)
    example = real.example()
    flat_axes = list(real.axes.values())
    names = list(real.axes)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        try:
            if dynamo:
                queue = iter(flat_axes)

                def shapes(value: Any) -> Any:
                    if isinstance(value, tuple):
                        return tuple(map(shapes, value))
                    return dict.fromkeys(next(queue), torch.export.Dim.DYNAMIC)

                how: dict[str, Any] = {"dynamic_shapes": shapes(example), "dynamo": True, "verbose": False}
            else:
                how = {"input_names": names, "dynamic_axes": real.axes, "dynamo": False}
            torch.onnx.export(build(name), example, path, **how)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as reason:
            return refused(reason)
        errors, problem = [], ""
        for flat, wants in cases(name):
            try:
                feeds = {node.name: tensor.numpy() for node, tensor in zip(session.get_inputs(), flat, strict=False)}
                got = session.run(None, feeds)
                errors += [want.error(a) for a, want in zip(got, wants, strict=True)]
            except Exception as reason:
                errors.append(float("inf"))
                problem = str(reason).strip().splitlines()[0]
        return verdict(errors, problem)


def like(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return verdict([outcome(LIKENESSES[name], Path(folder) / "bundle")])
        except (rnn_export.ExportError, rnn_export.MismatchError, rnn_export.InputError) as reason:
            return refused(reason)
        except AssertionError as reason:
            return {"verdict": "wrong", "error": None, "reason": str(reason).strip().splitlines()[0]}


def one(name: str, part: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    if part == "like":
        return like(name)
    return ours(name) if part == "ours" else plain(name, dynamo=part == "dynamo")


def apart(name: str, part: str) -> dict[str, Any]:
    """`one` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, name, "--part", part],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"verdict"')]
    if lines:
        return dict(json.loads(lines[-1]))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"verdict": "refused", "reason": f"the process ended with {done.returncode}: {last}"}


def cell(result: dict[str, Any]) -> str:
    if result["verdict"] == "exact":
        return f"exact, {result['error']:.0e}"
    if result["verdict"] == "wrong":
        return "**wrong**" + (f", {result['error']:.0e}" if result.get("error") else "")
    return str(result["verdict"])


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def document(results: dict[str, dict[str, Any]], likes: dict[str, dict[str, Any]]) -> str:
    """The page."""
    counts = {}
    for part, title in PARTS.items():
        found = [result[part]["verdict"] for result in results.values()]
        counts[title] = {word: found.count(word) for word in ("exact", "refused", "wrong")}
    lines = [
        "# Other people's models",
        "",
        "Recurrent models out of other people's packages, each exported by one `rnn_export.export(model, example, path,",
        "axes=...)` as it is, and run at batch and steps of (1, 1), (3, 9) and (5, 31) on ONNX Runtime and as TorchScript.",
        f"Exact: every result within {TOLERANCE:.0e} of eager PyTorch in float64, times the largest value where that is",
        "above 1, or within four times of what eager float32 itself is off; the figure is the largest error of both formats,",
        "in the unit of what is allowed. PyTorch's exporters get the same axes (`Dim.DYNAMIC`, `dynamic_axes`), each in a",
        "process of its own. `make real-models` writes this page; versions of the packages:",
        "[tests/real/requirements.txt](../tests/real/requirements.txt); models and inputs:",
        "[tests/real/packages.py](../tests/real/packages.py).",
        f"torch {version('torch')}, onnxscript {version('onnxscript')}, onnxruntime {version('onnxruntime')}.",
        "",
        row("exporter", "exact", "refused", "wrong"),
        row(*["---"] * 4),
        *(row(title, *(str(count[w]) for w in ("exact", "refused", "wrong"))) for title, count in counts.items()),
        "",
        row("model", "what it is", "rnn-export", "streaming", "dynamo=True", "dynamo=False"),
        row(*["---"] * 6),
    ]
    for name, result in results.items():
        streams = result["ours"].get("streaming", {"verdict": "-"})
        lines.append(
            row(
                f"{name} ({REAL[name].package})",
                REAL[name].what,
                cell(result["ours"]),
                cell(streams) + (f"; {streams['against']}" if "against" in streams else ""),
                cell(result["dynamo"]),
                cell(result["script"]),
            )
        )
    lines += [
        "",
        "Streaming: in three pieces with the state carried against the whole in one run, where a model can run on a stream; or",
        '"refused by name", where `state="lift"` has to name the layer that keeps it from that.',
        "",
        "## What rnn-export refuses here",
        "",
    ]
    missing = [(name, result["ours"]) for name, result in results.items() if result["ours"]["verdict"] != "exact"]
    lines += [f"- {name}: {clean(result['reason'])}" for name, result in missing] or ["Nothing."]
    exact = [name for name, result in likes.items() if result["verdict"] == "exact"]
    lines += [
        "",
        "## Likenesses",
        "",
        "Small models written in the ways of further well known packages: speech recognition, translation, tagging,",
        "forecasting, separation, policies ([tests/real/likenesses.py](../tests/real/likenesses.py)). "
        f"{len(exact)} of {len(likes)} exact:",
        ", ".join(exact) + ".",
        "",
        *(f"- {name}: {cell(r)}: {clean(r.get('reason', ''))}" for name, r in likes.items() if name not in exact),
    ]
    return "\n".join(lines).rstrip() + "\n"


def clean(reason: str) -> str:
    """A reason without the folders of the machine that it was given on."""
    words = [Path(word).name if word.startswith("/") else word for word in reason.replace("(/", "( /").split()]
    return " ".join(words).replace("( ", "(")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models or likenesses to try; all of them if none")
    parser.add_argument("--part", choices=[*PARTS, "like"], help="one exporter, in this process")
    parser.add_argument("--results", type=Path, default=Path("build/real-models.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/real-models.md"))
    given = parser.parse_args()
    if given.part:
        print(json.dumps(one(given.names[0], given.part)))
        return
    results: dict[str, dict[str, Any]] = {}
    likes: dict[str, dict[str, Any]] = {}
    for name in given.names or [*REAL, *LIKENESSES]:
        if name in REAL:
            results[name] = {part: apart(name, part) for part in PARTS}
            print(
                name,
                *(cell(results[name][part]) for part in PARTS),
                cell(results[name]["ours"].get("streaming", {"verdict": "-"})),
                sep="  ",
                flush=True,
            )
        else:
            likes[name] = apart(name, "like")
            print(name, cell(likes[name]), clean(likes[name].get("reason", "")), sep="  ", flush=True)
    if not given.names:
        given.results.parent.mkdir(parents=True, exist_ok=True)
        given.results.write_text(json.dumps({"models": results, "likenesses": likes}, indent=1) + "\n")
        given.output.write_text(document(results, likes))
        print(f"wrote {given.output}")
    wrong = [name for name, result in results.items() if result["ours"]["verdict"] == "wrong"]
    wrong += [name for name, result in results.items() if result["ours"].get("streaming", {}).get("verdict") == "wrong"]
    wrong += [name for name, result in likes.items() if result["verdict"] == "wrong"]
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
