"""Requests and answers of the Open Inference Protocol in plain types, and their form over HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._data import brief, numbers, shaped
from ._faults import Fault

Arrays = dict[str, NDArray[Any]]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""NumPy's name -> the protocol's."""

DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}

_BYTES_PER_RAW = 4  # of the length that stands before a binary WebSocket message's JSON
SequenceId = int | str


@dataclass(slots=True)
class Request:
    """One inference request.

    Attributes:
        id: what the client calls it, for the answer.
        inputs: by name.
        sequence: the sequence it belongs to, or None.
        start: it begins the sequence.
        end: it is the last of the sequence.
        outputs: the outputs it asks for; None takes the model's.
        binary: the outputs that it wants as raw bytes; None is all.
    """

    id: str
    inputs: Arrays
    sequence: SequenceId | None = None
    start: bool = False
    end: bool = False
    outputs: list[str] | None = None
    binary: frozenset[str] | None = field(default_factory=frozenset)


@dataclass(slots=True)
class Answer:
    """What a model made of a request: outputs by name, in the order to give them in."""

    model: str
    version: str
    request: Request
    outputs: Arrays


def dtype_of(name: str, datatype: object) -> np.dtype[Any]:
    """NumPy's type of an input. Raises Fault where the protocol's is unknown or not numeric."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise Fault(400, f"the input {brief(name)} has datatype {brief(datatype)}; expected one of {', '.join(DTYPES)}")
    return DTYPES[datatype]


def from_raw(name: str, raw: bytes | memoryview, dtype: np.dtype[Any], shape: object) -> NDArray[Any]:
    """A tensor from its bytes, little-endian. Raises Fault where they are no whole number of values."""
    if len(raw) % dtype.itemsize:
        raise Fault(400, f"the input {brief(name)} has {len(raw)} bytes, no whole number of values of {dtype}")
    if dtype.kind == "b":
        array: NDArray[Any] = np.frombuffer(raw, np.uint8) != 0
    else:
        array = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False)
    return shaped(name, array, shape)


def sequence_of(parameters: Mapping[str, object]) -> tuple[SequenceId | None, bool, bool]:
    """The sequence id, start and end that a request's parameters give. Raises Fault where one is not of its type."""
    key, start, end = (parameters.get(name) for name in ("sequence_id", "sequence_start", "sequence_end"))
    whole = type(key) is int and 0 <= key < 2**64
    if not (key is None or whole or (isinstance(key, str) and len(key) <= 128)):
        raise Fault(400, f"sequence_id is {brief(key)}; expected a whole number of 64 bits, or up to 128 characters")
    for name, value in (("sequence_start", start), ("sequence_end", end)):
        if value is not None and not isinstance(value, bool):
            raise Fault(400, f"{name} is {brief(value)}; expected true or false")
    return (key or None), bool(start), bool(end)  # type: ignore[return-value]  # 0 and "" stand for none


def read(body: bytes | str, json_bytes: int | None = None) -> Request:
    """A request from an HTTP body: JSON, and after its first `json_bytes` the raw tensors that it speaks of.

    Raises:
        Fault: it is not such a request.
    """
    raw = memoryview(b"")
    if json_bytes is not None:
        assert isinstance(body, bytes)
        if not 0 <= json_bytes <= len(body):
            raise Fault(400, f"the JSON is said to have {json_bytes} bytes, of a body that has {len(body)}")
        body, raw = body[:json_bytes], memoryview(body)[json_bytes:]
    data = _parse(body)
    parameters = _dict(data, "the request").get("parameters")
    parameters = _dict({} if parameters is None else parameters, "parameters")
    name = data.get("id")
    if not (name is None or isinstance(name, str)):
        raise Fault(400, "the request's id is not a text")
    inputs: Arrays = {}
    for item in _list(data.get("inputs"), "inputs"):
        array, used = _input(item, raw)
        if item["name"] in inputs:
            raise Fault(400, f"the input {brief(item['name'])} is given twice")
        inputs[item["name"]] = array
        raw = raw[used:]
    if len(raw):
        raise Fault(400, f"{len(raw)} bytes are left after the last raw tensor: binary_data_size gives each one's")
    request = Request(name or "", inputs, *sequence_of(parameters))
    every = _flag(parameters, "binary_data_output")
    if data.get("outputs"):
        wanted = [_dict(item, "an output") for item in _list(data["outputs"], "outputs")]
        request.outputs = [_text(item.get("name"), "an output's name") for item in wanted]
        pairs = zip(request.outputs, wanted, strict=True)
        request.binary = frozenset(
            name for name, item in pairs if _flag(item.get("parameters") or {}, "binary_data", every)
        )
    elif every:
        request.binary = None
    return request


def _parse(text: bytes | str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        return json.loads(text)  # which knows NaN and Infinity, as other clients write them
    except (ValueError, RecursionError) as error:
        raise Fault(400, f"the request is not JSON: {str(error)[:200]}") from None


def _input(item: object, raw: memoryview) -> tuple[NDArray[Any], int]:
    """One tensor, and how many of the raw bytes it took."""
    given = _dict(item, "an input")
    name = _text(given.get("name"), "an input's name")
    dtype = dtype_of(name, given.get("datatype"))
    parameters = _dict(given.get("parameters") or {}, f"the parameters of {brief(name)}")
    size = parameters.get("binary_data_size")
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(raw):
            raise Fault(400, f"binary_data_size of {brief(name)} is {brief(size)}, where {len(raw)} raw bytes are left")
        return from_raw(name, raw[:size], dtype, given.get("shape")), size
    if "data" not in given:
        raise Fault(400, f"the input {brief(name)} has neither data nor binary_data_size")
    return shaped(name, numbers(name, given["data"], dtype), given.get("shape")), 0


def write(answer: Answer) -> tuple[bytes, int | None]:
    """The HTTP body for an answer, and how many of its bytes are JSON; None is all."""
    binary, outputs, raw = answer.request.binary, [], []
    plain = []
    for name, array in answer.outputs.items():
        entry: dict[str, object] = {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if binary is None or name in binary:
            data = to_raw(array)
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            entry["data"] = array.ravel()
            plain.append(array)
        outputs.append(entry)
    head: dict[str, object] = {"model_name": answer.model, "model_version": answer.version}
    if answer.request.id:
        head["id"] = answer.request.id
    if (parameters := sequence_parameters(answer.request)) is not None:
        head["parameters"] = parameters
    head["outputs"] = outputs
    text = _text_of(head, plain)
    return (b"".join([text, *raw]), len(text)) if raw else (text, None)


def _text_of(head: dict[str, object], arrays: list[NDArray[Any]]) -> bytes:
    import orjson

    if all(array.dtype.kind != "f" or np.isfinite(array).all() for array in arrays):
        with contextlib.suppress(TypeError):  # an id with half a surrogate pair, which `json` has read
            # A tenth of the time of `json`, as it takes arrays as they are.
            text: bytes = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
            return text
    return json.dumps(head, default=np.ndarray.tolist).encode()  # orjson would write null for NaN


def to_raw(array: NDArray[Any]) -> bytes:
    """A tensor's bytes, little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def sequence_parameters(request: Request) -> dict[str, object] | None:
    """What an answer says of its sequence."""
    if request.sequence is None:
        return None
    return {"sequence_id": request.sequence, "sequence_start": request.start, "sequence_end": request.end}


def read_message(message: str | bytes) -> Request:
    """A request from a WebSocket message: JSON as text; or its length in 4 bytes, little-endian, and a body.

    Raises:
        Fault: it is not such a request.
    """
    if isinstance(message, str):
        return read(message)
    if len(message) < _BYTES_PER_RAW:
        raise Fault(400, "a binary message begins with the length of its JSON, in 4 bytes")
    request = read(message[_BYTES_PER_RAW:], int.from_bytes(message[:_BYTES_PER_RAW], "little"))
    request.binary = None
    return request


def write_message(answer: Answer) -> str | bytes:
    """An answer as a WebSocket message, in the form of its request."""
    body, size = write(answer)
    if answer.request.binary is not None:
        return body.decode()
    return (len(body) if size is None else size).to_bytes(_BYTES_PER_RAW, "little") + body


def _dict(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Fault(400, f"{what} is no JSON object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Fault(400, f"{what} is no list")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise Fault(400, f"{what} is missing")
    return value


def _flag(parameters: object, name: str, default: bool = False) -> bool:
    value = _dict(parameters, "parameters").get(name, default)
    if not isinstance(value, bool):
        raise Fault(400, f"{name} is not true or false")
    return value
