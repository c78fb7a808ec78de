"""Loops whose step is one of PyTorch's cells, as the layer."""

from __future__ import annotations

import operator

from .batched import Known
from .body import Work
from .cells import LAYERS
from .ir import Carried, Path, Place, Same, forms, is_value, result
from .rewrite import aten
from .values import EmittedLoop


def is_layer(loop: EmittedLoop, group: list[int]) -> bool:
    """Whether a group is a cell that takes its own last state, so that the layer can run in its place."""
    body, (position, *others) = loop.body, group
    work = body.works[position]
    if others or work.call.target not in LAYERS or not body.is_cycle(group):
        return False
    lstm = work.call.target is aten.lstm_cell.default
    x, hx, *weights = work.call.args
    for state, path in zip(hx if lstm else [hx], _paths(lstm), strict=True):
        if not isinstance(state, Carried) or body.carries[state.carry].place != (position, path):
            return False
        if len(body.carries[state.carry].initial) != 1:
            return False
    if any(w is not None and not is_value(w) for w in weights) or any(w is None for w in weights[:2]):
        return False
    if any(isinstance(form, Carried) for form in forms(x)) or (work.meta[0] if lstm else work.meta).dim() != 2:
        return False
    return not (lstm and _takes_cells(loop, position))


def _paths(lstm: bool) -> list[Path]:
    return [(result(0),), (result(1),)] if lstm else [()]


def _takes_cells(loop: EmittedLoop, position: int) -> bool:
    """Whether something takes the cell states, of which a layer gives those of the last step alone."""
    place = Place(position, (result(1),))
    for k, work in enumerate(loop.body.works):
        for form in work.forms:
            if isinstance(form, Same) and (form.place.position, form.place.path[:1]) == place:
                return True
            if k != position and isinstance(form, Carried) and loop.body.carries[form.carry].place == place:
                return True
    return place in loop.taken and not loop.is_last(loop.taken[place])


def layer(loop: EmittedLoop, position: int, work: Work) -> None:
    """Write the layer of a cell."""
    v, lstm = loop.e.v, work.call.target is aten.lstm_cell.default
    x, hx, *given = work.call.args
    over = loop.value(x)
    assert isinstance(over, Known)
    xs = loop.stacked(over).node
    states = [v.add(aten.unsqueeze.default, loop.initials(s.carry)[0], 0) for s in (hx if lstm else [hx])]
    weights = [loop.e.value(weight) for weight in given if weight is not None]
    node = v.add(LAYERS[work.call.target], xs, *states, None, weights, len(weights) == 4, 1, False)
    y, *finals = (v.add(operator.getitem, node, k) for k in range(1 + len(states)))
    paths = _paths(lstm)
    loop.known[Place(position, paths[0])] = Known(y, True, work.meta[0] if lstm else work.meta)
    for path, final in zip(paths, finals, strict=True):
        loop.finals[Place(position, path)] = v.add(aten.squeeze.dim, final, 0)
