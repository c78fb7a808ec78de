"""Which of the things that a call changes in a model the next call reads: they are overwritten, and it is made again.

A call on inputs that are loud, negative, zeros or others, and several in a row, show what changes. Where that is the
same whatever the inputs were, it is a table that the model makes once. Everything else is overwritten with large and
random values: where the results move, it is state.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from .._errors import ExportError
from .._quiet import quiet
from . import spots, tree
from .module import Flat, copied
from .probes import PROBES, Probes, Results, alike, call, changes, clones, paths
from .spots import Spot

ORDER = (4, 1, 2, 0, 3, 1, 5, 0)
"""The inputs of further calls in a row, after the first; zeros early, since they leave no trace."""
MOST_CALLS = 64
"""So many in a row are made while each still reaches something new, as in a chain of delays."""
_NOWHERE = (
    "a call of the model changes the next one: it keeps something between calls that no attribute of it holds (a "
    "global variable, an attribute of a class), and a graph keeps nothing. Take that as an argument and return its "
    "next value"
)


@dataclass(frozen=True)
class Effects:
    """What calls leave behind.

    Attributes:
        paths: the way to each result in what the model returns.
        state: the places that later calls read.
        left: the model after one call.
        later: the model after more.
    """

    paths: list[tree.Path]
    state: list[Spot]
    left: Flat
    later: Flat


class KeepsStateError(ExportError):
    """A call of a model changes the next one."""


def find(flat: Flat, traced: Sequence[Tensor], larger: Sequence[Tensor]) -> Effects:
    """Call copies of a model, and find what one call leaves to the next.

    Args:
        flat: the model, which stays as it is.
        traced: inputs.
        larger: inputs of larger sizes.

    Raises:
        ExportError: it draws random numbers, or puts a part of itself into training mode.
        KeepsStateError: a call changes the next one through something that is no part of the model.
    """
    with torch.random.fork_rng(devices=[]), _randomness():
        return _find(flat, traced, larger)


def _find(flat: Flat, traced: Sequence[Tensor], larger: Sequence[Tensor]) -> Effects:
    used = copied(flat)
    with quiet(), torch.no_grad(), _training(used) as training, _randomness() as drawn:
        ways = [path for path, _ in used.named(*clones(traced))]
    inputs: list[list[Tensor]] = []
    alone: list[Results] = []
    for one in (list(traced), *_others(traced)):
        if (results := call(copied(flat), one)) is not None:
            inputs.append(one)
            alone.append(results)
    if not inputs:  # the same call has failed, that has just been made on another copy
        raise KeepsStateError(_NOWHERE)
    order = [k % len(inputs) for k in ORDER]
    with _training(used) as later, _randomness() as more:
        row = [call(used, inputs[k]) for k in order]
    if training or later:
        raise ExportError(_trains([*training, *later]))
    if drawn or more:
        _require_no_chance(flat, inputs)
    first = copied(flat)
    call(first, traced)
    state = effects_of(flat, first, used, inputs, larger)
    if not state and not all(alike(a, alone[k]) for a, k in zip(row, order, strict=True)):
        raise KeepsStateError(_NOWHERE)
    return Effects(ways, state, first, used)


def effects_of(flat: Flat, first: Flat, used: Flat, inputs: list[list[Tensor]], larger: Sequence[Tensor]) -> list[Spot]:
    """The places that calls change and later calls read."""
    fresh, grown = copied(flat), copied(flat)
    call(grown, larger)
    reached = -1
    for _ in range(MOST_CALLS):
        count = sum(len(paths(spot, fresh, [used])) for spot in spots.spots(used.model))
        if count <= reached or not count:
            break
        reached = count
        call(used, inputs[-1])
    found = [
        spot
        for spot in dict.fromkeys(spot for one in (first, used, grown) for spot in spots.spots(one.model))
        if any(changes(spot, fresh, one) for one in (first, used, grown))
    ]
    if not found:
        return []
    renormed = {spot: embedding for spot in found if (embedding := _renorms(fresh.model, spot)) is not None}
    for name in dict.fromkeys(renormed.values()):
        _require_idempotent(flat, name, inputs)
    found = [spot for spot in found if spot not in renormed]
    others = []
    for one in inputs[1:]:
        others.append(copied(flat))
        call(others[-1], one)
    # The same after one call as after others: a table that the model makes once.
    made = {spot for spot in found if not any(changes(spot, first, one) for one in (*others, used))}
    probes = Probes([fresh, first, used], inputs[:PROBES], found)
    read = [
        spot
        for spot in found
        if probes.replayed(spot, [first, used, grown]) or (spot not in made and probes.overwritten(spot))
    ]
    while new := [spot for spot in found if spot not in read and probes.moves[spot] & set(read)]:
        read += new  # what moves state is state
    return [spot for spot in found if spot in read]


def _renorms(model: nn.Module, spot: Spot) -> str | None:
    """The embedding with `max_norm`, which rewrites its rows as they are read, whose weight is at a place."""
    for name, module in model.named_modules():
        renorms = isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None
        if renorms and spot.read(model) is module.weight:
            return str(name)
    return None


def _require_idempotent(flat: Flat, name: str, inputs: list[list[Tensor]]) -> None:
    """See that it makes no difference whether the rows of an embedding have been rewritten before."""
    model, before = copied(flat), copied(flat)
    embedding = model.model.get_submodule(name)
    assert isinstance(embedding, nn.Embedding | nn.EmbeddingBag) and embedding.max_norm is not None
    with torch.no_grad():
        rows = torch.arange(embedding.num_embeddings)
        torch.embedding_renorm_(embedding.weight, rows, embedding.max_norm, embedding.norm_type)
    if not all(alike(call(copied(model), one), call(copied(before), one)) for one in inputs):
        raise KeepsStateError(
            f"a call of the model changes the next one: {name!r} (max_norm) rewrites the rows of its weight that it "
            "reads, and the model reads that weight elsewhere too. Rewrite all rows once before the export "
            "(torch.renorm), and set max_norm=None"
        )


def _require_no_chance(flat: Flat, inputs: list[list[Tensor]]) -> None:
    """See that the random numbers that a model draws do not show in its results."""
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append([call(copied(flat), one) for one in inputs])
    if not all(map(alike, *runs)):
        raise ExportError(
            "the model gives other results each time: it draws random numbers, which a graph does not. Take them as an "
            "argument, or leave them out in evaluation mode"
        )


def _trains(names: Collection[str]) -> str:
    return (
        f"forward puts {', '.join(dict.fromkeys(names))} into training mode, in which results depend on the rest of "
        "the batch or on chance: leave that out of forward, since what is exported is the model in evaluation mode"
    )


@contextmanager
def _training(flat: Flat) -> Iterator[list[str]]:
    """The modules that run in training mode while this lasts."""
    names = {id(module): name for name, module in flat.model.named_modules() if not module.training}
    found: list[str] = []

    def note(module: nn.Module, _: Any) -> None:
        if module.training and id(module) in names:
            found.append(f"{names[id(module)]!r} ({type(module).__name__})")

    hook = register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def _randomness() -> Iterator[list[str]]:
    """The sources of random numbers that are drawn from while this lasts; Python's and NumPy's are put back."""
    found: list[str] = []
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield found
    finally:
        _, keys, *rest = np.random.get_state()
        _, old, *was = before[2]
        if not spots.same(torch.get_rng_state(), before[0]):
            found.append("torch")
        if random.getstate() != before[1]:
            found.append("random")
        if rest != was or not np.array_equal(keys, old):
            found.append("numpy")
        random.setstate(before[1])
        np.random.set_state(before[2])


def _others(traced: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Inputs of the same sizes: in another order, loud, negative, zeros; ids and lengths in another order last."""
    rolled = [tensor.flatten().roll(1).reshape(tensor.shape) for tensor in traced]
    yield [b if b.is_floating_point() else a for a, b in zip(traced, rolled, strict=True)]
    yield [x * 1000 if x.is_floating_point() else x for x in traced]
    yield [-x if x.is_floating_point() else x for x in traced]
    yield [torch.zeros_like(x) if x.is_floating_point() else x for x in traced]
    yield rolled
