"""The files that an ONNX model points to, read from its bytes without the onnx package.

ONNX Runtime opens them by itself, so they are looked at first. A model is a protobuf message; only the path from
ModelProto down to TensorProto.external_data is followed here, and all else is skipped.
https://protobuf.dev/programming-guides/encoding/ and onnx.proto describe both.
"""

from __future__ import annotations

from pathlib import Path

from ._errors import BundleError
from ._paths import inside

# Message -> field number -> message: every way from ModelProto to TensorProto, as onnx.proto numbers it.
MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
_ENTRY = "StringStringEntryProto"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def locations(model: bytes) -> list[str]:
    """The distinct external-data locations in an ONNX model's bytes, in the order of their appearance.

    A tensor's data_location is not looked at: a location that is not in use is listed too, since a message that
    comes in several pieces can hide the use of one from a reader of single pieces.

    Raises:
        BundleError: the bytes are cut short, or are no protobuf message.
    """
    found: dict[str, None] = {}
    # A list and no recursion: how deep the graphs nest is up to the file.
    pending = [("ModelProto", memoryview(model))]
    while pending:
        message, data = pending.pop()
        if message == _ENTRY:
            key, value = _entry(data)
            if key == b"location":
                found.setdefault(_text(value))
            continue
        below = MESSAGES[message]
        children = [(below[number], payload) for number, payload in _fields(data) if number in below]
        pending += reversed(children)
    return list(found)


def check(model: bytes, folder: Path) -> list[str]:
    """The locations of a model that lies in `folder`, each an existing file inside that folder.

    Raises:
        BundleError: the bytes are damaged, or a location leaves the folder or is missing.
    """
    names = locations(model)
    for name in names:
        if not inside(folder, name).is_file():
            raise BundleError(
                f"{folder / name} is missing; the model keeps weights in it: copy it to where the model is"
            )
    return names


def _entry(data: memoryview) -> tuple[bytes, bytes]:
    strings = {1: b"", 2: b""}
    strings.update((number, bytes(payload)) for number, payload in _fields(data) if number in strings)
    return strings[1], strings[2]


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BundleError(f"the model names an external file {value!r}, which is not UTF-8: export it again") from None


def _fields(data: memoryview) -> list[tuple[int, memoryview]]:
    """The number and the bytes of each length-delimited field of one message; fields of other types are skipped."""
    fields = []
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _damaged("a field has the number 0")
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == _BYTES:
            size, at = _varint(data, at)
            fields.append((number, data[at : at + size]))
            at += size
        else:  # groups, which onnx.proto never had
            raise _damaged(f"a field has the wire type {wire}")
        if at > end:
            raise _damaged("it ends in the middle of a field")
    return fields


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _damaged("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _damaged("a number has more than ten bytes")


def _damaged(what: str) -> BundleError:
    return BundleError(f"the model is damaged: {what}; expected an ONNX file: copy it again, or export the model again")
