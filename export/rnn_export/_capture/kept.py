"""State that a model keeps to itself between calls, in attributes and buffers, as inputs and outputs.

What one call leaves in the model and the next one reads is found by calling copies. It is put in place before the model
is called and read after; the model stays as it is. A stream starts from zeros, so a model that starts from something
else is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._equal import all_equal
from .._errors import ExportError
from .._quiet import quiet
from . import tree
from .spots import Spot, leaves

TOLERANCE = 1e-6
"""Two runs of one model in float32, times the largest value where that is above 1."""


@dataclass(frozen=True)
class KeptSlot:
    """One tensor that a model keeps.

    Attributes:
        module, attribute: where it is kept.
        path: the way to it in what is kept there, which may be a tuple of tensors.
        input, output: its names.
        axes: for each dimension its size, or the name of the axis that it follows.
        dtype: of the tensor.
    """

    module: str
    attribute: str
    path: tree.Path
    input: str
    output: str
    axes: tuple[int | str, ...]
    dtype: torch.dtype

    def zeros(self, sizes: Mapping[str, int]) -> Tensor:
        """The state at the start of a stream, for these sizes of the axes."""
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in self.axes]
        return torch.zeros(shape, dtype=self.dtype)


@dataclass
class Kept:
    """What a model keeps in one attribute.

    Attributes:
        module, attribute: where.
        value: what a call left there: a tensor, or tensors in tuples, lists and dicts.
        slots: its tensors, in order.
    """

    module: str
    attribute: str
    value: Any
    slots: tuple[KeptSlot, ...] = ()

    @property
    def name(self) -> str:
        """The attribute as the model's code has it."""
        return f"{self.module}.{self.attribute}" if self.module else self.attribute

    def read(self, model: nn.Module) -> Any:
        """What is there now."""
        return Spot(self.module, self.attribute).read(model)

    def write(self, model: nn.Module, value: Any) -> None:
        """Put `value` there, past what a module does where an attribute is set."""
        Spot(self.module, self.attribute).write(model, value)


@contextmanager
def placed(model: nn.Module, kept: Sequence[Kept], states: Sequence[Tensor]) -> Iterator[None]:
    """While this lasts, the model keeps these states; then what it had before."""
    before = [one.read(model) for one in kept]
    queue = iter(states)
    # clones: a model may write into what it keeps, and these are its caller's
    for one in kept:
        one.write(model, tree.rebuild(one.value, lambda leaf: next(queue).clone() if _is_state(leaf) else leaf))
    try:
        yield
    finally:
        for one, value in zip(kept, before, strict=True):
            one.write(model, value)


def finals(model: nn.Module, kept: Sequence[Kept]) -> list[Tensor]:
    """What the model keeps now, in the order of the slots."""
    return [leaf for one in kept for _, leaf in tree.walk(one.read(model)) if _is_state(leaf)]


def _is_state(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def find(
    copy: Callable[[], Any],
    state: Sequence[Spot],
    left: nn.Module,
    later: nn.Module,
    inputs: Sequence[tuple[Mapping[str, int], Sequence[Tensor]]],
    axes: Sequence[str],
) -> list[Kept]:
    """A slot for each tensor that the model keeps and reads again.

    Args:
        copy: gives a fresh copy of the flat model.
        state: where it keeps something.
        left: the model after one call.
        later: the model after more.
        inputs: sizes and inputs of these sizes: the traced ones, and larger ones.
        axes: the names of all axes.

    Raises:
        ExportError: what it keeps are not tensors alone, has a size that no axis has, or does not start from zeros.
    """
    (sizes, first), (larger, others) = inputs

    def run(model: Any, given: Sequence[Tensor]) -> list[Tensor]:
        with quiet(), torch.no_grad():
            return list(model(*[tensor.clone() for tensor in given]))

    said = "a call of the model changes the next one: it keeps"
    names = ", ".join(spot.name for spot in state)
    for spot in state:
        if (why := _no_state(spot, left, later)) is not None:
            others_too = f" (of {names})" if len(state) > 1 else ""
            raise ExportError(
                f"{said} {spot.name}{others_too} between calls, which is no tensor that a state could be, but {why}. "
                "Take it as an argument and return its next value, or set it anew in each call"
            )
    kept = [Kept(spot.module, spot.attribute, spot.read(left)) for spot in state]
    for one in kept:
        one.slots = tuple(_slots(one, sizes, axes))
    _settle(copy, kept, (sizes, first), (larger, others), run)
    # A stream starts from zeros: that has to be how the model itself starts.
    turned = [x.flatten().roll(1).reshape(x.shape) if x.is_floating_point() else x for x in first]
    for given in (first, turned):
        zeros = copy()
        with placed(zeros.model, kept, [slot.zeros(sizes) for one in kept for slot in one.slots]):
            started = run(zeros, given)
        if not all_equal(started, run(copy(), given), TOLERANCE):
            raise ExportError(
                f"{said} {names} between calls, and starts from something else than zeros, from which a stream would. "
                "Take it as an argument and return its next value"
            )
    return kept


def _no_state(spot: Spot, left: nn.Module, later: nn.Module) -> str | None:
    """What is kept at a place, where that is something else than tensors of floats in containers of one length."""
    value = spot.read(left)
    found = leaves(value)
    if spot.hook is not None:
        return "a variable that a hook closes over"
    for leaf in found.values():
        if isinstance(leaf, bool | int | float):
            return f"a number ({type(leaf).__name__})"
        if not isinstance(leaf, Tensor):
            return f"a {type(leaf).__name__}"
        if not leaf.is_floating_point():
            return f"a tensor of {str(leaf.dtype).removeprefix('torch.')}"
    if isinstance(value, nn.Parameter):
        return "a parameter, which every call writes into"
    if not found or [path for path, _ in tree.walk(value)] != list(found):
        return f"a {type(value).__name__}"
    if leaves(spot.read(later)).keys() != found.keys():
        return f"a {type(value).__name__} that grows"
    return None


def _slots(kept: Kept, sizes: Mapping[str, int], axes: Sequence[str]) -> Iterator[KeptSlot]:
    stem = kept.name.replace(".", "_")
    leaves = list(tree.walk(kept.value))
    for path, leaf in leaves:
        name = "_".join([stem, *map(str, path)]) if len(leaves) > 1 else stem
        following = tuple(next((a for a in axes if sizes[a] == size), size) for size in leaf.shape)
        yield KeptSlot(kept.module, kept.attribute, path, name, f"{name}_n", following, leaf.dtype)


def _settle(copy: Any, kept: list[Kept], small: Any, large: Any, run: Any) -> None:
    """Which dimensions of what is kept follow an axis: those with which the model runs at larger sizes too."""
    (sizes, _), (larger, inputs) = small, large
    slots = [slot for one in kept for slot in one.slots]
    leaves = [leaf for one in kept for _, leaf in tree.walk(one.value)]
    options = []
    for leaf in leaves:
        for size in leaf.shape:
            options.append([*(axis for axis in sizes if sizes[axis] == size), int(size)])
    for choice in itertools.islice(itertools.product(*options), 256):
        parts = iter(choice)
        chosen = [tuple(next(parts) for _ in leaf.shape) for leaf in leaves]
        new = [KeptSlot(**{**vars(slot), "axes": axes}) for slot, axes in zip(slots, chosen, strict=True)]
        model = copy()
        try:
            with placed(model.model, kept, [slot.zeros(larger) for slot in new]):
                run(model, inputs)
                fits = [tuple(x.shape) for x in finals(model.model, kept)] == [
                    tuple(slot.zeros(larger).shape) for slot in new
                ]
        except Exception:
            continue
        if fits:
            queue = iter(new)
            for one in kept:
                one.slots = tuple(next(queue) for _ in one.slots)
            return
    raise ExportError(
        f"the model keeps {', '.join(one.name for one in kept)} between calls, of sizes that follow no axis "
        f"({dict(sizes)}): take it as an argument and return its next value"
    )
