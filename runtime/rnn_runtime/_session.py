"""ONNX Runtime's session: made from a model, and held against a signature."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _threads
from ._device import CUDA, Device, library_problem, onnxruntime
from ._errors import BundleError, DeviceError, InputError
from ._signature import DTYPES, METADATA_KEY, Signature, StateSpec, TensorSpec

# ONNX Runtime accepts config keys that do not exist, so the names in use stand here, once.
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_SPINNING = "session.intra_op.allow_spinning"
_MODEL_FORMAT = "session.load_model_format"
GRAPH_ID = "gpu_graph_id"
_FATAL = 4  # log severity: every lesser failure comes as an exception, and need not be printed too
_TYPE_NAMES = {"float": "float32", "double": "float64"}


def create(
    model: str | bytes, device: Device, threads: int | None, folder: Path, weights: int, *, spin: bool = False
) -> Any:
    """An onnxruntime.InferenceSession over an ONNX model, a path or bytes, whose external data lies in `folder`.

    `weights` is how many bytes it has in all; by it `threads` is chosen where it is None. With `spin` they are awake
    for a while after a run.

    Raises:
        BundleError: ONNX Runtime cannot load the model.
        DependencyError: onnxruntime is missing.
        DeviceError: the device cannot be had; it is never replaced by the CPU.
        InputError: `threads` is not a number of threads.
    """
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise InputError(f"threads is {threads!r}; expected 1 or more, or None to have it chosen")
    if threads is None:
        threads = _threads.choose(weights)
    ort = onnxruntime()
    device.require()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes a core from the app: 1.1 cores instead of 0.1 for a step every 10 ms.
    options.add_session_config_entry(_SPINNING, "1" if spin else "0")
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(folder.resolve()))
    # By itself ONNX Runtime would also take its own .ort format, whose external files nobody has looked at.
    options.add_session_config_entry(_MODEL_FORMAT, "ONNX")
    try:
        # With its fallback on, onnxruntime prints a banner and goes on with the CPU.
        session = ort.InferenceSession(model, options, providers=device.providers, enable_fallback=0)
    except Exception as error:  # its errors have no base class but Exception
        text = str(error).replace(model, "the file") if isinstance(model, str) else str(error)
        if device.kind == "cuda" and re.search("cuda|cudnn|cublas", text, re.IGNORECASE):
            raise DeviceError(f'device "{device}" cannot be had: {library_problem() or text}') from None
        raise BundleError(f"ONNX Runtime cannot load the model ({text}): export the model again") from None
    if device.kind == "cuda" and CUDA not in session.get_providers():
        reason = library_problem() or f"ONNX Runtime fell back to {', '.join(session.get_providers())}"
        raise DeviceError(f'device "{device}" cannot be had: {reason}; run rnn-export doctor, or use device="cpu"')
    # It keeps a model's bytes to make itself again on other providers, which nobody asks for: the weights twice.
    session._model_bytes = session._model_path = None
    return session


def signature(session: Any, states: Mapping[str, str] | None) -> Signature:
    """The signature in the model's metadata, or else one read from the graph, with these states.

    Raises:
        BundleError: the metadata is damaged, or an input or output is no tensor of numbers.
        InputError: a state is not in the graph, or the metadata has states already.
    """
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is not None:
        if states is not None:
            raise InputError("the file's own metadata tells its states: leave `states` out")
        return Signature.from_json(text)
    nodes = [*session.get_inputs(), *session.get_outputs()]
    taken = {axis for node in nodes for axis in node.shape if isinstance(axis, str)}
    fresh = (name for name in (f"axis_{k}" for k in range(10**9)) if name not in taken)
    pairs = _pairs(session, states or {})
    stateful = {name for pair in pairs for name in (pair.input, pair.output)}
    # The one axis of a state that has no size is its batch, and the states share it.
    alone = all(
        sum(not isinstance(axis, int) for axis in node.shape) <= 1
        for node in session.get_inputs()
        if node.name in stateful
    )
    batch = "batch" if "batch" not in taken else next(fresh)

    def tensor(node: Any) -> TensorSpec:
        unnamed = (batch if alone and node.name in stateful else next(fresh) for _ in node.shape)
        return TensorSpec(
            node.name, _dtype(node), tuple(next(unnamed) if axis in (None, "") else axis for axis in node.shape)
        )

    return Signature(
        tuple(tensor(node) for node in session.get_inputs()),
        tuple(tensor(node) for node in session.get_outputs()),
        pairs,
    )


def _pairs(session: Any, states: Mapping[str, str]) -> tuple[StateSpec, ...]:
    inputs, outputs = ({node.name: node for node in side} for side in (session.get_inputs(), session.get_outputs()))
    for name, next_name in states.items():
        if name not in inputs:
            raise InputError(f"there is no input {name!r} to be a state: the inputs are {', '.join(inputs)}")
        if next_name not in outputs:
            raise InputError(
                f"there is no output {next_name!r} to be the next {name!r}: the outputs are {', '.join(outputs)}"
            )
        if _dtype(inputs[name]) != _dtype(outputs[next_name]):
            raise InputError(
                f"the state {name!r} is {_dtype(inputs[name])}, and {next_name!r} is {_dtype(outputs[next_name])}: "
                "they cannot be one state"
            )
    if len(set(states.values())) != len(states):
        raise InputError("two states have the same output: name one output for each")
    return tuple(StateSpec(name, next_name) for name, next_name in states.items())


def agree(session: Any, signature: Signature) -> None:
    """Hold the graph's inputs and outputs against the signature.

    Raises:
        BundleError: a name, a dtype or a rank differs; lists all that do.
    """
    problems = []
    for side, nodes, specs in (
        ("input", session.get_inputs(), signature.inputs),
        ("output", session.get_outputs(), signature.outputs),
    ):
        graph, stated = {node.name: node for node in nodes}, {spec.name: spec for spec in specs}
        problems += [f"the {side} {name!r} is in the graph alone" for name in graph.keys() - stated.keys()]
        problems += [f"the {side} {name!r} is in the signature alone" for name in stated.keys() - graph.keys()]
        for name in graph.keys() & stated.keys():
            node, spec = graph[name], stated[name]
            if _dtype(node) != spec.dtype:
                problems.append(f"the {side} {name!r} has dtype {_dtype(node)} in the graph, not {spec.dtype}")
            # An empty shape is a scalar's, and an unknown one's too.
            if node.shape and len(node.shape) != len(spec.axes):
                problems.append(f"the {side} {name!r} has rank {len(node.shape)} in the graph, not {len(spec.axes)}")
    if problems:
        raise BundleError(f"the model does not fit its signature: {'; '.join(sorted(problems))}: export it again")


def dtype(name: str, kind: str) -> str:
    """NumPy's name for an element type that ONNX Runtime writes as "tensor(float)".

    Raises:
        BundleError: it is no tensor of numbers.
    """
    match = re.fullmatch(r"tensor\((\w+)\)", kind)
    found = _TYPE_NAMES.get(match[1], match[1]) if match else kind
    if found not in DTYPES:
        raise BundleError(f"{name!r} is a {kind}; expected a tensor of numbers: export another model")
    return found


def _dtype(node: Any) -> str:
    return dtype(node.name, node.type)


def apart(device: Device) -> Any:
    """Run options for a run that no CUDA graph is made of: None where none are made at all."""
    if not device.graph:
        return None
    options = onnxruntime().RunOptions()
    options.add_run_config_entry(GRAPH_ID, "-1")
    return options
