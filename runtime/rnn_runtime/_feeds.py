"""From what a caller gives (an array, a tuple, a dict, a state, lengths) to one checked array per graph input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _guards
from ._errors import InputError
from ._guards import Sizes
from ._signature import Signature, TensorSpec

_REFUSED = object()  # stands for an input that a problem was found with already


def make(signature: Signature, inputs: object, state: object = None, lengths: object = None) -> dict[str, NDArray[Any]]:
    """An array for every graph input: those given, zeros for the states that are not, full lengths if none are.

    Raises:
        InputError: something given does not fit the signature, or something is missing; lists all problems.
    """
    problems: list[str] = []
    given = _gather(signature, inputs, state, lengths, problems)
    lengths_name = signature.lengths.input if signature.lengths else None
    needed = {spec.name for spec in signature.data_inputs}
    arrays: dict[str, NDArray[Any]] = {}
    sizes = Sizes()
    for spec in signature.inputs:
        if spec.name in given:
            array = None if given[spec.name] is _REFUSED else _array(spec, given[spec.name], problems)
            if array is None:
                continue
            if spec.name == lengths_name:
                array, wrong = _integers(spec, array)
            else:
                wrong = _guards.tensor(spec, array)
            problems += wrong
            arrays[spec.name] = array
            if array.ndim == len(spec.axes):
                sizes.add(spec, array.shape)
        elif spec.name in needed:
            problems.append(f"the input {spec.name!r} is missing: give it as {spec}")
    problems += [*sizes.conflicts(), *sizes.outside(signature.limits)]
    _check_lengths(signature, arrays, sizes, problems)
    for lengths in signature.more_lengths:
        if not problems and lengths.input in arrays:
            size = int(lengths.axis) if lengths.axis.isdigit() else sizes.get(lengths.axis)
            problems += _guards.lengths(lengths, arrays[lengths.input], size)
    if not problems:  # what is left out can only be made from what fits
        _fill(signature, arrays, sizes, problems)
    _refuse(problems)
    return {spec.name: arrays[spec.name] for spec in signature.inputs}


class Forms:
    """Arrays by name, dtype and shape that `make` took as they were: the same again need no check.

    Any number of threads may share one. Models with lengths have none, since their values are checked too.

    Attributes:
        outputs: the names of the graph's outputs, in order.
    """

    _MOST = 64  # forms, after which it starts anew: an app whose lengths vary has many

    def __init__(self, signature: Signature) -> None:
        self.outputs = [spec.name for spec in signature.outputs]
        self._signature = signature
        self._checked_by_shape = signature.lengths is None and not signature.more_lengths
        self._names = [spec.name for spec in signature.data_inputs]
        # Beside each form, the states that start as zeros there.
        self._known: dict[tuple[object, ...], list[tuple[str, tuple[int, ...], Any]]] = {}

    def make(self, inputs: object, state: object = None, lengths: object = None) -> dict[str, NDArray[Any]]:
        """As `make` of this module, in any order.

        Raises:
            InputError: as there.
        """
        given = None
        if self._checked_by_shape and lengths is None:
            given = _by_name(self._names, inputs, state)
        form = None if given is None else _form(given)
        if given is None or form is None:
            return make(self._signature, inputs, state, lengths)
        if (zeros := self._known.get(form)) is not None:
            for name, shape, dtype in zeros:
                given[name] = np.zeros(shape, dtype)
            return given
        arrays = make(self._signature, inputs, state)
        if len(self._known) >= self._MOST:
            self._known.clear()
        self._known[form] = [(name, a.shape, a.dtype) for name, a in arrays.items() if name not in given]
        return arrays


def _by_name(names: list[str], inputs: object, state: object) -> dict[str, Any] | None:
    """What is given, in a dict of its own; None where it comes in a rarer form or a name comes twice."""
    if type(inputs) is np.ndarray and len(names) == 1:
        given: dict[str, Any] = {names[0]: inputs}
    elif type(inputs) is dict:
        given = inputs.copy()
    else:
        return None
    if state is None:
        return given
    if type(state) is not dict:
        return None
    count = len(given) + len(state)
    given.update(state)
    return given if len(given) == count else None


def _form(given: Mapping[str, Any]) -> tuple[object, ...] | None:
    """The name, dtype and shape of each array; None where one is no plain array in C order."""
    form: list[object] = []
    for name, array in given.items():
        if type(array) is not np.ndarray or not array.flags.c_contiguous:
            return None
        form += (name, array.dtype, array.shape)
    return tuple(form)


def other_rows(signature: Signature, inputs: object, axis: str | None, batch: int) -> int | None:
    """How many rows all inputs agree on, where that is not `batch`; None where it is, or where it is unclear."""
    try:
        given: Mapping[str, Any] = _gather(signature, inputs, None, None, [])
        specs = [spec for spec in signature.data_inputs if axis in spec.axes and spec.name in given]
        found = {np.shape(given[spec.name])[spec.axes.index(axis)] for spec in specs}
    except Exception:  # whatever is wrong with the inputs has been found already
        return None
    return next(iter(found)) if len(found) == 1 and found != {batch} and found != {0} else None


def gather(signature: Signature, inputs: object, state: object = None, lengths: object = None) -> dict[str, object]:
    """All that was given, by the name of the graph input that it is for, unchecked but for the names and their number.

    Raises:
        InputError: a name is unknown or given twice, or there are too many inputs or too few.
    """
    problems: list[str] = []
    given = _gather(signature, inputs, state, lengths, problems)
    _refuse(problems)
    return given


def _refuse(problems: list[str]) -> None:
    if len(problems) > 1:
        raise InputError("\n- ".join([f"{len(problems)} problems with the inputs:", *problems]))
    if problems:
        raise InputError(problems[0])


def _gather(
    signature: Signature, inputs: object, state: object, lengths: object, problems: list[str]
) -> dict[str, object]:
    """As `gather`, adding to `problems`."""
    data = tuple(spec.name for spec in signature.data_inputs)
    every = tuple(spec.name for spec in signature.inputs)
    states = tuple(spec.input for spec in signature.states)
    given: dict[str, object] = {}

    def take(what: str, values: Mapping[Any, object], known: tuple[str, ...]) -> None:
        for name, value in values.items():
            if name not in known:
                problems.append(f"there is no {what} {name!r}; the model takes {_names(known)}: check the name")
            elif name in given:
                problems.append(f"{name!r} is given twice: leave one of them out")
            else:
                given[name] = value

    if isinstance(inputs, Mapping):
        take("input", inputs, every)
    elif hasattr(inputs, "shape") or hasattr(inputs, "__array__") or isinstance(inputs, tuple | list):
        values = inputs if isinstance(inputs, tuple | list) else (inputs,)
        if len(values) == len(data):
            given = dict(zip(data, values, strict=True))
        else:
            problems.append(
                f"{len(values)} input{'s were' if len(values) != 1 else ' was'} given; the model takes {len(data)}, "
                f"{_names(data)}: give a tuple of arrays in this order, or a dict by name"
            )
            given = dict.fromkeys(data, _REFUSED)
    else:
        problems.append(
            f"the inputs are a {type(inputs).__name__}; expected an array, a tuple of arrays, or a dict by name"
        )
        given = dict.fromkeys(data, _REFUSED)
    if isinstance(state, Mapping):
        take("state", state, states)
    elif state is not None:
        problems.append(
            f"the state is a {type(state).__name__}; expected a dict by name ({_names(states)}): give result.state"
        )
    if lengths is not None and signature.lengths is None:
        problems.append("lengths were given; the model takes none: leave them out")
    elif lengths is not None and signature.lengths is not None:
        take("input", {signature.lengths.input: lengths}, every)
    return given


def _array(spec: TensorSpec, value: object, problems: list[str]) -> NDArray[Any] | None:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):  # NumPy would take what lies behind the mask
        problems.append(f"{spec.name!r} is a masked array, some of whose values are none: fill it, as by .filled(0)")
        return None
    try:
        return np.asarray(value, order="C")
    except Exception as error:  # whatever the object's own __array__ raises
        problems.append(f"{spec.name!r} cannot be read as an array ({error}): give a numpy.ndarray as {spec}")
        return None


def _integers(spec: TensorSpec, array: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Lengths before their range is known: any integer type will do, and one number stands for all rows."""
    if array.dtype.kind not in "iu":
        return array, [f"{spec.name!r} has dtype {array.dtype}; lengths are integers: give a list of int"]
    if array.ndim == 0:
        return array, []
    return array, _guards.tensor(TensorSpec(spec.name, str(array.dtype), spec.axes), array)


def _check_lengths(signature: Signature, arrays: dict[str, NDArray[Any]], sizes: Sizes, problems: list[str]) -> None:
    if signature.lengths is None or signature.lengths.input not in arrays:
        return
    spec = signature.input(signature.lengths.input)
    array = arrays[spec.name]
    if array.dtype.kind in "iu":
        problems += _guards.lengths(signature.lengths, array, sizes.get(signature.lengths.axis))
    if not problems and array.ndim:
        arrays[spec.name] = array.astype(spec.dtype)  # safe: the values are known to be small
    elif not problems and (rows := sizes.get(spec.axes[0])) is not None:
        arrays[spec.name] = np.full((rows,), array, spec.dtype)
    elif not problems:
        problems.append(f"{spec.name!r} is one number, and no other input tells the number of rows: give a list of int")


def _fill(signature: Signature, arrays: dict[str, NDArray[Any]], sizes: Sizes, problems: list[str]) -> None:
    for state in signature.states:
        if state.input in arrays:
            continue
        spec = signature.input(state.input)
        shape = [sizes.get(axis) for axis in spec.axes]
        if None in shape:
            problems.append(_unknown(spec, sizes, "the state cannot start as zeros"))
        else:
            arrays[spec.name] = np.zeros([size for size in shape if size is not None], spec.dtype)
    if signature.lengths is not None and signature.lengths.input not in arrays:
        spec = signature.input(signature.lengths.input)
        rows, size = sizes.get(spec.axes[0]), sizes.get(signature.lengths.axis)
        if rows is None or size is None:
            problems.append(_unknown(spec, sizes, "the lengths cannot be taken as full"))
        elif size < signature.lengths.minimum:
            problems.append(
                f"axis {signature.lengths.axis!r} has size {size}; the model takes lengths of "
                f"{signature.lengths.minimum} or more: give a longer input"
            )
        else:
            arrays[spec.name] = np.full((rows,), size, spec.dtype)


def _unknown(spec: TensorSpec, sizes: Sizes, what: str) -> str:
    axes = [axis for axis in spec.axes if sizes.get(axis) is None]
    told = f"no other input tells the size of {_names(axes)}" if axes else "no other input tells the size of its axis"
    return f"{what}: {told}: give {spec.name!r} as {spec}"


def _names(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
