"""Bundles that are broken on purpose: their graph is edited, and sealed again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def broken(bundle, folder, edit):
    """A copy of a bundle whose graph `edit(graph)` has changed."""
    path = Path(folder) / "broken"
    shutil.copytree(bundle, path)
    model = onnx.load(path / "model.onnx")
    edit(model.graph)
    onnx.save(model, path / "model.onnx")
    return reseal(path)


def reseal(path):
    """Give the manifest the hashes that the files have now."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (path / name).read_bytes()
        entry["sha256"], entry["size"] = hashlib.sha256(data).hexdigest(), len(data)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def nodes(graph, *kinds):
    return [node for node in graph.node if node.op_type in kinds]


def attribute(node, name):
    return next(item for item in node.attribute if item.name == name)


def drop_attribute(node, name):
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def change(graph, name, function):
    """Put function(array) in the place of an initializer, for whoever uses it."""
    for tensor in graph.initializer:
        if tensor.name == name:
            array = function(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
            return
    for node in graph.node:
        if name in node.output and node.op_type == "Constant":
            array = function(numpy_helper.to_array(attribute(node, "value").t).copy())
            attribute(node, "value").t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array)))
            return
    raise LookupError(name)


def swapped(array, a, b, gates, axis=1):
    """The blocks of gates `a` and `b` exchanged along an axis that holds `gates` of them."""
    blocks = np.split(array, gates, axis)
    blocks[a], blocks[b] = blocks[b], blocks[a]
    return np.concatenate(blocks, axis)
