"""What a bundle's files hold, bit for bit against what the live model is written as here and now.

Comparing outputs sees only what the inputs tried reach: one row of an embedding of 5,000 words is not among it.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rnn_runtime import Check, Error
from rnn_runtime._bundle import ONNX, PT2, STEP, TORCHSCRIPT, Bundle

from . import _graphs, _lower, _targets
from ._axis import Axis
from ._capture import Captured, capture, fix
from ._capture.limits import stated
from ._graphs import Content, differs
from ._quantize import REWRITES, rewritten
from ._versions import versions

NAME = "weights"
PROMISE = "every file holds the model's weights and operators, bit for bit"

_FORMATS = {ONNX: "onnx", TORCHSCRIPT: "torchscript", PT2: "pt2"}


def weights(model: nn.Module, sealed: Bundle, example_inputs: Any) -> list[Check]:
    """Write the live model once more, as the bundle was, and hold each file of the bundle against its twin.

    Args:
        model: what the bundle should be equal to.
        sealed: the bundle.
        example_inputs: as for `export`.
    """
    files = [name for name in (*_FORMATS, STEP) if name in sealed.files]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            _written(model, sealed, example_inputs, folder)
        except Error as error:
            text = str(error).splitlines()[0]
            return [_check(name, f"the model cannot be written again to compare with: {text}") for name in files]
        found = [_held(name, sealed, folder, model) for name in files]
    seconds = time.monotonic() - start
    return [_check(name, wrong, note, seconds) for name, (wrong, note) in zip(files, found, strict=True)]


def _check(name: str, wrong: str, note: str = "", seconds: float = 0.0) -> Check:
    if wrong:
        return Check(NAME, name, PROMISE, "failed", wrong, 1, float("inf"), where=name, seconds=seconds)
    return Check(NAME, name, PROMISE, "passed", note, 1, seconds=seconds)


def _written(model: nn.Module, sealed: Bundle, example_inputs: Any, folder: Path) -> None:
    """The live model in the formats of the bundle, with the options that its manifest tells."""
    options: Mapping[str, Any] = sealed.manifest.get("options", {})
    captured = _captured(model, sealed, example_inputs)
    precision = str(options.get("precision", "fp32"))
    formats = [kind for name, kind in _FORMATS.items() if name in sealed.files]
    profile = _targets.find(options.get("target"), options.get("opset"), formats)
    rewrite = REWRITES.get(precision)
    lowering = str(options.get("lowering", "auto"))
    if lowering == "auto":
        lowering = rewrite.lowering if rewrite else profile.lowering if profile else "auto"
    split = bool(options.get("split_directions"))
    _lower.lower(
        captured,
        folder,
        formats,
        lowering,
        options.get("opset"),
        split_directions=split,
        ir_version=profile.ir_version if profile is not None else None,
    )
    if rewrite is not None:
        rewritten(folder / ONNX, precision, sealed.manifest["quantized"]["kept"])
    if STEP in sealed.files:
        _lower.lower_step(captured, folder, lowering, split_directions=split)


def _captured(model: nn.Module, sealed: Bundle, example_inputs: Any) -> Captured:
    signature, manifest = sealed.signature, sealed.manifest
    options: Mapping[str, Any] = manifest.get("options", {})
    sizes, opened = options.get("sizes"), options.get("opened", {})
    added = {*manifest.get("lifted", ()), *manifest.get("kept", ())}
    own = [spec for spec in signature.inputs if spec.name not in added]
    pairs = {state.input: state.output for state in signature.states}
    captured = capture(
        model,
        example_inputs,
        axes={spec.name: stated(signature, spec) | _opened(opened.get(spec.name, {})) for spec in own},
        input_names=[spec.name for spec in own],
        output_names=[spec.name for spec in signature.outputs],
        lengths=signature.lengths.input if signature.lengths is not None else None,
        state="lift" if manifest.get("lifted") else pairs or "none",
    )
    if sizes and opened:
        captured = fix(captured, sizes, unroll=options.get("lowering") == "decomposed")
    return replace(captured, signature=replace(captured.signature, limits=signature.limits))  # their reasons too


def _opened(dimensions: Mapping[str, str]) -> dict[int, str | Axis]:
    """The axes that were open when the model was captured, and were fixed after that."""
    return {int(dim): axis for dim, axis in dimensions.items()}


def _held(name: str, sealed: Bundle, folder: Path, model: nn.Module) -> tuple[str, str]:
    """What is wrong with a file, and what is to be said of it where nothing is."""
    if not (folder / name).exists():
        return "the model has no such file when it is written again", ""
    have, want = _graphs.read(sealed.path / name), _graphs.read(folder / name)
    if have.shape == want.shape and len(have.constants) == len(want.constants):
        for (label, got), (_, live) in zip(have.constants, want.constants, strict=True):
            index = differs(got, live)
            if index is not None:
                return _said(label, got, live, index, model), ""
        return "", f"{len(want.constants)} constants, all the same"
    tools = _other_tools(sealed)
    if not tools and sealed.manifest.get("options", {}).get("sizes"):
        tools = "fixed sizes, which the model itself leaves open"
    where = _first(have.shape, want.shape)
    if not tools:
        return f"its operators are not those that the model is written as: {where}", ""
    return _by_content(have, want, model), (
        f"written otherwise ({tools}), with other operators ({where}): each weight was found, the operators are "
        "held by their results alone"
    )


def _first(have: Sequence[str], want: Sequence[str]) -> str:
    for a, b in zip(have, want, strict=False):
        if a != b:
            at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            at = max(0, at - 30)
            return f"{a[at : at + 90]!r} where the model has {b[at : at + 90]!r}"
    return f"{len(have)} pieces where the model has {len(want)}"


def _said(label: str, got: np.ndarray, live: np.ndarray, index: tuple[int, ...], model: nn.Module) -> str:
    owners = _owners(live, model)
    name = f"{label!r}{f' ({owners})' if owners else ''}"
    if got.shape != live.shape or got.dtype != live.dtype:
        return f"{name} is {got.dtype} {list(got.shape)} where the model has {live.dtype} {list(live.shape)}"
    return f"{name} differs first at {list(index)}: {got[index]!r} where the model has {live[index]!r}"


def _owners(live: np.ndarray, model: nn.Module) -> str:
    """The parameters and buffers all of whose values are in a constant."""
    found = [
        name
        for name, array in _parameters(model).items()
        if 0 < array.size <= live.size and array.dtype == live.dtype and bool(np.isin(array, live).all())
    ]
    return ", ".join(found[:4])


def _parameters(model: nn.Module) -> dict[str, np.ndarray]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if str(tensor.dtype) not in _NO_NUMPY
    }


_NO_NUMPY = {"torch.bfloat16"}


def _by_content(have: Content, want: Content, model: nn.Module) -> str:
    """What is wrong where the operators differ: a constant that the other side has not, whatever takes it."""

    def counted(content: Content) -> Counter[bytes]:
        return Counter(np.sort(array, axis=None).tobytes() for _, array in content.constants if array.size > 1)

    left, right = counted(have), counted(want)
    for label, array in have.constants:
        if array.size > 1 and np.sort(array, axis=None).tobytes() not in right:
            return f"{label!r} ({array.dtype} {list(array.shape)}) holds values that no weight of the model has"
    for label, array in want.constants:
        if array.size > 1 and np.sort(array, axis=None).tobytes() not in left:
            return f"{_owners(array, model) or label!r} ({array.dtype} {list(array.shape)}) is nowhere in it"
    return ""


def _other_tools(sealed: Bundle) -> str:
    """The tools whose versions are not those that wrote the bundle; "" where they are the same."""
    wrote, here = sealed.manifest["versions"], versions()
    names = [name for name in {**wrote, **here} if wrote.get(name) != here.get(name)]
    return ", ".join(f"{name} {wrote.get(name, 'none')}, here {here.get(name, 'none')}" for name in names)
