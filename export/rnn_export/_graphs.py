"""Two files of a format, held against each other: the same operators in the same order, and the same constants."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, numpy_helper

from rnn_runtime._bundle import PT2, TORCHSCRIPT

from ._quiet import quiet


@dataclass
class Content:
    """What a file holds.

    Attributes:
        shape: all but the constants, piece by piece and free of names; two files with the same are the same but for
            their constants.
        constants: the constants in the order in which they are used, each with its name.
    """

    shape: list[str] = field(default_factory=list)
    constants: list[tuple[str, np.ndarray]] = field(default_factory=list)


def read(path: Path) -> Content:
    """The content of an artifact, by the format that its name says."""
    if path.name == TORCHSCRIPT:
        return _torchscript(path)
    return _program(path) if path.name == PT2 else _onnx(path)


def differs(a: np.ndarray, b: np.ndarray) -> tuple[int, ...] | None:
    """The first index at which the bits of two arrays differ; () where their form does; None where nothing does."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return ()
    kind = f"V{a.dtype.itemsize}"  # as bytes: NaN and the sign of zero count
    unequal = np.ascontiguousarray(a).reshape(-1).view(kind) != np.ascontiguousarray(b).reshape(-1).view(kind)
    if not unequal.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(unequal.argmax()), a.shape))


def _onnx(path: Path) -> Content:
    content = Content()
    model = onnx.load(path)  # what is external too
    content.shape.append(str([(entry.domain, entry.version) for entry in model.opset_import]))
    content.shape += [f"function {function.SerializeToString(deterministic=True)!r}" for function in model.functions]
    _walk(model.graph, lambda name: name and f"? {name}", content)
    return content


def _walk(graph: onnx.GraphProto, outer: Callable[[str], str], content: Content) -> None:
    """Go through a graph in the order of its nodes; `outer` says what a value around it is called here."""
    known: dict[str, str] = {}
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def said(name: str) -> str:
        if name in constants and name not in known:
            known[name] = f"constant {len(content.constants)}"
            content.constants.append((name, numpy_helper.to_array(constants[name])))
        return known[name] if name in known else outer(name)

    for value in graph.input:
        known[value.name] = f"input {len(content.shape)}"
        content.shape.append(f"{known[value.name]} {_type(value)}")
    for node in graph.node:
        inputs = [said(name) for name in node.input]
        known.update({name: f"value {len(content.shape)}.{k}" for k, name in enumerate(node.output) if name})
        attributes = sorted(node.attribute, key=lambda one: one.name)
        own = [(one.name, _attribute(one)) for one in attributes if one.type != AttributeProto.GRAPH]
        absent = [bool(name) for name in node.output]
        content.shape.append(f"{node.domain}{node.op_type} of {inputs}, gives {absent}, with {own}")
        for one in attributes:
            if one.type == AttributeProto.GRAPH:
                content.shape.append(f"body {one.name}")
                _walk(one.g, said, content)
    content.shape.append(f"results {[(said(value.name), _type(value)) for value in graph.output]}")
    for name in sorted(constants.keys() - known.keys()):
        content.shape.append(f"a constant that nothing takes: {name}")


def _type(value: onnx.ValueInfoProto) -> str:
    return str(value.type.SerializeToString(deterministic=True))


def _attribute(attribute: AttributeProto) -> str:
    if attribute.type == AttributeProto.TENSOR:
        array = numpy_helper.to_array(attribute.t)
        return f"{array.dtype} {array.shape} {array.tobytes()!r}"
    return str(onnx.helper.get_attribute_value(attribute))


def _torchscript(path: Path) -> Content:
    with quiet():
        module = torch.jit.load(str(path), map_location="cpu")
        texts = [module.code, module.inlined_graph.copy()]
        constants = [(name, value) for name, value in _tensors(module.code_with_constants[1].const_mapping)]
    # The graph names its lines of source; the code does not.
    # A name that was taken in this process gets a number, which the other process need not have.
    content = Content([re.sub(r"\.?___torch_mangle_\d+", "", str(texts[0]))])
    content.constants = [*constants, *_tensors(module.state_dict(keep_vars=True))]
    return content


def _program(path: Path) -> Content:
    with quiet():
        program = torch.export.load(str(path))
    code = program.graph_module.code
    return Content([str(code)], [*_tensors(program.state_dict), *_tensors(program.constants)])


def _tensors(values: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted(values):
        if isinstance(values[name], torch.Tensor):
            yield name, values[name].detach().cpu().contiguous().numpy()
