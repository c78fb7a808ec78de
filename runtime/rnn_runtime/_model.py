"""A model that runs: `load` it, `run` it, `check` it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from . import _external, _feeds, _golden, _session
from ._bundle import GOLDEN, ONNX, Bundle
from ._device import Device
from ._errors import BundleError, Error, InputError, MismatchError
from ._report import Report, Row, compare
from ._result import Result
from ._signature import Signature
from ._stream import Stream


def load(path: str | Path, device: str = "cpu", threads: int | None = None) -> Model:
    """Load a bundle folder, or a bare .onnx file, to run it on `device`.

    Args:
        path: the folder that an export wrote, or one .onnx file. A bare file takes its signature from its metadata;
            without one there its inputs and outputs are as the graph names them, and none is a state.
        device: "cpu", "cuda" or "cuda:N".
        threads: how many threads share one operator; None leaves ONNX Runtime's default.

    Raises:
        BundleError: the bundle or file is missing, damaged, of an unknown version, or points outside its folder.
        DependencyError: onnxruntime is missing.
        DeviceError: the device cannot be had; the text says why. Nothing falls back to the CPU.
        InputError: `device` or `threads` is not of the form above.
    """
    where, target = Path(path), Device.parse(device)
    if where.is_dir():
        bundle = Bundle.open(where)
        model = bundle.read(ONNX)
        for name in _external.check(model, where):
            bundle.verify(name)  # refuses a file that the manifest does not list
        session = _session.create(model, target, threads, where)
        signature = bundle.signature
    else:
        bundle = None
        model = _read(where)
        _external.check(model, where.parent)
        session = _session.create(model, target, threads, where.parent)
        signature = _session.signature(session)
    _session.agree(session, signature)
    return Model(signature, str(target), where, session, bundle)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise BundleError(f"there is no {path}; expected a bundle folder or an .onnx file: check the path")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Model:
    """A loaded model. Nothing in it changes after `load`, so any number of threads may share one.

    Attributes:
        signature: its inputs, outputs and states.
        device: "cpu", "cuda" or "cuda:N".
        path: the bundle folder or .onnx file that it was loaded from.
    """

    signature: Signature
    device: str
    path: Path
    _session: Any
    _bundle: Bundle | None

    def run(
        self,
        inputs: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
        state: Mapping[str, ArrayLike] | None = None,
        lengths: ArrayLike | None = None,
    ) -> Result:
        """Run the model once over whole arrays.

        Shapes and dtypes are those of `signature`, exactly: nothing is cast but lengths.

        Args:
            inputs: the array of the only data input; or a tuple of arrays in the order of `signature.data_inputs`;
                or a dict by name, which may hold states and lengths too.
            state: by input name, as `Result.state` of an earlier run gives it; what is left out starts as zeros.
            lengths: valid steps of each row, integers (batch,); None takes every row as full.

        Raises:
            InputError: something does not fit the signature; lists everything that does not.
            Error: ONNX Runtime fails on inputs that do fit.
        """
        feeds = _feeds.make(self.signature, inputs, state, lengths)
        try:
            arrays = self._session.run([spec.name for spec in self.signature.outputs], feeds)
        except Exception as error:  # onnxruntime's errors have no base class but Exception
            raise Error(
                f"ONNX Runtime failed on inputs whose names, types and sizes fit ({error}): a value may be out of the "
                "model's range, such as an unknown id, or the model fixes a size; rnn-export verify tells"
            ) from None
        return Result(self.signature, arrays)

    def stream(self, batch: int = 1) -> Stream:
        """A stream of `batch` sequences that arrive in chunks; its state begins as zeros and is carried.

        Raises:
            InputError: the model has no state, or `batch` is not a number of sequences.
        """
        return Stream(self, self._session, batch)

    def example(self) -> dict[str, NDArray[Any]]:
        """The inputs of the first recorded run, by name: the example that the model was exported with.

        Raises:
            BundleError: as `check`.
        """
        return self._recorded()[1][0].inputs

    def check(self) -> Report:
        """Replay the inputs recorded at export, and compare with the recorded outputs.

        Raises:
            BundleError: this is a bare file, or its golden.npz is missing, damaged, or of another model.
            MismatchError: an output leaves the bundle's tolerance; `.report` tells which.
        """
        bundle, cases = self._recorded()
        report = Report(tuple(row for case in cases for row in self._replay(case, bundle.tolerance)))
        if not report.passed:
            raise MismatchError(f"{self.path} does not give the recorded results on {self.device}:\n{report}", report)
        return report

    def _recorded(self) -> tuple[Bundle, list[_golden.Case]]:
        if self._bundle is None:
            raise BundleError(f"{self.path} has no {GOLDEN} to check against; expected a bundle: load the folder")
        return self._bundle, _golden.unpack(self._bundle.read(GOLDEN))

    def _replay(self, case: _golden.Case, tolerance: dict[str, float]) -> list[Row]:
        names = {spec.name for spec in self.signature.outputs}
        if case.outputs.keys() != names:
            raise BundleError(
                f"{self.path / GOLDEN} records {', '.join(sorted(case.outputs)) or 'no outputs'}; "
                f"expected {', '.join(sorted(names))}: export the model again"
            )
        try:
            result = self.run(case.inputs)
        except InputError as error:
            raise BundleError(f"{self.path / GOLDEN} does not fit the model: {error}: export the model again") from None
        backend = f"onnxruntime-{Device.parse(self.device).kind}"
        shape = self._sizes(case)
        rows = []
        for name, want in case.outputs.items():
            found = compare(result[name], want, tolerance[name])
            rows.append(Row(backend, shape, name, found.error, found.bound, found.where, found.passed, note=found.note))
        return rows

    def _sizes(self, case: _golden.Case) -> dict[str, int]:
        shapes = (
            (spec.axes, case.inputs[spec.name].shape) for spec in self.signature.inputs if spec.name in case.inputs
        )
        return {a: size for axes, shape in shapes for a, size in zip(axes, shape, strict=True) if isinstance(a, str)}

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, device={self.device!r})"
