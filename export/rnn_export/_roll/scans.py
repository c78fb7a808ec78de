"""A loop in the new graph: layers where its steps are a layer's, operators over all steps at once, and scans.

The positions of a step fall into groups: those that need each other's values from step to step, and single ones. In the
order of their needs, a group that is one of PyTorch's cells becomes the layer; a single one that is known to work over
all steps at once does; everything else becomes a part of a scan.
"""

from __future__ import annotations

import operator

from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

from .._capture import scan_leaf
from . import numbers
from .batched import Known, Raised, arguments_over_steps, has_steps, operator_over_steps
from .body import Body, Work, taken_apart
from .cells import LAYERS
from .emitter import Emitter
from .ir import Carried, Count, Each, Form, Place, Repeat, Same, changed, first_of
from .layers import is_layer, layer
from .rewrite import aten
from .steps import write_step
from .unify import Loop
from .values import EmittedLoop


def emit_loop(e: Emitter, number: int, item: Repeat, source: Loop) -> EmittedLoop:
    """Write a loop into the new graph.

    Args:
        e: has the graph.
        number: of the loop among the program's items.
        item: the loop.
        source: what it was found as.
    """
    works = [Work(call, node.meta["val"], node) for call, node in zip(item.body, source.model_step, strict=True)]
    taken = e.taken.get(number, {})
    # A loop that may have no step makes one more in vain, since a scan has one or more.
    extra = max(0, 1 - numbers.at(item.count, [length.least for length in e.lengths]))
    loop = EmittedLoop(e, item, extra, Body(works, list(item.carries)), taken)
    whole = {group[0] for group in loop.body.groups if is_layer(loop, group)}
    loop.body, places = taken_apart(loop.body, whole, list(taken))
    loop.places = dict(zip(taken, places, strict=True))
    loop.taken = {}
    for old, new in loop.places.items():
        loop.taken.setdefault(new, []).extend(taken[old])
    # What is done at once may need a scan, and a scan what is done at once: level by level.
    for scan, groups in _levels(loop):
        if scan:
            _scan(loop, sorted(scan))
        for group in groups:
            _at_once(loop, group)
    return loop


def _levels(loop: EmittedLoop) -> list[tuple[list[int], list[list[int]]]]:
    """For each level the positions of a scan, and the groups that are done at once after it."""
    body = loop.body
    found: dict[int, tuple[int, bool]] = {}  # position -> (its level, whether it is in a scan)
    for group in body.groups:
        needs = [found[p] for member in group for p in body.needs(member) if p not in group]
        level = max((at for at, _ in needs), default=0)
        scan = not _is_at_once(loop, group)
        if scan:
            level = max(level, 1, *(at + 1 for at, scanned in needs if not scanned))
        found.update(dict.fromkeys(group, (level, scan)))
    return [
        (
            [p for p, place in found.items() if place == (level, True)],
            [group for group in body.groups if found[group[0]] == (level, False)],
        )
        for level in range(max((at for at, _ in found.values()), default=0) + 1)
    ]


def _is_at_once(loop: EmittedLoop, group: list[int]) -> bool:
    """Whether a group is done for all steps in one call."""
    work = loop.body.works[group[0]]
    if loop.body.is_cycle(group):
        return work.call.target in LAYERS
    try:
        args, kwargs = changed((work.call.args, work.call.kwargs), lambda form: _promise(loop, form))
    except _Unknown:
        return False
    if has_steps(kwargs):
        return False
    return not has_steps(args) or arguments_over_steps(work.target, args, work.meta) is not None


class _Unknown(Exception):
    """A value that is not known outside of a scan."""


def _promise(loop: EmittedLoop, form: Form) -> Known | int:
    """A value as it will be known, before it is there: its rank, and whether it goes over the steps."""
    nowhere = loop.body.works[0].source
    match form:
        case Same(place):
            return Known(nowhere, not loop.body.is_constant(place.position), loop.example(place))
        case Carried(carry):
            if len(loop.body.carries[carry].initial) != 1:
                raise _Unknown
            return Known(nowhere, True, loop.example(loop.body.carries[carry].place))
        case Each(number):
            return Known(nowhere, True, loop.e.meta(first_of(loop.item.each[number])))
        case Count():
            return Known(nowhere, True, loop.step_example())
        case _:
            meta = loop.e.meta(form)
            return Known(nowhere, False, meta) if isinstance(meta, Tensor) else 0


def _at_once(loop: EmittedLoop, group: list[int]) -> None:
    """Do a work for all steps in one call."""
    work = loop.body.works[group[0]]
    loop.e.v.at(work.source)
    if loop.body.is_cycle(group):
        layer(loop, group[0], work)
        return
    args, kwargs = changed((work.call.args, work.call.kwargs), loop.value)
    target = work.target
    steps = has_steps(args)
    if steps:
        over = arguments_over_steps(target, args, work.meta)
        assert over is not None
        target, args = operator_over_steps(target), over

    def plain(leaf: PyTree) -> PyTree:
        if isinstance(leaf, Raised):
            return _raised(loop, leaf, work)
        return leaf.node if isinstance(leaf, Known) else loop.e.number(leaf)

    node = loop.e.v.add(target, *pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs))
    loop.known[Place(group[0], ())] = Known(node, steps, work.meta)


def _raised(loop: EmittedLoop, raised: Raised, work: Work) -> fx.Node:
    value, node = raised.value, raised.value.node
    if not value.steps:
        return node
    if raised.by and work.meta.dtype.is_floating_point and not value.meta.dim():
        node = loop.e.v.add(aten.to.dtype, node, work.meta.dtype)  # a number of no dimension would have widened nothing
    for _ in range(raised.by):
        node = loop.e.v.add(aten.unsqueeze.default, node, 1)
    return node


def _scan(loop: EmittedLoop, positions: list[int]) -> None:
    """Do works step by step."""
    v, body = loop.e.v, loop.body
    v.at(body.works[positions[0]].source)
    carried = [k for k, carry in enumerate(body.carries) if carry.place.position in positions]
    outputs = _outputs(loop, set(positions))
    initials = {k: loop.initials(k) for k in carried}
    module, over, closure = write_step(loop, positions, carried, outputs)
    states = [state for k in carried for state in initials[k]]
    node = v.add(scan_leaf.scan, scan_leaf.add_step(module), states, over, closure, False)
    at = 0
    for k in carried:
        at += len(initials[k])
        if len(initials[k]) == 1:
            loop.finals[body.carries[k].place] = v.add(operator.getitem, node, at - 1)
    for place in outputs:
        loop.known[place] = Known(v.add(operator.getitem, node, at), True, loop.example(place))
        at += 1


def _outputs(loop: EmittedLoop, inside: set[int]) -> list[Place]:
    """What is taken of the steps of a scan, but for what is taken of the last alone."""
    body = loop.body
    states = {carry.place for carry in body.carries if len(carry.initial) == 1}
    ends = {place for place, steps in loop.taken.items() if place in states and loop.is_last(steps)}
    found = [place for place in loop.taken if place.position in inside and place not in ends]
    for k, work in enumerate(body.works):
        for form in work.forms:
            if k not in inside and isinstance(form, Same | Carried) and body.place(form).position in inside:
                position, path = body.place(form)
                # The reads of one of several results come first.
                found.append(Place(position, tuple(part for part in path if part.target is operator.getitem)))
    return list(dict.fromkeys(found))
