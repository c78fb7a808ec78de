"""One backend of a bench, in a process of its own.

python -m rnn_export._bench._worker BACKEND BUNDLE FOLDER THREADS TARGET WEIGHTS reads a line of JSON on standard input
for each thing to do, and answers with one. Each backend imports what it needs alone, so that its memory is its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Run = Callable[[], Any]


def onnxruntime(bundle: Path, threads: int, *_: str) -> Callable[[Arrays], tuple[Run, Callable[[], Arrays]]]:
    """The graph, by rnn_runtime."""
    import rnn_runtime

    model = rnn_runtime.load(bundle, threads=threads)
    return lambda inputs: (lambda: model.run(inputs), lambda: dict(model.run(inputs)))


def stream(bundle: Path, threads: int, *_: str) -> Callable[[Arrays], tuple[Run, Callable[[], Arrays]]]:
    """The graph, pushed chunk by chunk to a stream of rnn_runtime."""
    import rnn_runtime
    from rnn_runtime._start import batch_axis

    model = rnn_runtime.load(bundle, threads=threads)
    signature = model.signature
    states = {state.input: signature.input(state.input) for state in signature.states}
    rows = batch_axis(states, {})

    def ready(inputs: Arrays) -> tuple[Run, Callable[[], Arrays]]:
        batches = [inputs[name].shape[spec.axes.index(rows)] for name, spec in states.items() if rows in spec.axes]
        initial = {name: inputs[name] for name in states}
        data: Any = tuple(inputs[spec.name] for spec in signature.data_inputs)
        chunk = data if len(data) > 1 else data[0]
        lengths = inputs[signature.lengths.input] if signature.lengths else None

        def opened() -> rnn_runtime.Stream:
            return model.stream(batches[0] if batches else 1, initial)

        kept = opened()
        return lambda: kept.push(chunk, lengths), lambda: dict(opened().push(chunk, lengths))

    return ready


def torchscript(bundle: Path, threads: int, *_: str) -> Callable[[Arrays], tuple[Run, Callable[[], Arrays]]]:
    """The traced file, frozen as one would deploy it."""
    import torch

    from rnn_runtime._bundle import TORCHSCRIPT

    from .._quiet import quiet

    with quiet():
        module = torch.jit.freeze(torch.jit.load(bundle / TORCHSCRIPT).eval())
    return _torch(bundle, threads, module)


def program(bundle: Path, threads: int, *_: str) -> Callable[[Arrays], tuple[Run, Callable[[], Arrays]]]:
    """The .pt2 file."""
    import torch

    from rnn_runtime._bundle import PT2

    from .._quiet import quiet

    with quiet():
        module = torch.export.load(bundle / PT2).module()
    return _torch(bundle, threads, module)


def eager(
    bundle: Path, threads: int, target: str, weights: str
) -> Callable[[Arrays], tuple[Run, Callable[[], Arrays]]]:
    """The model itself, on the bundle's inputs in their order."""
    from rnn_runtime import InputError
    from rnn_runtime._bundle import Bundle

    from .._verify import bound
    from ..cli._target import arguments

    made = arguments(target, Path(weights) if weights else None)
    prepared = bound(made["model"], Bundle.open(bundle), made["example_inputs"])
    if prepared.flat.stands_in:
        raise InputError("the state of its loops or windows is lifted, which the model itself cannot be given")
    return _torch(bundle, threads, prepared.flat)


def _torch(bundle: Path, threads: int, module: Any) -> Callable[[Arrays], tuple[Run, Callable[[], Arrays]]]:
    import torch

    from rnn_runtime._bundle import Bundle

    torch.set_num_threads(threads)
    signature = Bundle.open(bundle).signature
    names = [spec.name for spec in signature.outputs]

    def ready(inputs: Arrays) -> tuple[Run, Callable[[], Arrays]]:
        tensors = [torch.from_numpy(np.array(inputs[spec.name], order="C")) for spec in signature.inputs]

        def run() -> Any:
            with torch.inference_mode():
                return module(*tensors)

        return run, lambda: {name: result.numpy() for name, result in zip(names, run(), strict=True)}

    return ready


BACKENDS: Mapping[str, Callable[..., Any]] = {
    "onnxruntime": onnxruntime,
    "stream": stream,
    "torchscript": torchscript,
    "torch.export": program,
    "eager": eager,
}


def _times(run: Run, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _memory() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage counts what the parent had when it made this process.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(name: str, bundle: str, folder: str, threads: str, target: str, weights: str) -> None:
    """Load the backend, say so, and answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to stderr, and not among the answers

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    ready, run, read = None, None, None
    try:
        start = time.perf_counter()
        ready = BACKENDS[name](Path(bundle), int(threads), target, weights)
        answer(load=time.perf_counter() - start)
        for line in sys.stdin:
            request = json.loads(line)
            if "run" in request:
                with np.load(Path(folder) / "inputs.npz", allow_pickle=False) as file:
                    run, read = ready(dict(file))
                np.savez(Path(folder) / f"{name}.npz", **read())
                answer()
            elif "time" in request:
                answer(times=_times(run, request["time"]))  # type: ignore[arg-type]
            else:
                answer(memory=_memory())
    except Exception as error:
        answer(error=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
