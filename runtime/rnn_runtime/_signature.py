"""What goes in and what comes out of a model: named tensors, their axes, and which of them are state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._errors import BundleError

VERSION = 1
LIMITED_VERSION = 2
"""Of a signature with limits: a runtime that knows none must not read it, since it would run sizes outside of them."""

LARGEST = 2**31 - 1
"""No limit is above it."""

METADATA_KEY = "rnn_export.signature"
"""Where the signature lies: a key of an .onnx file's metadata_props and of a TorchScript file's extra files."""

DTYPES = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the graph.

    Attributes:
        name: the graph's name for it.
        dtype: NumPy's name of the element type, such as "float32".
        axes: for each dimension a fixed size, or the name of a dynamic axis such as "batch" or "sequence".
            Outputs may also hold an expression in those names, such as "2*sequence" or "max(lengths)".
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.axes))}]"


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A state that the caller carries from one run to the next.

    Attributes:
        input: the graph input that takes it.
        output: the graph output that gives its next value, of the same dtype and axes.
        initial: its value at the start of a sequence when none is given: always "zeros" in version 1.
    """

    input: str
    output: str
    initial: str = "zeros"


@dataclass(frozen=True, slots=True)
class LengthsSpec:
    """The input that holds each row's number of valid steps.

    Attributes:
        input: the graph input, an integer tensor of axes ("batch",).
        axis: the name of the axis that it counts along; of further lengths, its size where that is fixed.
        minimum: the smallest length that is allowed.
        full: the longest row has to fill the axis.
    """

    input: str
    axis: str
    minimum: int = 1
    full: bool = False


@dataclass(frozen=True, slots=True)
class IdsSpec:
    """An input whose values are all looked up in an embedding.

    Attributes:
        input: the graph input, an integer tensor.
        size: how many rows the embedding has: each value is from 0 to size - 1.
    """

    input: str
    size: int


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """The sizes of an axis that a model is exported for; the runtime refuses others.

    Attributes:
        axis: its name.
        min: the least size, 1 or more.
        max: the largest size; None where there is none.
        reason: the line of code that the limit comes from, "" where the user declared it.
    """

    axis: str
    min: int = 1
    max: int | None = None
    reason: str = ""

    def allows(self, size: int) -> bool:
        """Whether `size` lies within."""
        return self.min <= size and (self.max is None or size <= self.max)

    def nearest(self, size: int) -> int:
        """`size` where it lies within, else the end that is nearer."""
        return max(self.min, size if self.max is None else min(size, self.max))

    @property
    def sizes(self) -> str:
        """The sizes in words, such as "10 to 512" or "10 or more"."""
        return f"{self.min} or more" if self.max is None else f"{self.min} to {self.max}"


@dataclass(frozen=True, slots=True)
class Signature:
    """The contract of a model: every graph input and output in order, and what they mean.

    Attributes:
        inputs: all graph inputs, states and lengths among them.
        outputs: all graph outputs, next states among them.
        states: the pairs that carry state.
        lengths: the input that holds sequence lengths, if there is one.
        more_lengths: data inputs that hold lengths too, or along an axis of fixed size; their values are checked.
        ids: inputs that hold ids; their values are checked.
        limits: the least and largest size of each axis that has a limit.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()
    lengths: LengthsSpec | None = None
    more_lengths: tuple[LengthsSpec, ...] = ()
    ids: tuple[IdsSpec, ...] = ()
    limits: tuple[LimitSpec, ...] = ()

    def input(self, name: str) -> TensorSpec:
        """The graph input of this name (KeyError if there is none)."""
        return {spec.name: spec for spec in self.inputs}[name]

    def output(self, name: str) -> TensorSpec:
        """The graph output of this name (KeyError if there is none)."""
        return {spec.name: spec for spec in self.outputs}[name]

    def limit(self, axis: str) -> LimitSpec:
        """The limit of an axis: one of 1 or more where none is stated."""
        return {spec.axis: spec for spec in self.limits}.get(axis, LimitSpec(axis))

    @property
    def data_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that are neither state nor lengths: what a caller gives to each run."""
        other = {state.input for state in self.states} | ({self.lengths.input} if self.lengths else set())
        return tuple(spec for spec in self.inputs if spec.name not in other)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The dynamic axes of the inputs, in the order of their first appearance."""
        return tuple(dict.fromkeys(axis for spec in self.inputs for axis in spec.axes if isinstance(axis, str)))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts for JSON, in the form that docs/bundle.md describes."""

        def tensor(spec: TensorSpec) -> dict[str, Any]:
            return {"name": spec.name, "dtype": spec.dtype, "axes": list(spec.axes)}

        return {
            "version": LIMITED_VERSION if self.limits else VERSION,
            "inputs": [tensor(spec) for spec in self.inputs],
            "outputs": [tensor(spec) for spec in self.outputs],
            "states": [{"input": s.input, "output": s.output, "initial": s.initial} for s in self.states],
            "lengths": _plain(self.lengths) if self.lengths else None,
            **({"more_lengths": [_plain(spec) for spec in self.more_lengths]} if self.more_lengths else {}),
            **({"ids": [{"input": s.input, "size": s.size} for s in self.ids]} if self.ids else {}),
            **({"limits": [_plain_limit(spec) for spec in self.limits]} if self.limits else {}),
        }

    def to_json(self) -> str:
        """The signature as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: object) -> Signature:
        """Read what `to_dict` wrote, checking all of it.

        Raises:
            BundleError: a part is missing, of the wrong type, unknown, or contradicts another part.
        """
        return _read(data)

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Read what `to_json` wrote. Raises BundleError like `from_dict`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"the signature is not JSON: {error}: export the model again") from None
        return _read(data)


def _read(data: object) -> Signature:
    if not isinstance(data, dict) or "version" not in data:
        raise BundleError("the signature has no version: it is damaged, or not one of rnn-export's")
    version = data["version"]
    if isinstance(version, bool) or version not in (VERSION, LIMITED_VERSION):
        raise BundleError(
            f"the signature has version {version!r}; this rnn_runtime reads versions {VERSION} and {LIMITED_VERSION}: "
            "upgrade rnn-export, or export the model again"
        )
    if ("limits" in data) != (version == LIMITED_VERSION):
        raise BundleError(
            f"the signature is damaged: version {LIMITED_VERSION} is for one with limits, and this has version "
            f"{version}: export the model again"
        )
    try:
        inputs, outputs = (tuple(_tensor(item) for item in data[key]) for key in ("inputs", "outputs"))
        states = tuple(StateSpec(str(s["input"]), str(s["output"]), str(s["initial"])) for s in data["states"])
        lengths = data["lengths"]
        lengths = None if lengths is None else _lengths(lengths)
        more = tuple(_lengths(item) for item in data.get("more_lengths", ()))
        ids = tuple(IdsSpec(str(item["input"]), int(item["size"])) for item in data.get("ids", ()))
        limits = tuple(_limit(item) for item in data.get("limits", ()))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:  # int(inf) overflows
        raise BundleError(
            f"the signature is damaged: {type(error).__name__}: {error}: export the model again"
        ) from None
    signature = Signature(inputs, outputs, states, lengths, more, ids, limits)
    _check(signature)
    return signature


def _plain(spec: LengthsSpec) -> dict[str, Any]:
    return {"input": spec.input, "axis": spec.axis, "minimum": spec.minimum, "full": spec.full}


def _lengths(item: Any) -> LengthsSpec:
    return LengthsSpec(str(item["input"]), str(item["axis"]), int(item["minimum"]), bool(item["full"]))


def _plain_limit(spec: LimitSpec) -> dict[str, Any]:
    return {"axis": spec.axis, "min": spec.min, "max": spec.max, "reason": spec.reason}


def _limit(item: Any) -> LimitSpec:
    axis, least, most, reason = item["axis"], item["min"], item["max"], item["reason"]
    if not isinstance(axis, str) or not isinstance(reason, str):
        raise ValueError(f"a limit has the axis {axis!r} and the reason {reason!r}")
    for size in (least, LARGEST if most is None else most):
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST:
            raise ValueError(f"the limit of {axis!r} is {least!r} to {most!r}")
    return LimitSpec(axis, least, most, reason)


def _tensor(item: Any) -> TensorSpec:
    name, dtype, axes = item["name"], item["dtype"], item["axes"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"a tensor's name is {name!r}")
    if dtype not in DTYPES:
        raise ValueError(f"{name!r} has dtype {dtype!r}")
    if not isinstance(axes, list):  # a string would pass for a list of its letters
        raise ValueError(f"{name!r} has axes {axes!r}")
    for axis in axes:
        named = isinstance(axis, str) and axis != ""
        fixed = isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0
        if not (named or fixed):
            raise ValueError(f"{name!r} has an axis {axis!r}")
    return TensorSpec(name, dtype, tuple(axes))


def _check(signature: Signature) -> None:
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    problems = []
    if len(inputs) != len(signature.inputs) or len(outputs) != len(signature.outputs):
        problems.append("a name appears twice")
    special = [state.input for state in signature.states] + ([signature.lengths.input] if signature.lengths else [])
    if len(set(special)) != len(special):
        problems.append("an input is a state twice, or a state and the lengths")
    for state in signature.states:
        if state.input not in inputs or state.output not in outputs:
            problems.append(f"the state {state.input} -> {state.output} is not in the graph")
        elif inputs[state.input].dtype != outputs[state.output].dtype:
            problems.append(f"the state {state.input} -> {state.output} changes its dtype")
        elif len(inputs[state.input].axes) != len(outputs[state.output].axes):
            problems.append(f"the state {state.input} -> {state.output} changes its rank")
        if state.initial != "zeros":
            problems.append(f"the state {state.input} starts from {state.initial!r}, which is unknown")
    for lengths in filter(None, (signature.lengths, *signature.more_lengths)):
        spec = inputs.get(lengths.input)
        if spec is None or not np.issubdtype(np.dtype(spec.dtype), np.integer) or len(spec.axes) != 1:
            problems.append(f"the lengths input {lengths.input!r} is not an integer tensor of rank 1")
    if signature.lengths and signature.lengths.axis not in signature.axis_names:
        problems.append(f"the lengths count along {signature.lengths.axis!r}, which no input has")
    for ids in signature.ids:
        spec = inputs.get(ids.input)
        if spec is None or not np.issubdtype(np.dtype(spec.dtype), np.integer) or ids.size < 1:
            problems.append(f"the ids input {ids.input!r} is not an integer tensor, or has no id to take")
    if len({limit.axis for limit in signature.limits}) != len(signature.limits):
        problems.append("an axis has two limits")
    for limit in signature.limits:
        if limit.axis not in signature.axis_names:
            problems.append(f"the limit of {limit.axis!r} is of an axis that no input has")
        if not limit.allows(limit.min):
            problems.append(f"the limit of {limit.axis!r} is {limit.sizes}, which is no size at all")
    if problems:
        raise BundleError("the signature contradicts itself: " + "; ".join(problems))
