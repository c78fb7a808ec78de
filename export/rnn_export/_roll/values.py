"""A loop in the new graph, and its values outside of the scans."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from . import numbers
from .batched import Known
from .body import Body
from .emitter import Emitter, at_path
from .ir import Carried, Count, Each, Form, Number, Part, Place, Repeat, Same, Unalike, first_of
from .rewrite import aten
from .rows import filled


@dataclass
class EmittedLoop:
    """A loop in the new graph.

    Attributes:
        e: has the graph.
        item: the loop in the program.
        extra: steps made in vain.
        body: what a step does, cells that are not whole layers taken apart.
        taken: of each value that the rest of the program takes the steps.
        places: where the values are that it takes, by their place in the unrolled step.
        known: values of all steps, or that are the same in each.
        finals: values of the last step.
    """

    e: Emitter
    item: Repeat
    extra: int
    body: Body
    taken: dict[Place, list[object]]
    places: dict[Place, Place] = field(default_factory=dict)
    known: dict[Place, Known] = field(default_factory=dict)
    finals: dict[Place, fx.Node] = field(default_factory=dict)
    _each: dict[int, Known] = field(default_factory=dict)
    _initial: dict[int, list[fx.Node]] = field(default_factory=dict)

    @property
    def total(self) -> Number:
        """The number of steps with those made in vain."""
        return self.item.count + self.extra

    def is_last(self, steps: Sequence[object]) -> bool:
        """Whether these steps are the last one alone."""
        return not self.extra and all(step == self.item.count - 1 for step in steps)

    def example(self, place: Place) -> Any:
        """A value at one step, as a fake tensor."""
        return at_path(self.body.works[place[0]].meta, place[1])

    def step_example(self) -> Tensor:
        """The number of a step, as a fake tensor."""
        example: Any = next(work.meta for work in self.body.works if isinstance(work.meta, Tensor))
        with example.fake_mode:
            return torch.zeros((), dtype=torch.int64)

    def value(self, form: Form) -> Known | fx.Node:
        """The value of a form; sizes as their node."""
        match form:
            case Same(place):
                return self.read(place)
            case Carried(carry):
                return self.before(carry)
            case Each(number):
                return self.one_of_each(number)
            case Count():
                step = self.e.v.add(aten.arange.default, self.e.number(self.total))
                return Known(numbers.counted(form, step, self.e.v.add, self.e.length), True, self.step_example())
            case _:
                node, meta = self.e.value(form), self.e.meta(form)
                return Known(node, False, meta) if isinstance(meta, Tensor) else node

    def one_of_each(self, number: int) -> Known:
        """What each step takes of its own."""
        if number not in self._each:
            row = self.item.each[number]
            self._each[number] = Known(filled(self.e, row, self.total), True, self.e.meta(first_of(row)))
        return self._each[number]

    def read(self, place: Place) -> Known:
        """A value of all steps, or that is the same in each."""
        position, path = place
        for k in range(len(path), -1, -1):
            found = self.known.get(Place(position, path[:k]))
            if found is not None:
                for part in path[k:]:
                    found = self._part(found, part)
                self.known[place] = found
                return found
        raise AssertionError("values are there before they are taken")

    def _part(self, value: Known, part: Part) -> Known:
        first, *rest = part.args
        if value.steps and part.target is not operator.getitem:
            first = first + 1 if first >= 0 else first
        meta = at_path(value.meta, (part,))
        return Known(self.e.v.add(part.target, value.node, first, *rest), value.steps, meta)

    def before(self, carry: int) -> Known:
        """The values of the step before, for all steps."""
        value = self.stacked(self.read(self.body.carries[carry].place))
        initial = self.e.v.add(aten.unsqueeze.default, self.initials(carry)[0], 0)
        earlier = self.e.v.add(aten.slice.Tensor, value.node, 0, 0, -1)
        return Known(self.e.v.add(aten.cat.default, [initial, earlier], 0), True, value.meta)

    def stacked(self, value: Known) -> Known:
        """A value that goes over the steps, whether it differs from step to step or not."""
        if value.steps:
            return value
        node = self.e.v.add(aten.unsqueeze.default, value.node, 0)
        sizes = [self.e.number(self.total), *[-1] * value.meta.dim()]
        return Known(self.e.v.add(aten.expand.default, node, sizes), True, value.meta)

    def initials(self, carry: int) -> list[fx.Node]:
        """The initial values of a carry, with the shape and dtype that they have from the first step on."""
        if carry not in self._initial:
            example = self.example(self.body.carries[carry].place)
            self._initial[carry] = [
                self._as(self.e.value(value), self.e.meta(value), example) for value in self.body.carries[carry].initial
            ]
        return self._initial[carry]

    def _as(self, node: fx.Node, meta: Tensor, example: Tensor) -> fx.Node:
        if list(map(str, meta.shape)) != list(map(str, example.shape)):
            node = self.e.v.add(aten.expand.default, node, [self._size(size) for size in example.shape])
        if meta.dtype != example.dtype:
            node = self.e.v.add(aten.to.dtype, node, example.dtype)
        node.meta["val"] = example
        return node

    def _size(self, size: int | torch.SymInt) -> fx.Node | int:
        if isinstance(size, int):
            return size
        if (found := self.e.sized(size)) is None:
            raise Unalike(f"the state changes its shape in the first step, to a size ({size}) that no input has")
        return self.e.v.add(aten.sym_size.int, self.e.inputs[found[0]], found[1])

    def all(self, place: Place) -> fx.Node:
        """A value that the rest of the program takes, of all steps, stacked."""
        return self.stacked(self.read(self.places[place])).node

    def at(self, place: Place, step: Number) -> fx.Node:
        """A value that the rest of the program takes, of one step."""
        own, last = self.places[place], self.is_last([step])
        if last and own in self.finals:
            return self.finals[own]
        stacked = self.all(place)
        if not isinstance(step, sympy.Expr):
            return self.e.v.add(aten.select.int, stacked, 0, step)
        if last:
            return self.e.v.add(aten.select.int, stacked, 0, -1)
        for k, carry in enumerate(self.body.carries):
            if carry.place == own and len(carry.initial) == 1:
                # Before the first step there is the initial value.
                initial = self.e.v.add(aten.unsqueeze.default, self.initials(k)[0], 0)
                stacked = self.e.v.add(aten.cat.default, [initial, stacked], 0)
                return self.e.v.add(aten.select.int, stacked, 0, self.e.number(step + 1))
        return self.e.v.add(aten.select.int, stacked, 0, self.e.number(step))
