"""The signature of a captured program: names, axes, lengths and states."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from rnn_runtime import InputError, LengthsSpec, Signature, StateSpec, TensorSpec

from .._errors import ExportError
from . import leaves, states, tree
from .axes import Axes
from .graph import Layer, ancestors, arguments, layers, origins, user_inputs, user_outputs
from .ids import ids
from .prepare import Prepared, State


def describe(
    program: ExportedProgram,
    prepared: Prepared,
    output_names: Sequence[str] | None,
    lengths: str | None,
    state: State,
) -> tuple[Signature, list[LengthsSpec], tuple[Layer, ...]]:
    """The signature of `program`, as it was traced from `prepared`, all its lengths, and its recurrent layers.

    Raises:
        InputError: `output_names`, `lengths` or `state` do not fit the model.
        ExportError: explicit state was asked for and there is none.
    """
    names, axes, output_paths = prepared.names, prepared.axes, prepared.output_paths
    found = _lengths(program, names, fixed=bool(prepared.fixed))
    _check_lengths(lengths, names, [names[position] for position in found])
    axis_names = _AxisNames(program, names, axes)
    pairs = {names.index(slot.input): output_paths.index((slot.output,)) for slot in prepared.flat.states}
    if not isinstance(state, Mapping):
        pairs |= _pairs(program, state, pairs)
    outputs = _unique(_outputs(output_names, output_paths, names, pairs), names)
    if isinstance(state, Mapping):
        pairs = _named_pairs(state, names, outputs)

    def specs(names: Sequence[str], nodes: list[fx.Node]) -> tuple[TensorSpec, ...]:
        dtypes = [str(node.meta["val"].dtype).removeprefix("torch.") for node in nodes]
        return tuple(TensorSpec(*spec) for spec in zip(names, dtypes, map(axis_names, nodes), strict=True))

    every = [LengthsSpec(names[position], str(axis_names(data)[0])) for position, data in found.items()]
    every = [spec for spec in every if _is_known(spec.axis, axis_names.declared)]
    every.sort(key=lambda spec: (spec.input != lengths, names.index(spec.input)))
    signature = Signature(
        inputs=specs(names, user_inputs(program)),
        outputs=specs(outputs, user_outputs(program)),
        states=tuple(StateSpec(names[i], outputs[j]) for i, j in pairs.items()),
        lengths=every[0] if every else None,
        ids=ids(program, names),
    )
    for state_spec in signature.states:
        before, after = signature.input(state_spec.input), signature.output(state_spec.output)
        if (before.dtype, before.axes) != (after.dtype, after.axes):
            raise InputError(f"{after} cannot be the next value of the state {before}: they differ in dtype or axes")
    return signature, every, layers(program, axis_names.over)


def _lengths(program: ExportedProgram, names: Sequence[str], *, fixed: bool) -> dict[int, fx.Node]:
    """The inputs that packed sequences take their lengths from, by position, and the padded data of each."""
    inputs = user_inputs(program)
    found: dict[int, fx.Node] = {}
    for data, lengths in _packed(program):
        if (source := _source(lengths, inputs)) is not None:
            found.setdefault(inputs.index(source), data)
    for position in found:
        if not fixed and not isinstance(inputs[position].meta["val"].shape[0], torch.SymInt):
            raise InputError(
                f"{names[position]!r} holds the lengths and has a fixed number of rows: name its dimension 0 in axes, "
                "as the batch of what is packed"
            )
    return found


def _packed(program: ExportedProgram) -> Iterator[tuple[fx.Node, fx.Node]]:
    """What is packed, time-major, and its lengths: where it is cut, or else where a layer runs over it."""
    for node in program.graph.nodes:
        if node.target is leaves.pack:
            data, lengths = arguments(node)
            yield data, lengths
        elif node.target in leaves.RECURRENT:
            data, *_, lengths, _weights, _biases, _layers, _both = arguments(node)
            if lengths is not None and data.target is not leaves.pack:
                yield data, lengths


def _source(lengths: fx.Node, inputs: Sequence[fx.Node]) -> fx.Node | None:
    """The input that the lengths of a packed sequence are computed from, where there is one of whole numbers."""
    as_it_is = _moved(lengths, inputs)
    if as_it_is is not None:
        return as_it_is
    way = ancestors(lengths)
    found = [source for source in inputs if source in way and _is_integers(source)]
    return found[0] if len(found) == 1 else None


def _moved(lengths: fx.Node, inputs: Sequence[fx.Node]) -> fx.Node | None:
    """The input that holds the lengths of a packed sequence as they are."""
    way = origins(lengths)
    found = [source for source in inputs if source in way and _is_integers(source)]
    return found[0] if len(found) == 1 else None


def _is_known(axis: str, declared: Collection[str]) -> bool:
    """Whether an axis is declared, or an expression in those that are."""
    words = set(re.findall(r"[A-Za-z_]\w*", axis)) - {"Max", "Min", "Mod", "ceiling", "floor"}
    return bool(words) and words <= set(declared)


def _is_integers(node: fx.Node) -> bool:
    value = node.meta["val"]
    return value.dim() == 1 and not value.dtype.is_floating_point and value.dtype is not torch.bool


def _check_lengths(given: str | None, names: Sequence[str], found: Sequence[str]) -> None:
    if given is None or given in found:
        return
    if given not in names:
        raise InputError(f"lengths names {given!r}, but the inputs are {list(names)}")
    raise InputError(
        f"lengths names {given!r}, which never reaches pack_padded_sequence"
        + (f": it is {', '.join(map(repr, found))} that does" if found else ": leave `lengths` out")
    )


def _named_pairs(state: Mapping[str, str], names: Sequence[str], outputs: Sequence[str]) -> dict[int, int]:
    """The pairs that the user names, as {input position: output position}."""
    for given, known, what in ((state, names, "inputs"), (state.values(), outputs, "outputs")):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise InputError(f"state names {unknown}, but the {what} are {list(known)}")
    if len(set(state.values())) != len(state):
        raise InputError(f"state is {dict(state)}: each state has an output of its own")
    return {names.index(i): outputs.index(j) for i, j in state.items()}


def _pairs(program: ExportedProgram, state: str, lifted: Mapping[int, int]) -> dict[int, int]:
    """The pairs that are found beside the lifted ones, as {input position: output position}."""
    if state not in ("auto", "explicit", "lift", "none"):
        raise InputError(
            f"state is {state!r}: it is 'auto', 'explicit', 'lift', 'none', or a dict of input name -> output name"
        )
    found = {} if state == "none" else states.pairs(program, lifted)
    if state == "explicit" and not found:
        raise ExportError(
            "state='explicit', but no input holds a recurrent layer's initial state whose final state is returned: "
            "give the state among the example inputs and return its last value, or use state='none'"
        )
    return found


def _outputs(
    given: Sequence[str] | None, paths: list[tree.Path], names: Sequence[str], pairs: Mapping[int, int]
) -> list[str]:
    """The outputs' names: those that the user gives, or names of our own."""
    if given is None:
        return _output_names(paths, {j: names[i] for i, j in pairs.items()})
    if len(given) != len(paths) or len(set(given)) != len(paths):
        raise InputError(f"output_names is {list(given)}; the model has {len(paths)} outputs: give each its own name")
    taken = sorted(set(given) & set(names))
    if taken:
        raise InputError(f"output_names is {list(given)}, but {taken} are inputs: choose others")
    return list(given)


def _output_names(paths: list[tree.Path], state_of: Mapping[int, str]) -> list[str]:
    """Names for results: their keys; a state's after its input; else output, or output_0, output_1 and so on."""
    names = tree.names(paths, "output")
    plain = [j for j, path in enumerate(paths) if not (path and isinstance(path[-1], str))]
    others = [j for j in plain if j not in state_of]
    for j in plain:
        if j in state_of:
            names[j] = _next(state_of[j], state_of.values())
        elif len(others) == 1:
            names[j] = "output"
    return names


def _unique(names: Sequence[str], inputs: Collection[str]) -> list[str]:
    """One graph has one name space: a result that has an input's name, or another result's, takes another."""
    found: list[str] = []
    for name in names:
        candidates = [name, f"{name}_out", *(f"{name}_{k}" for k in range(2, len(names) + 2))]
        found.append(next(c for c in candidates if c not in inputs and c not in found))
    return found


def _next(name: str, others: Collection[str]) -> str:
    """The name of a state's next value: h_0 -> h_n, h_in -> h_out, h -> h_n; the first of a row (h_0, h_1) -> h_0_n."""
    if name.endswith("_0") and f"{name[:-1]}1" in others:
        return f"{name}_n"
    for start, end in (("_0", "_n"), ("_in", "_out")):
        if name.endswith(start):
            return name.removesuffix(start) + end
    return f"{name}_n"


class _AxisNames:
    """From a node to the axes of its value: sizes, names, or expressions in names."""

    def __init__(self, program: ExportedProgram, names: Sequence[str], axes: Axes) -> None:
        self._names: dict[Any, str] = {}
        self._packed: dict[str, str] = {}
        self.declared = {axis for dimensions in axes.values() for axis in dimensions.values()}
        for name, node in zip(names, user_inputs(program), strict=True):
            for dim, axis in axes[name].items():
                self._add(node.meta["val"].shape[dim], axis)
        inputs = user_inputs(program)
        packs = [node for node in program.graph.nodes if node.target is leaves.pack]
        for k, node in enumerate(packs, 1):
            source = _moved(arguments(node)[1], inputs)
            own = None if source is None else names[inputs.index(source)]
            size = node.meta["val"].shape[0]
            if isinstance(size, torch.SymInt):  # where packed data meets padded, it is the whole axis
                name = self._names.setdefault(size.node.expr, f"max({own})" if own else f"packed_{k}")
                self._packed[name] = str(self(arguments(node)[0])[0])

    def _add(self, size: Any, name: str) -> None:
        if not isinstance(size, torch.SymInt):
            return
        known = self._names.setdefault(size.node.expr, name)
        if known != name:
            raise InputError(f"the axes {known!r} and {name!r} always have one size in this model: give them one name")

    def __call__(self, node: fx.Node) -> tuple[int | str, ...]:
        return tuple(self._axis(size) for size in node.meta["val"].shape)

    def over(self, node: fx.Node) -> str:
        """What a layer with this input runs over: its first axis, and of packed data the axis that was packed."""
        name = str(self(node)[0])
        return self._packed.get(name, name)

    def _axis(self, size: Any) -> int | str:
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression = size.node.expr
        if expression in self._names:
            return self._names[expression]
        if expression.is_number:
            return int(expression)
        symbol = type(next(iter(expression.free_symbols)))
        for unknown in sorted(expression.free_symbols - set(self._names), key=str):
            self._names[unknown] = f"size_{len(self._names)}"  # depends on values, so that no input has it
        if expression in self._names:
            return self._names[expression]
        return str(expression.subs({old: symbol(name) for old, name in self._names.items()})).replace(" ", "")
