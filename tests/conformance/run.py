"""Run the whole conformance matrix and write docs/conformance.md: python tests/conformance/run.py [--sample N].

Each configuration runs in a process of its own, since PyTorch's exporter gives other results for the second recurrent model of a process.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import onnx
import onnxruntime
import onnxscript
import torch
from matrix import CELLS, PACKING, Config, arguments, axes, build, configs, inputs, names, problem
from torch.export import Dim

import rnn_export
import rnn_runtime
from rnn_export._versions import cpu

ROOT = Path(__file__).parent.parent.parent
PARTS = {
    "ours": ("rnn-export ONNX", "rnn-export TorchScript", "rnn-export .pt2"),
    "dynamo": ("torch.onnx dynamo=True",),
    "legacy": ("torch.onnx dynamo=False",),
}
"""What runs in one process, and the columns that it fills."""
COLUMNS = tuple(column for columns in PARTS.values() for column in columns)
TIMEOUT = 300

Results = list[tuple[Config, dict[str, tuple[str, str]]]]


def ours(config: Config) -> dict[str, tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            bundle = rnn_export.export(
                path=Path(folder) / "bundle", formats=["onnx", "torchscript", "pt2"], **arguments(config)
            )
        except rnn_export.Error as error:
            return dict.fromkeys(PARTS["ours"], ("refused", str(error)))
        runtime = rnn_runtime.load(bundle)
        script = torch.jit.load(bundle.path / "model.pt")
        program = torch.export.load(bundle.path / "model.pt2").module()
        found = [problem(config, build(config), lambda arrays: list(runtime.run(arrays).values()))]
        for module in (script, program):
            found.append(problem(config, build(config), functools.partial(on_torch, module)))
        return {
            column: ("wrong", text) if text else ("pass", "") for column, text in zip(PARTS["ours"], found, strict=True)
        }


def on_torch(module: Any, arrays: Any) -> list[Any]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in module(*map(torch.from_numpy, arrays.values()))]


def theirs(config: Config, dynamo: bool) -> tuple[str, str]:
    example = tuple(inputs(config, 3, 6))
    file = io.BytesIO()
    if dynamo:
        # forward(x, *states): one tuple of axes for the states, where there are some
        dims = [dict.fromkeys(dimensions, Dim.DYNAMIC) for dimensions in axes(config).values()]
        fixed = 1 + (config.packing != "none")
        states = [tuple(dims[fixed:])] if config.state else []
        options: dict[str, Any] = {
            "dynamo": True,
            "dynamic_shapes": (*dims[:fixed], *states),
            "verbose": False,
        }
    else:
        options = {"dynamo": False, "dynamic_axes": {**axes(config), **output_axes(config)}}
    try:
        program = torch.onnx.export(
            build(config),
            example,
            None if dynamo else file,
            input_names=names(config)[0],
            output_names=names(config)[1],
            **options,
        )
        data = program.model_proto.SerializeToString() if dynamo else file.getvalue()
    except Exception as error:
        return (
            "refused",
            f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150] if str(error).strip() else ''}",
        )
    try:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level, settings.intra_op_num_threads = 4, 1
        session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        return "wrong", f"does not load: {str(error).strip().splitlines()[0][:150]}"
    wanted = {value.name for value in session.get_inputs()}
    found = problem(config, build(config), lambda a: session.run(None, {k: v for k, v in a.items() if k in wanted}))
    return ("wrong", found) if found else ("pass", "")


def output_axes(config: Config) -> dict[str, dict[int, str]]:
    return {name: axes(config)["x"] if name == "output" else {1: "batch"} for name in names(config)[1]}


def work(config: Config, part: str, pipe: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    if part == "ours":
        pipe.send(ours(config))
    else:
        pipe.send(dict.fromkeys(PARTS[part], theirs(config, part == "dynamo")))


def in_child(config: Config, part: str) -> dict[str, tuple[str, str]]:
    """The verdicts of one configuration, from a process of its own; one that dies is wrong."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(config, part, send))
    child.start()
    send.close()
    try:
        if receive.poll(TIMEOUT):
            return receive.recv()
        raise EOFError
    except EOFError:
        return dict.fromkeys(PARTS[part], ("wrong", "the process died or took too long"))
    finally:
        child.kill()
        child.join()


def table(results: Results, columns: list[str]) -> str:
    def counts(rows: Results) -> list[str]:
        cells = []
        for column in columns:
            found = Counter(verdicts[column][0] for _, verdicts in rows)
            cells.append(f"{found['pass']} / {found['wrong']} / {found['refused']}")
        return cells

    lines = [f"| cell | packed | dtype | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for cell in CELLS:
        for packing in PACKING:
            for dtype in ("float32", "float64"):
                rows = [(c, v) for c, v in results if (c.cell, c.packing, c.dtype) == (cell, packing, dtype)]
                if rows:
                    lines.append(f"| {cell} | {packing} | {dtype} | {' | '.join(counts(rows))} |")
    for dtype in ("float32", "float64"):
        rows = [(c, v) for c, v in results if c.dtype == dtype]
        if rows:
            lines.append(f"| **all** | | {dtype} | {' | '.join(f'**{cell}**' for cell in counts(rows))} |")
    return "\n".join(lines)


def page(results: Results, columns: list[str]) -> str:
    reasons = []
    for column in columns:
        texts = Counter((v[column][0], generic(v[column][1])) for _, v in results if v[column][0] != "pass")
        reasons += [f"\n### {column}\n"] if texts else []
        reasons += [f"- {count} {verdict}: {text}" for (verdict, text), count in texts.most_common(12)]
    return f"""# The conformance matrix

Written by `make conformance`. {len(results)} configurations{"" if len(results) == len(list(configs())) else ", a random sample"}: combinations of cell, 1 to 3 layers, one or both directions, `batch_first`,
biases, initial state given or not, packing and dtype that PyTorch accepts. Each is exported once, traced at batch {3} and sequence {6}, and
run at batch 1, 2 and 7 times sequence 1, 2, 13 and 64, with non-zero states where they are given and lengths of which the longest is shorter
than the padding at every other shape. All outputs and all final states are compared with eager float64.

Each cell counts **pass / wrong / refused**. Pass: off by at most 1e-5, and by at most four times eager float32's own error unless
below 1e-6; in float64, where eager is the yardstick itself, off by at most 1e-14. Wrong: exported without an error, and another shape, another number, or an error at run time.
PyTorch's exporters are given `Dim.DYNAMIC` and `dynamic_axes` for the same axes, each in a fresh process.

torch {torch.__version__}, onnxscript {onnxscript.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__},
Python {platform.python_version()}, {cpu()}.

{table(results, columns)}

## What is wrong or refused, by reason
{chr(10).join(reasons) or chr(10) + "Nothing."}
"""


def summary(results: Results, columns: list[str]) -> str:
    """The few lines of the README."""
    counts = {c: Counter((config.dtype, v[c][0]) for config, v in results) for c in columns}
    lines = [
        f"Of {len(results)} configurations of PyTorch's recurrent layers, each exported once and run at twelve sizes that were never traced:",
        "",
        "| exporter | float32: right | wrong | refused | float64: right | wrong | refused |",
        "|---" * 7 + "|",
    ]
    for column, found in counts.items():
        cells = [
            str(found[dtype, verdict]) for dtype in ("float32", "float64") for verdict in ("pass", "wrong", "refused")
        ]
        lines.append(f"| {column} | {' | '.join(cells)} |")
    lines += [
        "",
        "[docs/conformance.md](docs/conformance.md) has the rows, the versions and the reasons; `make conformance` makes it again.",
    ]
    return "\n".join(lines)


def into_readme(text: str) -> None:
    """Put the summary between its marks."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- conformance -->\n", 1)
    _, after = rest.split("<!-- end of conformance -->\n", 1)
    readme.write_text(f"{before}<!-- conformance -->\n{text}\n<!-- end of conformance -->\n{after}", encoding="utf-8")


def generic(text: str) -> str:
    """A reason without its numbers, so that like ones are counted together."""
    import re

    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^batch \d+, sequence \d+: ", "", text)
    return re.sub(r"\d[\d.e+-]*", "N", text).replace("|", "/")[:160]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--sample", type=int, help="a random sample of the matrix")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run; the rest is taken from --results"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build" / "conformance.json", help="where verdicts are kept"
    )
    parser.add_argument("--resume", action="store_true", help="leave out what --results has already")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "conformance.md")
    options = parser.parse_args()
    chosen = list(configs())
    if options.sample:
        chosen = random.sample(chosen, options.sample)
    kept = json.loads(options.results.read_text()) if options.results.exists() else {}
    results: dict[str, dict[str, tuple[str, str]]] = {str(c): dict(kept.get(str(c), {})) for c in chosen}
    start = time.monotonic()
    jobs = [(config, part) for config in chosen for part in options.parts]
    if options.resume:
        jobs = [(config, part) for config, part in jobs if not set(PARTS[part]) <= set(results[str(config)])]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.workers) as pool:
        for k, ((config, _), verdicts) in enumerate(
            zip(jobs, pool.map(lambda job: in_child(*job), jobs), strict=True), 1
        ):
            results[str(config)] |= verdicts
            if k % 50 == 0 or k == len(jobs):
                options.results.write_text(json.dumps({**kept, **results}))
                print(f"{k} of {len(jobs)}, {time.monotonic() - start:.0f} s", flush=True)
    columns = [column for column in COLUMNS if all(column in verdicts for verdicts in results.values())]
    whole = [(config, results[str(config)]) for config in chosen]
    options.output.write_text(page(whole, columns), encoding="utf-8")
    if len(whole) == len(list(configs())) and columns == list(COLUMNS):
        into_readme(summary(whole, columns))
    ours = [column for column in columns if column in PARTS["ours"]]
    bad = [(str(c), column, v[column]) for c, v in whole for column in ours if v[column][0] != "pass"]
    print(table(whole, columns))
    print(json.dumps(bad, indent=1) if bad else f"all of {', '.join(ours)} pass")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
