"""The child process in which an export loads and runs each of its graphs for the first time: it may end the process.

NumPy and ONNX Runtime alone, so that it starts at once. Lines of JSON come in and go out. Each request names a graph
and a file of inputs; each answer is the number of the run that begins now, -1 while the graph is loaded, or null where
all have been made. An error that Python sees is no matter here: whoever runs the graph next meets it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import _session
from ._device import Device

LOADING = -1


def child() -> None:
    """Answer the requests on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(number: int | None) -> None:
        print(json.dumps(number), file=answers, flush=True)

    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.suppress(Exception):
            _make(Path(request["graph"]), Path(request["inputs"]), request["names"], request["runs"], say)
        say(None)


def _make(graph: Path, inputs: Path, names: list[str], runs: int, say: Callable[[int], None]) -> None:
    say(LOADING)
    session = _session.create(graph.read_bytes(), Device.parse("cpu"), None, graph.parent, 0)
    with np.load(inputs, allow_pickle=False) as arrays:
        for run in range(runs):
            say(run)
            with contextlib.suppress(Exception):
                session.run(None, {name: arrays[f"{run}.{k}"] for k, name in enumerate(names)})
