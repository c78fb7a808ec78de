"""Run the whole corpus and write docs/loops.md: this exporter, PyTorch's two and OpenVINO, each model in a process of its own."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SIZES = [(batch, sequence) for batch in (1, 2, 7) for sequence in (1, 2, 13, 64)]
EXAMPLE = (2, 4)
COLUMNS = {
    "ours": "rnn-export",
    "dynamo": "`torch.onnx` dynamo=True",
    "legacy": "`torch.onnx` dynamo=False",
    "openvino": "OpenVINO",
}
ATOL = {"float32": 1e-4, "float64": 1e-10}


def corpus():
    spec = importlib.util.spec_from_file_location("loops_corpus", HERE / "corpus.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LOOPS


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in (value.values() if isinstance(value, dict) else value) for tensor in flat(item)]


def drawn(case, dtype, batch, sequence):
    torch.manual_seed(batch * 1000 + sequence)
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in case.inputs(batch, sequence))


def verdict(case, model, dtype, runs):
    """exact, wrong or refused, from functions inputs -> outputs; with a word on why."""
    atol, failed = ATOL[str(dtype).removeprefix("torch.")], None
    for batch, sequence in SIZES:
        inputs = drawn(case, dtype, batch, sequence)
        with torch.no_grad():
            want = [t.numpy() for t in flat(model(*(t.clone() for t in inputs)))]
        for run in runs:
            try:
                got = run(inputs)
            except Exception as error:
                failed = failed or ("refused", f"at batch {batch}, sequence {sequence}: {first_line(error)}")
                continue  # it may still be wrong elsewhere, which is worse
            for a, b in zip(want, got, strict=True):
                if a.shape != tuple(b.shape):
                    return "wrong", f"{list(b.shape)} for {list(a.shape)} at batch {batch}, sequence {sequence}"
                error = np.abs(a.astype("f8") - np.asarray(b, "f8")).max()
                if not error <= atol * max(1, np.abs(a).max()):
                    return "wrong", f"off by {error:.1g} at batch {batch}, sequence {sequence}"
    return failed or ("exact", "")


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def ours(case, model, example, folder, dtype):
    import rnn_export
    import rnn_runtime

    # Names of other packages' exporters stay out of what is measured here.
    bundle = rnn_export.export(model, example, folder / "bundle", axes=case.axes)
    runtime, scripted = rnn_runtime.load(bundle), torch.jit.load(str(bundle.path / "model.pt"))
    names = [spec.name for spec in bundle.signature.inputs]

    def onnx(inputs):
        return list(runtime.run({k: t.numpy() for k, t in zip(names, inputs, strict=True)}).values())

    def torchscript(inputs):
        with torch.no_grad():
            return [t.numpy() for t in scripted(*inputs)]

    return [onnx, torchscript]


def session(data):
    import onnxruntime

    model = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(inputs):
        taken = {i.name for i in model.get_inputs()}
        names = [i.name for i in model.get_inputs()]
        feeds = dict(zip(names, [t.numpy() for t in inputs], strict=False))
        return model.run(None, {k: v for k, v in feeds.items() if k in taken})

    return [run]


def dynamo(case, model, example, folder, dtype):
    shapes = tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for dims in case.axes.values())
    program = torch.onnx.export(model, example, dynamo=True, dynamic_shapes=shapes, verbose=False)
    program.save(str(folder / "m.onnx"))
    return session(str(folder / "m.onnx"))


def legacy(case, model, example, folder, dtype):
    file = io.BytesIO()
    torch.onnx.export(
        model, example, file, dynamo=False, opset_version=18, input_names=list(case.axes), dynamic_axes=case.axes
    )
    return session(file.getvalue())


def openvino(case, model, example, folder, dtype):
    import openvino as ov

    converted = ov.convert_model(model, example_input=example)
    compiled = ov.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs):
        result = compiled([t.numpy() for t in inputs])
        return [result[k] for k in range(len(result))]

    return [run]


def one(column, name):
    """Print a model's verdicts by one exporter, as JSON."""
    warnings.simplefilter("ignore")
    case = corpus()[name]
    found = {}
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = case.model().eval().to(dtype)
        start = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                example = drawn(case, dtype, *EXAMPLE)
                runs = globals()[column](case, model, example, Path(folder), dtype)
                seconds = time.perf_counter() - start
                result = verdict(case, model, dtype, runs)
        except Exception as error:
            seconds, result = time.perf_counter() - start, ("refused", first_line(error))
        found[str(dtype).removeprefix("torch.")] = [*result, seconds]
    print("\n" + json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("COLUMN", "NAME"))
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "loops.json")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "loops.md")
    parser.add_argument("--columns", nargs="*", default=list(COLUMNS))
    args = parser.parse_args()
    if args.one:
        one(*args.one)
        return
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    columns = [c for c in args.columns if c != "openvino" or importlib.util.find_spec("openvino")]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for name in corpus():
        for column in columns:
            if name not in results.get(column, {}):
                command = [sys.executable, "-W", "ignore", __file__, "--one", column, name]
                run = subprocess.run(command, capture_output=True, text=True, timeout=600)
                try:
                    found = json.loads(run.stdout.strip().splitlines()[-1])
                except (IndexError, ValueError):
                    found = {t: ["refused", f"the process ended with {run.returncode}", 0.0] for t in ATOL}
                results.setdefault(column, {})[name] = found
                args.results.write_text(json.dumps(results, indent=1))
                print(column, name, *(f"{t}: {v[0]} {v[1][:100]}" for t, v in found.items()), flush=True)
    args.output.write_text(page(results))


def page(results):
    from importlib.metadata import PackageNotFoundError, version

    cases = corpus()
    lines = [
        "# Python loops",
        "",
        "Written by `make loops`: the models of [tests/loops/corpus.py](../tests/loops/corpus.py), loops over time as people",
        "write them. Each is exported once, at batch 2 and four steps, and run at batches 1, 2 and 7 and 1, 2, 13 and 64",
        "steps, in float32 and float64. Exact: within 1e-4 (float32) and 1e-10 (float64) of eager PyTorch at all of them,",
        "on ONNX Runtime and, for rnn-export, in TorchScript too. Refused: no file, or an error at one of these sizes.",
        "[models.md](models.md#python-loops) says how loops are rolled.",
        "",
        "| exporter | float32: exact | wrong | refused | float64: exact | wrong | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for column, title in COLUMNS.items():
        found = results.get(column)
        if not found:
            lines.append(f"| {title} | not measured | | | | | |")
            continue
        counts = [
            sum(found[name][t][0] == v for name in cases if name in found)
            for t in ATOL
            for v in ("exact", "wrong", "refused")
        ]
        part = f" ({len(found)} of {len(cases)} measured)" if len(found) < len(cases) else ""
        lines.append(f"| {title}{part} | {' | '.join(map(str, counts))} |")
    lines += ["", "| loop | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name, case in cases.items():
        doc = (case.model.__doc__ or "").strip().splitlines()
        cells = []
        for column in COLUMNS:
            found = results.get(column, {}).get(name)
            if found is None:
                cells.append("-")
                continue
            kinds = [found[t][0] for t in ATOL]
            cells.append(kinds[0] if len(set(kinds)) == 1 else f"{kinds[0]} ({kinds[1]} in float64)")
        lines.append(
            f"| `{name}`{': ' + doc[0] if doc and not doc[0].startswith('nn.') else ''} | {' | '.join(cells)} |"
        )
    lines += ["", "What rnn-export says of those that it refuses:", ""]
    for name in cases:
        found = results.get("ours", {}).get(name, {}).get("float32")
        if found and found[0] != "exact":
            said = found[1].replace(str(ROOT) + "/", "").replace("|", "\\|")
            lines.append(f"- `{name}`: {said}")
    versions = []
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    lines += ["", f"{', '.join(versions)}; Python {platform.python_version()}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
