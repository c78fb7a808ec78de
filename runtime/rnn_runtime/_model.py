"""A model that runs: `load` it, `run` it, `check` it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _external, _feeds, _fork, _guards, _options, _session, _steps, _values
from ._bundle import GOLDEN, ONNX, Bundle
from ._device import Device, onnxruntime
from ._errors import BundleError, Error, InputError, MismatchError
from ._held import hold
from ._options import Options
from ._plan import Buffers, buffers
from ._result import Result
from ._signature import Signature
from ._steps import Steps
from ._stream import Stream

if TYPE_CHECKING:
    from ._golden import Case
    from ._report import Report, Row


_TRIES = 20  # to read a bundle that is replaced again and again


def load(
    path: str | Path,
    device: str = "cpu",
    threads: int | None = None,
    *,
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, ArrayLike] | None = None,
    context: Mapping[str, Mapping[int, int]] | None = None,
    nan: str = "propagate",
    cuda_graph: bool = False,
    spin: bool = False,
) -> Model:
    """Load a bundle folder, or a bare .onnx file, to run it on `device`.

    Args:
        path: the folder that an export wrote, or one .onnx file. A bare file takes its signature from its metadata;
            without one there its inputs and outputs are as the graph names them.
        device: "cpu", "cuda" or "cuda:N".
        threads: how many threads share one operator; None takes one for a small model, and for a large one what the
            process may use, up to four. The threads sleep while there is nothing to do.
        states: for a bare file without a signature, which inputs are states: {input: output that gives the next}.
        constants: inputs that are the same in every run, such as {"sr": 16000}: `run` and `push` no longer take them.
        context: the part of an input that the model wants to see again before each chunk of a stream, such as
            {"input": {1: 64}}, the last 64 steps along dimension 1.
        nan: "propagate" gives NaN to the model, whose LSTM and GRU operators may make a number of it; "raise" refuses
            inputs and given states with one. An OrtValue is not looked at.
        cuda_graph: on a GPU, have a stream's NumPy chunks of each shape captured as a CUDA graph and replayed; runs of
            the model then take turns.
        spin: with two threads or more, have those that wait for work spin, some 40 ms after the last run too: up to
            twice as fast where run follows run, for a core that nobody else needs.

    Raises:
        BundleError: the bundle or file is missing, damaged, of an unknown version, or points outside its folder.
        DependencyError: onnxruntime is missing.
        DeviceError: the device cannot be had; the text says why. Nothing falls back to the CPU.
        InputError: an argument is not of the form above, or names what the model does not have.
    """
    where, target = Path(path), Device.parse(device, cuda_graph)
    if where.is_dir():
        if states is not None:
            raise InputError(f"{where} is a bundle, which tells its own states: leave `states` out")
        bundle, session, size = _whole(where, target, threads, spin)
    else:
        if not where.is_file():
            raise BundleError(f"there is no {where}; expected a bundle folder or an .onnx file: check the path")
        bundle, (session, size) = None, _made(None, where, target, threads, spin)
    signature = bundle.signature if bundle is not None else _session.signature(session, states)
    _session.agree(session, signature)
    left, options = _options.read(signature, constants, context, nan)
    # ONNX Runtime captures and replays CUDA graphs for one thread at a time.
    gate = threading.Lock() if target.graph else nullcontext()
    made = buffers(options.constants, target)
    steps = None
    if bundle is not None:
        make = functools.partial(_steps.sealed, bundle, target, threads, size, spin=spin)
        steps = _steps.of(bundle.step, left, make)
    return Model(
        left, str(target), where, session, bundle, target, options, made, _feeds.Forms(left), _steps=steps, _gate=gate
    )


def _whole(where: Path, target: Device, threads: int | None, spin: bool) -> tuple[Bundle, Any, int]:
    """A bundle's session. One that an export replaces while its files are read is read again."""
    for left in reversed(range(_TRIES)):
        bundle = Bundle.open(where)
        try:
            made = _made(bundle, bundle.find(ONNX), target, threads, spin)
        except BundleError:
            if left and bundle.replaced():
                continue
            raise
        return bundle, *made
    raise AssertionError("unreachable")


def _made(bundle: Bundle | None, file: Path, target: Device, threads: int | None, spin: bool) -> tuple[Any, int]:
    """The session of a file that was checked, and the bytes that it has with its weights."""
    folder = bundle.path if bundle is not None else file.parent
    with hold(file) as held:
        data = bundle.read_held(ONNX, held) if bundle is not None else held.read()
        external = _external.check(data, folder)
        if bundle is not None:
            for name in external:
                bundle.verify(name)  # refuses a file that the manifest does not list
        try:
            size = len(data) + sum((folder / name).stat().st_size for name in external)
        except OSError as error:
            raise BundleError(f"{folder} changed while it was loaded ({error.strerror}): load it again") from None
        source = held.source(data, external)
        del data  # where its name will do
        try:
            session = _session.create(source, target, threads, folder, size, spin=spin)
        finally:
            if isinstance(source, str):
                held.require_unchanged()  # which also explains a file that ONNX Runtime found damaged
    if bundle is not None and external and bundle.replaced():  # ONNX Runtime has read weights by their name
        raise BundleError(f"{folder} was replaced while it was loaded: load it again")
    return session, size


def _failed(error: Exception) -> Error:
    return Error(
        f"ONNX Runtime failed on inputs whose names, types and sizes fit ({error}): a value may be out of the model's "
        "range, such as an unknown id, or the model fixes a size; rnn-export verify tells"
    )


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
    _device: Device
    _options: Options
    _constants: Buffers
    _forms: _feeds.Forms
    _steps: Steps | None = None
    _loaded: int = field(default_factory=lambda: _fork.generation)
    _gate: AbstractContextManager[Any] = field(default_factory=nullcontext)

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

        Returns:
            The outputs as NumPy arrays; as onnxruntime.OrtValues on the model's device where an input or state is one,
            or is an array on a GPU (PyTorch's, CuPy's; by DLPack, without a copy, and `torch.from_dlpack` takes them).

        Raises:
            InputError: something does not fit the signature; lists everything that does not.
            UnknownId: all of that fits, and an id is none that the model has; an OrtValue is not looked at.
            Error: ONNX Runtime fails on inputs that do fit, or the process was forked since `load`.
        """
        _fork.check(self._loaded)
        if _values.among(inputs) or (isinstance(state, Mapping) and _values.among(state)):
            return Result(self.signature, self._run_values(inputs, state, lengths))
        feeds = self._forms.make(inputs, state, lengths)
        _guards.refuse_ids(self.signature.ids, feeds)
        if self._options.nan == "raise":
            _guards.refuse_nan(feeds)
        return Result(self.signature, self._run(feeds))

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs, from an array for every input that is not constant."""
        names, session = self._forms.outputs, self._session_for(feeds)
        try:
            with self._gate:
                arrays = session.run(names, feeds | self._options.constants, _session.apart(self._device))
        except Exception as error:  # onnxruntime's errors have no base class but Exception
            raise _failed(error) from None
        # An output that is an input lies in the caller's memory.
        return {name: a.copy() if name in feeds else a for name, a in zip(names, arrays, strict=True)}

    def _session_for(self, inputs: Mapping[str, Any]) -> Any:
        """The session for these inputs, by how many steps they have."""
        return self._session if self._steps is None else self._steps.session(inputs, self._session)

    def _run_values(self, inputs: Any, state: Any, lengths: object) -> dict[str, Any]:
        """All outputs as OrtValues on the model's device, from inputs and states of which some are OrtValues."""
        given = _feeds.gather(self.signature, inputs, state, lengths)
        counts = [spec.input for spec in (self.signature.lengths, *self.signature.more_lengths) if spec is not None]
        stand_ins, values = _values.split(given, counts)
        feeds = _feeds.make(self.signature, stand_ins)
        seen = {name: array for name, array in feeds.items() if name not in values}
        _guards.refuse_ids(self.signature.ids, seen)
        if self._options.nan == "raise":
            _guards.refuse_nan(seen)
        session, make = self._session_for(feeds), onnxruntime().OrtValue.ortvalue_from_numpy
        binding = session.io_binding()
        for name, array in feeds.items():
            value = values[name] if name in values else make(array, self._device.kind, self._device.index)
            binding.bind_ortvalue_input(name, value)
        for name, buffer in self._constants.items():
            binding.bind_ortvalue_input(name, buffer.value)
        names = [spec.name for spec in self.signature.outputs]
        for name in names:
            binding.bind_output(name, self._device.kind, self._device.index)
        try:
            with self._gate:
                self._device.synchronize()
                session.run_with_iobinding(binding, _session.apart(self._device))
        except Exception as error:  # onnxruntime's errors have no base class but Exception
            raise error if isinstance(error, Error) else _failed(error) from None
        return dict(zip(names, binding.get_outputs(), strict=True))

    def stream(self, batch: int = 1, initial: Mapping[str, ArrayLike] | None = None) -> Stream:
        """A stream of `batch` sequences that arrive in chunks, whose state is carried.

        Args:
            batch: how many sequences.
            initial: what the states start from, and go back to at `reset`, by input name; those left out are zeros.

        Raises:
            InputError: the model has no state, `batch` is not a number of sequences, or `initial` does not fit.
        """
        return Stream(self, batch, initial)

    def example(self) -> dict[str, NDArray[Any]]:
        """The inputs of the first recorded run, by name: the example that the model was exported with.

        Raises:
            BundleError: as `check`.
        """
        case = self._recorded()[1][0]
        return {name: array for name, array in case.inputs.items() if name not in self._options.constants}

    def check(self) -> Report:
        """Replay the inputs recorded at export, and compare with the recorded outputs.

        Raises:
            BundleError: this is a bare file, or its golden.npz is missing, damaged, or of another model.
            InputError: a constant has another value than was recorded.
            MismatchError: an output leaves the bundle's tolerance; `.report` tells which.
        """
        from ._report import Report

        bundle, cases = self._recorded()
        report = Report(tuple(row for case in cases for row in self._replay(case, bundle.tolerance)))
        if not report.passed:
            raise MismatchError(f"{self.path} does not give the recorded results on {self.device}:\n{report}", report)
        return report

    def _recorded(self) -> tuple[Bundle, list[Case]]:
        from . import _golden  # zipfile with it: a sixth of what importing rnn_runtime costs

        if self._bundle is None:
            raise BundleError(f"{self.path} has no {GOLDEN} to check against; expected a bundle: load the folder")
        return self._bundle, _golden.unpack(self._bundle.read(GOLDEN))

    def _replay(self, case: Case, tolerance: dict[str, float]) -> list[Row]:
        names = {spec.name for spec in self.signature.outputs}
        if case.outputs.keys() != names:
            raise BundleError(
                f"{self.path / GOLDEN} records {', '.join(sorted(case.outputs)) or 'no outputs'}; "
                f"expected {', '.join(sorted(names))}: export the model again"
            )
        from ._report import Row, compare

        constants = self._options.constants
        for name in constants.keys() & case.inputs.keys():
            if not np.array_equal(constants[name], case.inputs[name]):
                raise InputError(
                    f"{self.path / GOLDEN} records {name!r} with another value than the one it is held constant at: "
                    "load the bundle without that constant to check it"
                )
        try:
            result = self.run({name: array for name, array in case.inputs.items() if name not in constants})
        except InputError as error:
            raise BundleError(f"{self.path / GOLDEN} does not fit the model: {error}: export the model again") from None
        backend = f"onnxruntime-{Device.parse(self.device).kind}"
        shape = self._sizes(case)
        rows = []
        for name, want in case.outputs.items():
            found = compare(result[name], want, tolerance[name])
            rows.append(Row(backend, shape, name, found.error, found.bound, found.where, found.passed, note=found.note))
        return rows

    def _sizes(self, case: Case) -> dict[str, int]:
        shapes = (
            (spec.axes, case.inputs[spec.name].shape) for spec in self.signature.inputs if spec.name in case.inputs
        )
        return {a: size for axes, shape in shapes for a, size in zip(axes, shape, strict=True) if isinstance(a, str)}

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, device={self.device!r})"
