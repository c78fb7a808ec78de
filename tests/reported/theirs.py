"""What PyTorch's own exporters do today with the cases of the table, each in a process of its own."""

from __future__ import annotations

import importlib
import io
import logging
import multiprocessing
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from settle import BOUND, Case, close
from torch.export import Dim

EXPORTERS = {"dynamo=True": True, "dynamo=False": False}
TIMEOUT = 240
WORST = ("bad-silent", "bad", "ok")

Verdict = tuple[str, str]


def cases() -> list[Case]:
    """All cases that PyTorch's exporters take as they are."""
    found = []
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(file.stem)
        if file.stem != "test_torchscript":  # its rows are not about torch.onnx
            found += [case for name in ("CASES", "THEIRS") for case in getattr(module, name, ()) if case.theirs]
    return found


def verdict(case: Case, dynamo: bool) -> Verdict:
    """ok: right at every size. bad: an error and no file. bad-silent: a file that is wrong at other sizes.

    A file that does not even run at the traced sizes is bad; one that runs there, and gives something else or an error
    at other sizes, is bad-silent.
    """
    try:
        data = exported(case, dynamo)
    except Exception as error:
        return "bad", f"the export raises {said(error)}"
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        return "bad", f"the file does not load: {said(error)}"
    wanted = {value.name for value in session.get_inputs()}
    for k, sizes in enumerate((case.traced, *case.sizes)):
        place = " ".join(f"{axis}={size}" for axis, size in sizes.items())
        flat = case.draw(sizes)
        feeds = {name: t.numpy() for name, t in zip(case.inputs, flat, strict=True) if name in wanted}
        # Where a model keeps its state, a second call goes on from the first.
        model = case.build().eval().double()
        for _ in range(2 if case.twice else 1):
            try:
                got = session.run(None, feeds)
            except Exception as error:
                return ("bad-silent" if k else "bad"), f"it does not run at {place}: {said(error)}"
            want = case.eager(flat, model)
        try:
            close(got, want, BOUND[case.dtype], place)
        except AssertionError as error:
            return "bad-silent", str(error).splitlines()[0]
    return "ok", ""


def exported(case: Case, dynamo: bool) -> bytes:
    arguments = case.nest(*case.draw(case.traced))
    axes = {name: case.all_axes.get(name, {}) for name in case.inputs}
    model = case.build().eval()
    if dynamo:
        dims = case.nest(*(dict.fromkeys(dimensions, Dim.DYNAMIC) for dimensions in axes.values()))
        program = torch.onnx.export(
            model, arguments, dynamo=True, dynamic_shapes=dims, input_names=list(case.inputs), verbose=False
        )
        return program.model_proto.SerializeToString()
    file = io.BytesIO()
    torch.onnx.export(model, arguments, file, dynamo=False, input_names=list(case.inputs), dynamic_axes=axes)
    return file.getvalue()


def said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def work(index: int, dynamo: bool, pipe: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    pipe.send(verdict(cases()[index], dynamo))


def in_child(index: int, dynamo: bool) -> Verdict:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(index, dynamo, send))
    child.start()
    send.close()
    try:
        if receive.poll(TIMEOUT):
            return receive.recv()
        raise EOFError
    except EOFError:
        return "bad", "the process died or took too long"
    finally:
        child.kill()
        child.join()


def run(workers: int) -> Mapping[str, Mapping[str, Verdict]]:
    """For each row that has such cases and each exporter, the worst verdict and why."""
    every = cases()
    jobs = [(index, name) for index in range(len(every)) for name in EXPORTERS]
    found: dict[str, dict[str, Verdict]] = {}
    with ThreadPoolExecutor(workers) as pool:
        verdicts = pool.map(lambda job: in_child(job[0], EXPORTERS[job[1]]), jobs)
        for (index, name), (result, why) in zip(jobs, verdicts, strict=True):
            for row in every[index].rows:
                before = found.setdefault(row, {}).get(name, ("ok", ""))
                found[row][name] = min(before, (result, why), key=lambda one: WORST.index(one[0]))
    return found


if __name__ == "__main__":
    np.set_printoptions(suppress=True)
    for row, by_exporter in run(os.cpu_count() or 1).items():
        print(row, *(f"{name}: {result} {why}" for name, (result, why) in by_exporter.items()), sep="\n  ")
