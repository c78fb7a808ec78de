"""An empty batch or sequence is refused, and the process lives on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._report import Difference
from ._subject import Part, Subject, Trial, failed

SECONDS = 60
"""A child that has not answered by then hangs."""


class Empties:
    """Given a batch of no rows or a sequence of no steps, the model says so; it does not take the process down.

    ONNX Runtime's LSTM and GRU end the process on an empty batch, so this runs in a child process.
    """

    name = "empties"
    promise = "an empty batch or sequence is refused, and the process lives on"
    code = f"from {__name__} import child; child()"
    """What the child process runs; it is told on stdin what to load."""

    def unfit(self, subject: Subject) -> str | None:
        """Backends that PyTorch runs, which answers empty inputs by itself."""
        return None if subject.folder is not None else "not run by rnn_runtime, whose work the refusal is"

    def space(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Which of the axes is empty: nothing else varies."""
        return {"axis": (0, len(subject.signature.axis_names) - 1)}

    def corners(self, subject: Subject) -> Sequence[Trial]:
        """Each axis in turn."""
        return [{"axis": k} for k in range(len(subject.signature.axis_names))]

    def check(self, subject: Subject, trial: Trial) -> list[Part]:
        """What a child process says of an input whose axis has no elements."""
        axis = subject.signature.axis_names[trial["axis"]]
        request = json.dumps({"path": str(subject.folder), "device": subject.device, "axis": axis})
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            done = subprocess.run(
                [sys.executable, "-c", self.code],
                input=request,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [(axis, failed(f"{axis}=0 hangs"))]
        return [(axis, _read(axis, done.returncode, done.stdout, done.stderr))]


def _read(axis: str, code: int, output: str, errors: str) -> Difference:
    said = output.strip().splitlines()[-1:]
    if code < 0:
        return failed(f"{axis}=0 takes the process down ({signal.Signals(-code).name})")
    if code or not said:
        last = (errors.strip().splitlines() or ["nothing said"])[-1]
        return failed(f"{axis}=0 ends the process with {code}: {last}")
    if said[0].startswith("refused"):
        return Difference(0.0, 0.0, None, True)
    return failed(f"{axis}=0 is not refused: {said[0]}")


def child() -> None:
    """Load what stdin names, run it on an empty input, and print whether it was refused."""
    from .._model import load

    request = json.load(sys.stdin)
    model = load(Path(request["path"]), device=request["device"])
    sizes = {axis: model.signature.limit(axis).nearest(2) for axis in model.signature.axis_names} | {request["axis"]: 0}
    arrays = {
        spec.name: np.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes], spec.dtype)
        for spec in model.signature.inputs
    }
    if (lengths := model.signature.lengths) is not None:
        arrays[lengths.input] += 1
    try:
        result = model.run(arrays)
    except InputError as error:
        print("refused:", str(error).splitlines()[0])
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    else:
        print("it returns", result)
