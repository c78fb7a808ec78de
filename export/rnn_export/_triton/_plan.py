"""How Triton sees a model: batch first everywhere, states by names that sort alike, and two flags for each row."""

from __future__ import annotations

from dataclasses import dataclass

from rnn_runtime import InputError, Signature, TensorSpec

START, READY = "START", "READY"
"""Inputs of the stateful graph, bool (batch, 1): whether a row begins its sequence, and whether it holds a request."""

TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
"""NumPy's name -> Triton's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each tensor.

    Attributes:
        signature: the bundle's own.
        axis: the name of the batch axis; None where the model has none, and runs each request by itself.
        states: for each state its input, its output, and their names for Triton.
        gathers: whether requests of one shape can run as one batch, with the results of each alone.
    """

    signature: Signature
    axis: str | None
    states: tuple[tuple[TensorSpec, TensorSpec, str, str], ...]
    gathers: bool

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a request holds."""
        kept = {state.name for state, _, _, _ in self.states}
        return tuple(spec for spec in self.signature.inputs if spec.name not in kept)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What an answer holds: a state too where there is nothing else."""
        kept = {following.name for _, following, _, _ in self.states}
        return tuple(spec for spec in self.signature.outputs if spec.name not in kept)

    def place(self, spec: TensorSpec) -> int:
        """Which dimension of a tensor is the batch; 0 where nothing is to be moved."""
        return 0 if self.axis is None else spec.axes.index(self.axis)

    def dims(self, spec: TensorSpec) -> list[int]:
        """The sizes without the batch, as Triton wants them: -1 for what varies."""
        axes = list(spec.axes)
        if self.axis is not None:
            axes.remove(self.axis)
        return [axis if isinstance(axis, int) else -1 for axis in axes]


def plan(signature: Signature) -> Plan:
    """How Triton is to see a model of this signature.

    Raises:
        InputError: the model has state, and not every tensor has its batch axis once; or a name is taken.
    """
    shared = [
        axis
        for axis in signature.axis_names
        if all(spec.axes.count(axis) == 1 for spec in (*signature.inputs, *signature.outputs))
    ]
    states = [(signature.input(state.input), signature.output(state.output)) for state in signature.states]
    if states:
        shared = [axis for axis in shared if axis in states[0][0].axes]
    elif len(shared) > 1:
        shared = [axis for axis in shared if axis == "batch"]
    axis = shared[0] if shared else None
    if not states:
        growing = any(isinstance(a, str) and "(" in a for spec in signature.outputs for a in spec.axes)
        return Plan(signature, axis, (), gathers=axis is not None and not growing)
    if axis is None:
        raise InputError(
            "Triton runs many sequences as one batch, so every input, output and state needs one batch axis: "
            f"{', '.join(map(str, (*signature.inputs, *signature.outputs)))}"
        )
    for state, following in states:
        if any(isinstance(a, str) and a != axis for a in (*state.axes, *following.axes)):
            raise InputError(f"the state {state} has another varying size than the batch, which Triton cannot keep")
    if not [spec for spec in signature.outputs if spec not in {following for _, following in states}]:
        raise InputError(
            "the model gives nothing but its state, which Triton keeps to itself: export it with an output"
        )
    names = [(f"state_{k:03}_in", f"state_{k:03}_out") for k in range(len(states))]
    taken = {START, READY, *(name for pair in names for name in pair)}
    taken &= {spec.name for spec in (*signature.inputs, *signature.outputs)}
    if taken:
        raise InputError(f"the model has tensors named {sorted(taken)}, which the repository needs: rename them")
    pairs = zip(states, names, strict=True)
    return Plan(signature, axis, tuple((*pair, *both) for pair, both in pairs), gathers=True)
