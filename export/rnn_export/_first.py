"""The first load and the first runs of a graph, in a child process: a crash of a native library is then an error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from rnn_runtime._first import LOADING

from ._errors import ExportError

Arrays = Mapping[str, np.ndarray]
Run = tuple[Mapping[str, int], Arrays]
"""The size of each axis, and all inputs by name."""

_CODE = "from rnn_runtime._first import child; child()"


class FirstRun:
    """One child process for all graphs of an export; it starts when it is first asked."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> FirstRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
        if self._errors is not None:
            self._errors.close()
        if self._folder is not None:
            self._folder.cleanup()

    def require(self, graph: Path, runs: Sequence[Run]) -> None:
        """See that the process lives on when `graph` is loaded and run.

        Args:
            graph: the ONNX file; its external data lies beside it.
            runs: what it is to run on; one that fails in an orderly way is as good as one that does not.

        Raises:
            ExportError: the child has died; names the graph, the sizes and the signal.
        """
        child, folder = self._started()
        names = list(runs[0][1]) if runs else []
        inputs = folder / "inputs.npz"
        arrays: dict[str, Any] = {
            f"{k}.{j}": own[name] for k, (_, own) in enumerate(runs) for j, name in enumerate(names)
        }
        np.savez(inputs, **arrays)
        request = {"graph": str(graph.resolve()), "inputs": str(inputs), "names": names, "runs": len(runs)}
        assert child.stdin is not None and child.stdout is not None
        last: int | None = None
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            while line := child.stdout.readline():
                if (number := json.loads(line)) is None:
                    return
                last = number
        except (BrokenPipeError, ValueError):  # it died between two requests, or in the middle of a line
            pass
        try:
            code = child.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it lives, and says what nobody understands
            child.kill()
            code = child.wait()
        raise ExportError(self._why(graph, runs, last, code))

    def _started(self) -> tuple[subprocess.Popen[str], Path]:
        if self._child is None or self._folder is None:
            if not sys.executable:
                raise ExportError("this program does not know its Python (sys.executable), in which a graph is tried")
            self._folder = tempfile.TemporaryDirectory(prefix="rnn-export-")
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            self._child = subprocess.Popen(
                [sys.executable, "-c", _CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self._child, Path(self._folder.name)

    def _why(self, graph: Path, runs: Sequence[Run], last: int | None, code: int) -> str:
        died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if last is None:
            return f"the child process that tries {graph.name} did not start ({died}): {self._said()}"
        dtypes = {array.dtype.name for _, arrays in runs for array in arrays.values()}
        way = (
            "export model.float() with float32 inputs; for 16 bits on a GPU add precision='float16'"
            if "float16" in dtypes
            else "keep that size out of the model's domain, write the layer in another way (lowering='scan'), or leave "
            "ONNX out (formats=['torchscript'])"
        )
        if last == LOADING:
            return f"ONNX Runtime ends the process ({died}) when it loads {graph.name}: {way}"
        sizes = " ".join(f"{axis}={size}" for axis, size in runs[last][0].items()) or "its size"
        return f"ONNX Runtime ends the process ({died}) when it runs {graph.name} at {sizes}: {way}"

    def _said(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        return (self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing said"])[-1]
