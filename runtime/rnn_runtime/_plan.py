"""How a stream's chunks of one shape are run: buffers at addresses that stay, bound once for each way round."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._device import Device, onnxruntime
from ._session import GRAPH_ID

if TYPE_CHECKING:
    from ._model import Model

MOST_SHAPES = 64
MOST_BYTES = 64 << 20  # of the buffers of a stream's plans

Array = NDArray[Any]
Arrays = dict[str, Array]


class Buffer:
    """One tensor of a fixed shape that ONNX Runtime reads and writes in place, in host memory or on a GPU.

    Attributes:
        value: the onnxruntime.OrtValue to bind.
        put: copies an array of the same shape and dtype into it.
        get: gives its content as an array of its own.
        nbytes: how large it is.
    """

    __slots__ = ("get", "nbytes", "put", "value")

    def __init__(self, content: Array, device: Device) -> None:
        make = onnxruntime().OrtValue.ortvalue_from_numpy
        self.put: Callable[[Array], None]
        self.get: Callable[[], Array]
        self.nbytes = content.nbytes
        if device.kind == "cpu":
            array = content.copy()
            self.value = make(array)  # shares the array's memory
            self.put, self.get = _setter(array), array.copy
        else:
            self.value = make(content, device.kind, device.index)
            self.put, self.get = self.value.update_inplace, self.value.numpy

    def take(self, value: Any) -> None:
        """Copy an OrtValue of the same shape and dtype into it."""
        try:
            self.value.update_inplace(value)
        except TypeError:  # before 1.27 or so it takes NumPy arrays alone
            self.put(value.numpy())


Buffers = dict[str, Buffer]


def buffers(arrays: Mapping[str, Array], device: Device) -> Buffers:
    """A buffer for each array, with its content."""
    return {name: Buffer(array, device) for name, array in arrays.items()}


def _setter(array: Array) -> Callable[[Array], None]:
    def put(content: Array) -> None:
        array[...] = content

    return put


class Turn:
    """One way round of the states: read from one set of buffers, written to the other.

    Attributes:
        run: runs the session over what is bound.
        results: all outputs of the run before by name, as arrays of their own.
    """

    __slots__ = ("_binding", "_held", "_names", "_order", "results", "run")

    def __init__(self, model: Model, session: Any, inputs: Buffers, outputs: Mapping[str, Buffer | None]) -> None:
        device = model._device
        self._binding = session.io_binding()
        self._held = (inputs, outputs)  # a binding of older versions does not keep the memory that it writes to
        self._order = list(outputs)
        self._names = sorted(outputs, key=lambda name: outputs[name] is None)  # as they are bound
        for name, buffer in inputs.items():
            self._binding.bind_ortvalue_input(name, buffer.value)
        for name, target in outputs.items():
            if target is not None:
                self._binding.bind_ortvalue_output(name, target.value)
        loose = [name for name, target in outputs.items() if target is None]
        run = _runner(session, self._binding, device, not loose)
        run = functools.partial(self._run_loose, run, loose, device) if loose else run
        self.run = functools.partial(_in_turn, model._gate, run) if device.graph else run
        self.results = self._copy if loose else _reader([(n, b.get) for n, b in outputs.items() if b is not None])

    def _run_loose(self, run: Callable[[], None], loose: list[str], device: Device) -> None:
        for name in loose:  # again before each run: a binding takes what the last one made for a buffer to fill
            self._binding.bind_output(name, device.kind, device.index)
        run()

    def _copy(self) -> Arrays:
        arrays = dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))
        return {name: arrays[name] for name in self._order}


def _reader(outputs: list[tuple[str, Callable[[], Array]]]) -> Callable[[], Arrays]:
    """What makes a dict of the outputs: written out for the common counts, which takes half the time."""
    if len(outputs) == 2:
        (a, get_a), (b, get_b) = outputs
        return lambda: {a: get_a(), b: get_b()}
    if len(outputs) == 3:
        (a, get_a), (b, get_b), (c, get_c) = outputs
        return lambda: {a: get_a(), b: get_b(), c: get_c()}
    return lambda: {name: get() for name, get in outputs}


def _in_turn(gate: AbstractContextManager[Any], run: Callable[[], None]) -> None:
    with gate:
        run()


_graphs = itertools.count(1)


def _runner(session: Any, binding: Any, device: Device, fixed: bool) -> Callable[[], None]:
    options = None
    if device.graph:
        options = onnxruntime().RunOptions()
        # A graph is replayed over the addresses that it was captured with, so each binding has its own.
        options.add_run_config_entry(GRAPH_ID, str(next(_graphs)) if fixed else "-1")
    try:
        # The public run checks again, at each step, what holds for every step: a tenth of the time of a small one.
        return functools.partial(session._sess.run_with_iobinding, binding._iobinding, options)
    except AttributeError:
        return functools.partial(session.run_with_iobinding, binding, options)


class Plan:
    """The two turns for chunks of one shape, and the buffers of their inputs.

    Attributes:
        put: copies a chunk that is one array into its buffer.
        turns: from the first set of the state's buffers into the second, and back.
        fixed: every output has a buffer, so that nothing is allocated in ONNX Runtime.
        nbytes: of its buffers.
        certain: the sizes of the outputs follow from those of the inputs, by the signature.
    """

    __slots__ = ("_inputs", "_model", "_session", "_states", "_sure", "certain", "fixed", "nbytes", "put", "turns")

    def __init__(self, model: Model, inputs: Arrays, states: tuple[Buffers, Buffers], outputs: Arrays) -> None:
        """Buffers for arrays of these shapes; `outputs` are those of a run before."""
        signature = model.signature
        self._model, self._states, self._session = model, states, model._session_for(inputs)
        self._inputs = buffers(inputs, model._device)
        self.put = next(iter(self._inputs.values())).put
        known = {axis for spec in signature.inputs for axis in spec.axes if isinstance(axis, str)}
        shapes = {spec.name: (outputs[spec.name].shape, spec.dtype) for spec in signature.outputs}
        self._sure = {
            spec.name: shapes[spec.name]
            for spec in signature.outputs
            if all(isinstance(axis, int) or axis in known for axis in spec.axes)
        }
        # Other sizes are taken to be those of the run before; but lengths change from run to run.
        bound = shapes if signature.lengths is None else self._sure
        arrays = [*inputs.values(), *(outputs[name] for name in bound)]
        self.nbytes = sum(array.nbytes for array in arrays)
        self.certain = len(bound) == len(self._sure)
        self.fixed = len(bound) == len(outputs)
        self.turns = self._bind(bound)

    def _bind(self, outputs: Mapping[str, tuple[tuple[int, ...], str]]) -> tuple[Turn, ...]:
        model = self._model
        next_of = {state.output: state.input for state in model.signature.states}
        targets = {
            spec.name: Buffer(np.zeros(*outputs[spec.name]), model._device) if spec.name in outputs else None
            for spec in model.signature.outputs
            if spec.name not in next_of
        }
        inputs = self._inputs | model._constants
        return tuple(
            Turn(
                model,
                self._session,
                inputs | now,
                {
                    spec.name: later[next_of[spec.name]] if spec.name in next_of else targets[spec.name]
                    for spec in model.signature.outputs
                },
            )
            for now, later in (self._states, self._states[::-1])
        )

    def loosen(self) -> None:
        """Let ONNX Runtime make the outputs from now on: their sizes depend on values."""
        self.fixed, self.certain = False, True
        self.turns = self._bind(self._sure)

    def fill(self, inputs: Arrays) -> None:
        """Copy all inputs into their buffers."""
        for name, buffer in self._inputs.items():
            buffer.put(inputs[name])


class Plans:
    """The plans of a stream by the shapes of its chunks, the latest used last; the oldest give way to new ones."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan | None] = {}

    def __contains__(self, shapes: Any) -> bool:
        """Whether such a chunk has been run."""
        return shapes in self._plans

    def get(self, shapes: Any) -> Plan | None:
        """The plan for such chunks, if there is one."""
        plan = self._plans.get(shapes)
        if plan is not None:
            self._plans[shapes] = self._plans.pop(shapes)
        return plan

    def note(self, shapes: Any) -> None:
        """Such a chunk has been run."""
        self._plans.setdefault(shapes, None)
        if len(self._plans) > MOST_SHAPES:
            del self._plans[next(iter(self._plans))]

    def add(self, shapes: Any, plan: Plan) -> None:
        """Keep a plan."""
        self._plans.pop(shapes, None)
        while sum(other.nbytes for other in self._plans.values() if other) + plan.nbytes > MOST_BYTES:
            del self._plans[next(iter(self._plans))]
        self._plans[shapes] = plan
