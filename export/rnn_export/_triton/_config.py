"""config.pbtxt: written as Triton's own protobuf message, and held against the graph."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from rnn_runtime import DependencyError, InputError, TensorSpec

from .._errors import ExportError
from ._plan import READY, START, TYPES, Plan

CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class Options:
    """What a user can choose.

    Attributes:
        backend: "onnxruntime" or "python".
        strategy: of the sequence batcher: "direct" keeps a slot of the batch for each sequence, "oldest" gathers them.
        max_batch: the most rows of one batch.
        max_wait_ms: how long a request may wait for others to share its batch.
        streams: how many sequences "oldest" and the Python backend keep open.
        idle_seconds: a sequence without a request for so long is ended.
        device: "cpu" or "cuda".
    """

    backend: str = "onnxruntime"
    strategy: str = "oldest"
    max_batch: int = 64
    max_wait_ms: float = 2.0
    streams: int = 256
    idle_seconds: float = 60.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.max_batch, self.streams) < 1 or self.idle_seconds <= 0 or self.max_wait_ms < 0:
            raise InputError("max_batch and streams have to be 1 or more, idle_seconds above 0, max_wait_ms 0 or more")
        if self.backend == "python" and self.strategy == "direct":
            raise InputError("the Python backend keeps the state of each sequence itself: take --strategy oldest")


def messages() -> Any:
    """Triton's declaration of config.pbtxt. Raises DependencyError where the extra is missing."""
    try:
        found = importlib.util.find_spec("tritonclient.grpc") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise DependencyError('tritonclient[grpc] is not installed: pip install "rnn-export[triton]"')
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2


def config(name: str, plan: Plan, options: Options) -> Any:
    """The ModelConfig of a model.

    Raises:
        InputError: Triton would run sizes that the model's limits leave out.
    """
    _require_held(plan, options)
    proto = messages()
    most = plan.signature.limit(plan.axis).max if plan.axis is not None else None
    largest = options.max_batch if most is None else min(options.max_batch, most)
    made = proto.ModelConfig(name=name, backend=options.backend, max_batch_size=largest)
    if plan.axis is None:
        made.max_batch_size = 0
    elif plan.states and not plan.gathers and options.backend == "onnxruntime":
        if options.strategy == "direct":
            raise InputError("rows of this model change each other, as those of int8 do: take --strategy oldest")
        made.max_batch_size = 1
    if options.backend == "onnxruntime":
        made.default_model_filename = "model.onnx"
    for spec in plan.inputs:
        _tensor(made.input.add(), spec, plan)
    for spec in plan.outputs:
        _tensor(made.output.add(), spec, plan)
    kind = "KIND_GPU" if options.device == "cuda" else "KIND_CPU"
    # One instance: the Python backend keeps the state in its process.
    made.instance_group.add(kind=proto.ModelInstanceGroup.Kind.Value(kind), count=1)
    wait = round(options.max_wait_ms * 1e3)
    if plan.states:
        batching = made.sequence_batching
        batching.max_sequence_idle_microseconds = round(options.idle_seconds * 1e6)
        if options.strategy == "direct":
            batching.direct.max_queue_delay_microseconds = wait
        else:
            batching.oldest.max_candidate_sequences = max(options.streams, largest)
            batching.oldest.max_queue_delay_microseconds = wait
        if options.backend == "onnxruntime":
            _sequence(batching, plan, proto)
    elif plan.gathers:
        made.dynamic_batching.max_queue_delay_microseconds = wait
    return made


def _require_held(plan: Plan, options: Options) -> None:
    """Raises InputError for limits that nobody would enforce: Triton bounds the rows of a batch, and nothing else."""
    for limit in plan.signature.limits:
        rows = limit.axis == plan.axis
        if rows and not limit.allows(1):
            raise InputError(
                f"the limit of {limit.axis!r} is {limit.sizes}, and Triton runs a row alone where no other waits: "
                "export the model for single rows too"
            )
        if not rows and options.backend == "onnxruntime":
            raise InputError(
                f"the limit of {limit.axis!r} is {limit.sizes}, which Triton's ONNX Runtime backend does not hold to: "
                "take --backend python, which refuses other sizes"
            )


def _sequence(batching: Any, plan: Plan, proto: Any) -> None:
    kinds = proto.ModelSequenceBatching.Control.Kind
    for name, kind in ((START, "CONTROL_SEQUENCE_START"), (READY, "CONTROL_SEQUENCE_READY")):
        control = batching.control_input.add(name=name).control.add(kind=kinds.Value(kind))
        control.bool_false_true.extend([False, True])
    for spec, _, name, next_name in plan.states:
        data_type, dims = proto.DataType.Value(TYPES[spec.dtype]), plan.dims(spec)
        state = batching.state.add(input_name=name, output_name=next_name, data_type=data_type, dims=dims)
        # Without it the memory of a new sequence's state is as it was found.
        state.initial_state.add(name="zeros", data_type=data_type, dims=dims, zero_data=True)


def _tensor(entry: Any, spec: TensorSpec, plan: Plan) -> None:
    entry.name, entry.data_type = spec.name, messages().DataType.Value(TYPES[spec.dtype])
    dims = plan.dims(spec)
    entry.dims.extend(dims or [1])
    if not dims:
        entry.reshape.SetInParent()  # one value a row for Triton, and an axis less for the graph


def text(made: Any) -> str:
    """The file's text."""
    from google.protobuf import text_format

    lines: str = text_format.MessageToString(made)
    return lines


def read(path: Path) -> Any:
    """What a config.pbtxt says.

    Raises:
        ExportError: Triton could not read it.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), messages().ModelConfig())
    except text_format.ParseError as error:
        raise ExportError(f"{path} is no configuration that Triton can read: {error}") from None


def agree(made: Any, graph: onnx.GraphProto) -> None:
    """Hold every name, type and shape of a configuration against the graph.

    Raises:
        ExportError: they differ; names all that does.
    """
    proto, problems = messages(), []
    batch = [-1] if made.max_batch_size else []
    declared = []
    for what, entries in (("input", made.input), ("output", made.output)):
        for entry in entries:
            dims = [] if entry.HasField("reshape") else list(entry.dims)
            declared.append((what, entry.name, entry.data_type, batch + dims))
    for state in made.sequence_batching.state:
        declared.append(("input", state.input_name, state.data_type, [-1, *state.dims]))
        declared.append(("output", state.output_name, state.data_type, [-1, *state.dims]))
        if [(s.data_type, list(s.dims), s.zero_data) for s in state.initial_state] != [
            (state.data_type, list(state.dims), True)
        ]:
            problems.append(f"the state {state.input_name} does not begin with zeros of its own shape")
    for control in made.sequence_batching.control_input:
        declared.append(("input", control.name, proto.DataType.Value("TYPE_BOOL"), [-1, 1]))
    states = made.sequence_batching.state
    if sorted(s.input_name for s in states) != [s.input_name for s in states] or sorted(
        s.output_name for s in states
    ) != [s.output_name for s in states]:
        problems.append("the states' names do not sort alike, and Triton pairs them by position")
    kinds = {onnx.helper.np_dtype_to_tensor_dtype(dtype): TYPES[dtype.name] for dtype in map(_dtype, TYPES)}
    found = [
        (
            what,
            value.name,
            proto.DataType.Value(kinds.get(value.type.tensor_type.elem_type, "TYPE_INVALID")),
            [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim],
        )
        for what, values in (("input", graph.input), ("output", graph.output))
        for value in values
    ]
    problems += [f"the graph has no {entry}" for entry in declared if entry not in found]
    problems += [f"the configuration has no {entry}" for entry in found if entry not in declared]
    if problems:
        raise ExportError("the configuration and the graph differ: " + "; ".join(problems))


def _dtype(name: str) -> Any:
    import numpy as np

    return np.dtype(name)
