"""ONNX Runtime's session: made from bytes, and held against a signature."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ._device import CUDA, Device, library_problem, onnxruntime
from ._errors import BundleError, DeviceError, InputError
from ._signature import DTYPES, METADATA_KEY, Signature, TensorSpec

# ONNX Runtime accepts config keys that do not exist, so the names in use stand here, once.
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_MODEL_FORMAT = "session.load_model_format"
_FATAL = 4  # log severity: every lesser failure comes as an exception, and need not be printed too
_TYPE_NAMES = {"float": "float32", "double": "float64"}


def create(model: bytes, device: Device, threads: int | None, folder: Path) -> Any:
    """An onnxruntime.InferenceSession over the bytes of an ONNX model, whose external data lies in `folder`.

    Raises:
        BundleError: ONNX Runtime cannot load the model.
        DependencyError: onnxruntime is missing.
        DeviceError: the device cannot be had; it is never replaced by the CPU.
        InputError: `threads` is not a number of threads.
    """
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise InputError(f"threads is {threads!r}; expected 1 or more, or None for ONNX Runtime's default")
    ort = onnxruntime()
    device.require()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(folder.resolve()))
    # By itself ONNX Runtime would also take its own .ort format, whose external files nobody has looked at.
    options.add_session_config_entry(_MODEL_FORMAT, "ONNX")
    try:
        # With its fallback on, onnxruntime prints a banner and goes on with the CPU.
        session = ort.InferenceSession(model, options, providers=device.providers, enable_fallback=0)
    except Exception as error:  # its errors have no base class but Exception
        if device.kind == "cuda" and re.search("cuda|cudnn|cublas", str(error), re.IGNORECASE):
            raise DeviceError(f'device "{device}" cannot be had: {library_problem() or error}') from None
        raise BundleError(f"ONNX Runtime cannot load the model ({error}): export the model again") from None
    if device.kind == "cuda" and CUDA not in session.get_providers():
        reason = library_problem() or f"ONNX Runtime fell back to {', '.join(session.get_providers())}"
        raise DeviceError(f'device "{device}" cannot be had: {reason}; run rnn-export doctor, or use device="cpu"')
    return session


def signature(session: Any) -> Signature:
    """The signature in the model's metadata, or else one without states, read from the graph.

    Raises:
        BundleError: the metadata is damaged, or an input or output is no tensor of numbers.
    """
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is not None:
        return Signature.from_json(text)
    nodes = [*session.get_inputs(), *session.get_outputs()]
    taken = {axis for node in nodes for axis in node.shape if isinstance(axis, str)}
    fresh = (name for name in (f"axis_{k}" for k in range(10**9)) if name not in taken)
    inputs, outputs = (
        tuple(
            TensorSpec(
                node.name, _dtype(node), tuple(next(fresh) if axis in (None, "") else axis for axis in node.shape)
            )
            for node in side
        )
        for side in (session.get_inputs(), session.get_outputs())
    )
    return Signature(inputs, outputs)


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


def _dtype(node: Any) -> str:
    match = re.fullmatch(r"tensor\((\w+)\)", node.type)
    name = _TYPE_NAMES.get(match[1], match[1]) if match else node.type
    if name not in DTYPES:
        raise BundleError(f"{node.name!r} is a {node.type}; expected a tensor of numbers: export another model")
    return name
