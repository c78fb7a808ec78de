"""A loop in the new graph: layers where its steps are a layer's, operators over all steps at once, and scans.

The positions of a step fall into groups: those that need each other's values from step to step, and single ones. In the
order of their needs, a group that is one of PyTorch's cells becomes the layer; a single one that is known to work over
all steps at once does; everything else becomes a part of a scan.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from .._capture import leaves, scan_leaf
from .batched import Known, Raised, arguments_over_steps, operator_over_steps
from .body import CELLS, Body, Path, Work, at_path, counts, mapped, taken_apart, with_tensor
from .lengths import computed
from .loops import Loop, Unalike, aten
from .outline import Affine, Quotient

if TYPE_CHECKING:
    from .emit import Emitter

Place = tuple[int, Path]

FILLS = {aten.full.default}
"""Operators whose number, where it is a step's own, is written as a tensor that is expanded."""

_LEAVES = {"LSTM": leaves.lstm, "GRU": leaves.gru, "tanh": leaves.rnn_tanh, "relu": leaves.rnn_relu}


class Values:
    """Adds nodes to a graph; what is known of a value's shape is its rank and dtype."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.meta: dict[str, Any] = {}

    def add(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node: fx.Node = self.graph.call_function(target, args, kwargs)
        node.meta.update(self.meta)
        return node

    def number(self, value: Any, length: Callable[[int], fx.Node]) -> Any:
        """A number that may follow the lengths, as a number or a node; a quotient as a tensor of no dimension."""
        if isinstance(value, Quotient):
            below = length(value.unit)
            below = self.add(operator.add, below, value.offset) if value.offset else below
            below = self.add(aten.scalar_tensor.default, below, dtype=torch.float64)
            return self.add(aten.mul.Tensor, self.add(aten.reciprocal.default, below), value.top)
        if not isinstance(value, Affine):
            return value
        total: Any = None
        for unit, factor in value.factors:
            product = length(unit) if factor == 1 else self.add(operator.mul, length(unit), factor)
            total = product if total is None else self.add(operator.add, total, product)
        total = self.add(operator.add, total, value.offset) if value.offset else total
        return total if value.divisor == 1 else self.add(operator.floordiv, total, value.divisor)


class EmittedLoop:
    """A loop in the new graph, and its values."""

    def __init__(self, emitter: Emitter, number: int, loop: Loop, item: Any) -> None:
        self.e = emitter
        self.v = emitter.v
        _, count, works, carries, each = item
        self.each_segments = each
        self.count = count
        # A loop that may have no step makes one more in vain, since a scan has one or more.
        self.extra = _missing(count, [length.least for length in emitter.lengths])
        self.total = plus(count, self.extra)
        self.each: dict[int, Known] = {}
        self.known: dict[Place, Known] = {}
        self.finals: dict[Place, fx.Node] = {}
        self.initial: dict[int, list[fx.Node]] = {}
        body = Body(
            [
                Work(target, args, kwargs, node.meta["val"], node)
                for (target, args, kwargs), node in zip(works, loop.model_step, strict=True)
            ],
            list(carries),
        )
        wanted = list(emitter.wanted.get(number, {}))
        self.wanted: dict[Place, Place] = {}  # a value by its place in the unrolled step -> in the body
        whole = {group[0] for group in body.cycles() if self._is_layer(body, group, wanted)}
        self.body, places = taken_apart(body, whole, wanted)
        self.wanted.update(zip(wanted, places, strict=True))
        self._emit(whole)

    # The order of things

    def _emit(self, whole: set[int]) -> None:
        body = self.body
        levels: dict[int, tuple[int, bool]] = {}  # position -> (how many scans come before, whether it is in a scan)
        scans: dict[int, list[int]] = {}
        for group in body.cycles():
            needs = {levels[p] for member in group for p in body.needs(member) if p not in group}
            level = max((at for at, _ in needs), default=0)
            if self._done_at_once(group, level, levels):
                levels.update(dict.fromkeys(group, (level, False)))
                continue
            below = max((at for at, scan in needs if not scan), default=0)
            level = max(level, below + 1)
            levels.update(dict.fromkeys(group, (level, True)))
            scans.setdefault(level, []).extend(group)
        # What is done at once may need a scan, and a scan what is done at once: level by level.
        highest = max((at for at, _ in levels.values()), default=0)
        for level in range(highest + 1):
            if level in scans:
                self._scan(sorted(scans[level]))
            for group in body.cycles():
                if levels[group[0]] == (level, False):
                    self._at_once(group)

    def _done_at_once(self, group: list[int], level: int, levels: dict[int, tuple[int, bool]]) -> bool:
        if self.body.is_cycle(group):
            return self.body.works[group[0]].target in CELLS
        (position,) = group
        work = self.body.works[position]
        # What it takes is known by then; only its rank, and whether it goes over the steps, counts here.
        try:
            args = mapped(work.args, self._promise)
        except _Unknown:
            return False
        if _has_steps(mapped(work.kwargs, self._promise)):
            return False
        return not _has_steps(args) or arguments_over_steps(self._target(work), args, work.meta) is not None

    def _target(self, work: Work) -> Any:
        return with_tensor(work.target) if counts(work.args) and work.target not in FILLS else work.target

    def _promise(self, form: Any) -> Any:
        """A value as it will be known, before it is there."""
        kind = form[0]
        nowhere: Any = None
        if kind == "always":
            meta = self.e.meta(form[1])
            return Known(nowhere, False, meta) if isinstance(meta, Tensor) else 0
        if kind == "each":
            return Known(nowhere, True, self.e.meta(first_of(self.each_segments[form[1]][0])))
        if kind == "same":
            work = self.body.works[form[1]]
            steps = not self._is_constant(form[1])
            return Known(nowhere, steps, at_path(work.meta, form[2]))
        if kind == "carried":
            position, path, initial = self.body.carries[form[1]]
            if len(initial) != 1:
                raise _Unknown
            return Known(nowhere, True, at_path(self.body.works[position].meta, path))
        if kind == "count":
            return Known(nowhere, True, self._number())
        raise _Unknown

    def _number(self) -> Any:
        """The number of a step, as a fake value."""
        example: Any = next(work.meta for work in self.body.works if isinstance(work.meta, Tensor))
        with example.fake_mode:
            return torch.zeros((), dtype=torch.int64)

    def _is_constant(self, position: int) -> bool:
        """Whether a position gives the same at each step."""
        work = self.body.works[position]
        forms: list[Any] = []
        mapped((work.args, work.kwargs), lambda form: forms.append(form) or form)  # type: ignore[func-returns-value]
        return all(form[0] == "always" or (form[0] == "same" and self._is_constant(form[1])) for form in forms)

    # Values

    def example(self, position: int, path: Path) -> Any:
        return at_path(self.body.works[position].meta, path)

    def value(self, form: Any) -> Any:
        """The value of a form outside of the scans, as Known; sizes as their node."""
        kind = form[0]
        if kind == "always":
            meta = self.e.meta(form[1])
            node = self.e.value(form[1])
            return Known(node, False, meta) if isinstance(meta, Tensor) else node
        if kind == "each":
            return self.one_of_each(form[1])
        if kind == "same":
            return self.read(form[1], form[2])
        if kind == "carried":
            return self.before(form[1])
        count = self.v.add(aten.arange.default, self.e.argument(self.total))
        return Known(counted(self.v, count, *form[1:], length=self.e.length), True, self._number())

    def one_of_each(self, number: int) -> Known:
        if number not in self.each:
            segments = self.each_segments[number]
            self.each[number] = Known(self.e.filled(segments, self.total), True, self.e.meta(first_of(segments[0])))
        return self.each[number]

    def read(self, position: int, path: Path) -> Known:
        """A value of all steps, or that is the same in each."""
        for k in range(len(path), -1, -1):
            found = self.known.get((position, path[:k]))
            if found is not None:
                for part in path[k:]:
                    found = self._part(found, part)
                self.known[(position, path)] = found
                return found
        raise AssertionError("values are there before they are taken")

    def _part(self, value: Known, part: Any) -> Known:
        target, first, *rest = part
        meta = at_path(value.meta, (part,))
        if value.steps and target is not operator.getitem:
            first = first + 1 if first >= 0 else first
        return Known(self.v.add(target, value.node, first, *rest), value.steps, meta)

    def before(self, carry: int) -> Known:
        """The values of the step before, for all steps."""
        position, path, _ = self.body.carries[carry]
        value = self.stacked(self.read(position, path))
        initial = self.v.add(aten.unsqueeze.default, self.initials(carry)[0], 0)
        earlier = self.v.add(aten.slice.Tensor, value.node, 0, 0, -1)
        return Known(self.v.add(aten.cat.default, [initial, earlier], 0), True, value.meta)

    def stacked(self, value: Known) -> Known:
        """A value that goes over the steps, whether it differs from step to step or not."""
        if value.steps:
            return value
        node = self.v.add(aten.unsqueeze.default, value.node, 0)
        total = self.e.argument(self.total)
        return Known(self.v.add(aten.expand.default, node, [total, *[-1] * value.meta.dim()]), True, value.meta)

    def initials(self, carry: int) -> list[fx.Node]:
        """The initial values of a carry, with the shape and dtype that they have from the first step on."""
        if carry not in self.initial:
            position, path, initial = self.body.carries[carry]
            example = self.example(position, path)
            self.initial[carry] = [self._initial(self.e.value(v), self.e.meta(v), example) for v in initial]
        return self.initial[carry]

    def _initial(self, node: fx.Node, meta: Any, example: Any) -> fx.Node:
        if list(map(str, meta.shape)) != list(map(str, example.shape)):
            node = self.v.add(aten.expand.default, node, [self.size(size) for size in example.shape])
        if meta.dtype != example.dtype:
            node = self.v.add(aten.to.dtype, node, example.dtype)
        node.meta["val"] = example
        return node

    def size(self, size: Any) -> Any:
        if isinstance(size, int):
            return size
        for name, node in self.e.inputs.items():
            value = self.e.nodes[name].meta["val"]
            for dim, other in enumerate(value.shape):
                if str(other) == str(size):
                    return self.v.add(aten.sym_size.int, node, dim)
        raise Unalike(f"the state changes its shape in the first step, to a size ({size}) that no input has")

    # All steps at once

    def _at_once(self, group: list[int]) -> None:
        work = self.body.works[group[0]]
        self._name(work)
        if self.body.is_cycle(group):
            self._layer(group[0], work)
            return
        args, kwargs = mapped(work.args, self.value), mapped(work.kwargs, self.value)
        steps = _has_steps(args)
        target = self._target(work)
        if steps:
            over = arguments_over_steps(target, args, work.meta)
            assert over is not None
            target, args = operator_over_steps(target), [self._raised(a, work.meta) for a in over]
        node = self.v.add(target, *_nodes(args, self.e.argument), **_nodes(kwargs, self.e.argument))
        self.known[(group[0], ())] = Known(node, steps, work.meta)

    def _raised(self, value: Any, result: Any) -> Any:
        if not isinstance(value, Raised):
            return value
        node = value.value.node
        if value.by and value.value.steps and result.dtype.is_floating_point and not value.value.meta.dim():
            node = self.v.add(aten.to.dtype, node, result.dtype)  # a number of no dimension would have widened nothing
        for _ in range(value.by if value.value.steps else 0):
            node = self.v.add(aten.unsqueeze.default, node, 1)
        return Known(node, value.value.steps, value.value.meta)

    def _name(self, work: Work) -> None:
        self.v.meta = {k: work.source.meta[k] for k in ("stack_trace", "nn_module_stack") if k in work.source.meta}

    def _is_layer(self, body: Body, group: list[int], wanted: list[Place]) -> bool:
        """Whether a group is a cell that takes its own last state, so that the layer can run in its place."""
        work = body.works[group[0]]
        if len(group) > 1 or work.target not in CELLS or not body.is_cycle(group):
            return False
        x, hx, *weights = work.args
        lstm = CELLS[work.target] == "LSTM"
        states = hx if lstm else [hx]
        paths = [((operator.getitem, 0),), ((operator.getitem, 1),)] if lstm else [()]
        for state, path in zip(states, paths, strict=True):
            if state[0] != "carried" or body.carries[state[1]][:2] != (group[0], path):
                return False
            if len(body.carries[state[1]][2]) != 1:
                return False
        if any(w is not None and w[0] != "always" for w in weights) or any(w is None for w in weights[:2]):
            return False
        if any(kind == "carried" for kind, _ in body.takes(Work(None, [x], {}, None, work.source))):
            return False
        first = work.meta[0] if lstm else work.meta
        if first.dim() != 2:
            return False
        # A layer gives the cell states of no step but the last.
        cells = (group[0], paths[-1]) if lstm else None
        inside = any(
            form[0] == "same" and (form[1], tuple(form[2][:1])) == cells
            for other in body.works
            for form in _forms((other.args, other.kwargs))
        )
        by_others = any(
            kind == "carried" and body.carries[n][:2] == cells
            for k, other in enumerate(body.works)
            if k != group[0]
            for kind, n in body.takes(other)
        )
        outside = cells in wanted and (self.extra > 0 or not self._last_alone(cells))
        return not (lstm and (inside or by_others or outside))

    def _last_alone(self, place: Place) -> bool:
        """Whether of a value nothing is taken but the last step's."""
        last = minus_one(self.count)
        names = [name for name, own in self.wanted.items() if own == place] or [place]
        return all(step == last for name in names for step in self.e.taken[(self.e.current, *name)])

    def _layer(self, position: int, work: Work) -> None:
        x, hx, w, r, *biases = work.args
        kind = CELLS[work.target]
        given = self.value(x)
        xs = self.stacked(given).node
        carries = [state[1] for state in hx] if kind == "LSTM" else [hx[1]]
        states = [self.v.add(aten.unsqueeze.default, self.initials(carry)[0], 0) for carry in carries]
        weights = [self.value(weight).node for weight in (w, r, *(b for b in biases if b is not None))]
        node = self.v.add(_LEAVES[kind], xs, *states, None, weights, len(weights) == 4, 1, False)
        y, *finals = (self.v.add(operator.getitem, node, k) for k in range(1 + len(states)))
        first = work.meta[0] if kind == "LSTM" else work.meta
        paths: list[Path] = [((operator.getitem, k),) for k in range(2)] if kind == "LSTM" else [()]
        self.known[(position, paths[0])] = Known(y, True, first)
        for path, final in zip(paths, finals, strict=True):
            self.finals[(position, path)] = self.v.add(aten.squeeze.dim, final, 0)

    # Scans

    def _scan(self, positions: list[int]) -> None:
        self._name(self.body.works[positions[0]])
        inside = set(positions)
        carried = [k for k, (position, _, _) in enumerate(self.body.carries) if position in inside]
        ends = {(p, path) for p, path, initial in self.body.carries if len(initial) == 1}
        outputs: dict[Place, None] = {}
        for place in self.wanted.values():
            if place[0] in inside and not (place in ends and not self.extra and self._last_alone(place)):
                outputs[place] = None
        for k, work in enumerate(self.body.works):
            if k not in inside:
                for form in _forms((work.args, work.kwargs)):
                    if form[0] == "same" and form[1] in inside:
                        outputs[(form[1], _plain(form[2]))] = None
                    elif form[0] == "carried" and self.body.carries[form[1]][0] in inside:
                        outputs[(self.body.carries[form[1]][0], _plain(self.body.carries[form[1]][1]))] = None
        step = Step(self, positions)
        states: list[fx.Node] = []
        for k in carried:
            states += self.initials(k)
            step.carry(k, len(self.initials(k)), self.example(*self.body.carries[k][:2]))
        module, xs, closure = step.finish(carried, list(outputs))
        number = scan_leaf.add_step(module)
        node = self.v.add(scan_leaf.scan, number, states, xs, closure, False)
        at = 0
        for k in carried:
            at += len(self.initials(k))
            if len(self.initials(k)) == 1:
                place = self.body.carries[k][:2]
                self.finals[(place[0], place[1])] = self.v.add(operator.getitem, node, at - 1)
        for position, path in outputs:
            meta = self.example(position, path)
            self.known[(position, path)] = Known(self.v.add(operator.getitem, node, at), True, meta)
            at += 1

    # What the rest of the program takes

    def all(self, position: int, path: Path) -> fx.Node:
        """A value of all steps, stacked."""
        return self.stacked(self.read(*self.wanted[(position, path)])).node

    def at(self, position: int, path: Path, step: Any) -> fx.Node:
        """A value of one step."""
        place = self.wanted[(position, path)]
        last = step == minus_one(self.count)
        if last and not self.extra and place in self.finals:
            return self.finals[place]
        stacked = self.all(position, path)
        if not isinstance(step, Affine):
            return self.v.add(aten.select.int, stacked, 0, step)
        carries = [k for k, (p, q, initial) in enumerate(self.body.carries) if (p, q) == place and len(initial) == 1]
        if carries and not (last and not self.extra):
            # Before the first step there is the initial value.
            initial = self.v.add(aten.unsqueeze.default, self.initials(carries[0])[0], 0)
            stacked = self.v.add(aten.cat.default, [initial, stacked], 0)
            step = plus(step, 1)
        if last and not self.extra:
            return self.v.add(aten.select.int, stacked, 0, -1)
        return self.v.add(aten.select.int, stacked, 0, self.e.argument(step))


class _Unknown(Exception):
    """A value that is not known outside of a scan."""


def _plain(path: Path) -> Path:
    """The reads of one of several results, which come first."""
    return tuple(part for part in path if part[0] is operator.getitem)


def _forms(value: Any) -> list[Any]:
    found: list[Any] = []
    mapped(value, lambda form: found.append(form) or form)  # type: ignore[func-returns-value]
    return found


def _has_steps(value: Any) -> bool:
    if isinstance(value, Known):
        return value.steps
    if isinstance(value, dict):
        return _has_steps(list(value.values()))
    return isinstance(value, tuple | list) and any(map(_has_steps, value))


def _nodes(value: Any, number: Callable[[Any], Any]) -> Any:
    if isinstance(value, Known):
        return value.node
    if isinstance(value, dict):
        return {key: _nodes(item, number) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_nodes(item, number) for item in value]
    return number(value) if isinstance(value, Affine | Quotient) else value


def plus(a: Any, b: Any) -> Any:
    """The sum of two numbers that may follow the length."""
    x, y = as_affine(a), as_affine(b)
    if (x.divisor != 1 and y.factors) or (y.divisor != 1 and x.factors):
        raise Unalike("it goes in strides in several ways")
    divisor = max(x.divisor, y.divisor)
    units = dict.fromkeys(unit for unit, _ in (*x.factors, *y.factors))
    sums = [(unit, dict(x.factors).get(unit, 0) + dict(y.factors).get(unit, 0)) for unit in sorted(units)]
    factors = tuple((unit, factor) for unit, factor in sums if factor)
    offset = x.offset * (divisor // x.divisor) + y.offset * (divisor // y.divisor)
    return Affine(factors, offset, divisor) if factors else offset


def times(a: Any, factor: int) -> Any:
    """A number that may follow the lengths, several times."""
    if not isinstance(a, Affine):
        return a * factor
    if a.divisor != 1:
        raise Unalike("it goes in strides in several ways")
    return Affine(tuple((unit, own * factor) for unit, own in a.factors), a.offset * factor)


def first_of(segment: Any) -> Any:
    """The first value of a segment of an outline."""
    return segment[1][0][1] if segment[0] == "turns" else segment[1]


def minus_one(a: Any) -> Any:
    """The number before."""
    return plus(a, -1)


def as_affine(value: Any) -> Affine:
    """A number as one that may follow the length."""
    return value if isinstance(value, Affine) else Affine((), value)


def _missing(count: Any, least: Sequence[int]) -> int:
    """How many steps a loop lacks to have one or more at the least lengths."""
    return max(0, 1 - (count.at(least) if isinstance(count, Affine) else count))


class Step:
    """The graph of one step: (states..., per-step values..., closure...) -> (next states..., outputs...)."""

    def __init__(self, owner: EmittedLoop, positions: list[int]) -> None:
        self.owner = owner
        self.positions = positions
        self.graph = fx.Graph()
        self.v = Values(self.graph)
        self.carried: dict[int, list[fx.Node]] = {}
        self.outer: dict[str, tuple[fx.Node, Known]] = {}
        self.values: dict[int, fx.Node] = {}
        self.tensors: list[tuple[fx.Node, Any]] = []
        self.lengths: dict[int, fx.Node] = {}

    def carry(self, number: int, lag: int, meta: Any) -> None:
        """Take a state; of a lag above one, those of all steps between."""
        self.carried[number] = [self._placeholder(f"state_{number}_{k}", meta) for k in range(lag)]

    def _placeholder(self, name: str, meta: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        self.tensors.append((node, meta))
        return node

    def finish(self, carried: list[int], outputs: list[Place]) -> tuple[fx.GraphModule, list[fx.Node], list[fx.Node]]:
        """The step's graph, and what goes in: per-step values, closure."""
        owner, body = self.owner, self.owner.body
        works = [body.works[p] for p in self.positions]
        forms = [form for work in works for form in _forms((work.args, work.kwargs))]
        known = {str(form): owner.value(form) for form in forms if self._is_outer(form)}
        known = {key: value for key, value in known.items() if isinstance(value, Known)}
        xs = {key: value for key, value in known.items() if value.steps}
        for key, value in xs.items():
            self.outer[key] = (self._placeholder(f"x_{len(self.outer)}", value.meta), value)
        over = [value.node for value in xs.values()]
        number = None
        if any(form[0] == "count" for form in forms) or not over:
            over.append(owner.v.add(aten.arange.default, owner.e.argument(owner.total)))
            number = self.graph.placeholder("step")
        self.number = number
        closure = [value for key, value in known.items() if not value.steps]
        for key, value in known.items():
            if not value.steps:
                self.outer[key] = (self._placeholder(f"outer_{len(self.outer)}", value.meta), value)
        for form in forms:
            if form[0] == "always" and str(form) not in self.outer:
                for symbol in owner.e.meta(form[1]).node.expr.free_symbols:
                    closure += self._size_source(symbol)
        for unit in sorted({unit for work in works for unit in _units((work.args, work.kwargs))}):
            # A tensor as long as the length is tells it.
            closure.append(Known(owner.v.add(aten.arange.default, owner.e.length(unit)), False, None))
            self.lengths[unit] = self.graph.placeholder(f"length_{unit}")
        for position, work in zip(self.positions, works, strict=True):
            self.v.meta = {k: work.source.meta[k] for k in ("stack_trace",) if k in work.source.meta}
            args, kwargs = self._made(work.args), self._made(work.kwargs)
            if work.target in FILLS and counts(work.args):
                value = self.v.add(aten.to.dtype, args[1], work.meta.dtype)
                self.values[position] = self.v.add(aten.expand.default, value, args[0])
                continue
            call = with_tensor(work.target) if counts((work.args, work.kwargs)) else work.target
            self.values[position] = self.v.add(call, *args, **kwargs)
        results = []
        for k in carried:
            # A lag of more than one is a row of states, each of which moves up by one.
            results += [*self.carried[k][1:], self._same(*body.carries[k][:2])]
        results += [self._same(position, path) for position, path in outputs]
        self.graph.output(tuple(results))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(nn.Module(), self.graph), over, [value.node for value in closure]

    def _is_outer(self, form: Any) -> bool:
        if form[0] == "same":
            return form[1] not in self.positions
        if form[0] == "carried":
            return form[1] not in self.carried
        return form[0] in ("always", "each")

    def _size_source(self, size: Any) -> list[Known]:
        """A tensor to take into the step, where no other in it has a size that it uses."""
        if any(str(s) == str(size) for _, t in self.tensors for s in t.shape):
            return []
        e = self.owner.e
        for name, node in e.inputs.items():
            value = e.nodes[name].meta["val"]
            if isinstance(value, Tensor) and any(str(s) == str(size) for s in value.shape):
                self._placeholder(f"sized_{len(self.tensors)}", value)
                return [Known(node, False, value)]
        raise Unalike(f"a step uses the size {size}, which no input has")

    def _made(self, value: Any) -> Any:
        return _nodes(mapped(value, self._value), self._number)

    def _number(self, value: Any) -> Any:
        return self.v.number(value, self._length)

    def _length(self, unit: int) -> fx.Node:
        return self.v.add(aten.sym_size.int, self.lengths[unit], 0)

    def _value(self, form: Any) -> Any:
        if str(form) in self.outer:
            return self.outer[str(form)][0]
        kind = form[0]
        if kind == "same":
            return self._same(form[1], form[2])
        if kind == "carried":
            return self.carried[form[1]][0]
        if kind == "count":
            assert self.number is not None
            return counted(self.v, self.number, *form[1:], length=self._length)
        expression = self.owner.e.meta(form[1]).node.expr
        sizes = {symbol.name: self._size(symbol) for symbol in expression.free_symbols}
        return computed(expression, sizes, self.v.add)

    def _size(self, symbol: Any) -> fx.Node:
        for node, tensor in self.tensors:
            for dim, other in enumerate(tensor.shape):
                if str(other) == str(symbol):
                    return self.v.add(aten.sym_size.int, node, dim)
        raise Unalike(f"a step uses the size {symbol}, which no tensor in it has")

    def _same(self, position: int, path: Path) -> fx.Node:
        node = self.values[position]
        for part in path:
            node = self.v.add(part[0], node, *part[1:])
        return node


def counted(
    v: Values, number: fx.Node, factor: Any, start: Any, inverse: bool, *, length: Callable[[int], fx.Node]
) -> fx.Node:
    """The number factor * number + start, or one over it."""
    if any(isinstance(part, float | Quotient) for part in (factor, start)):
        number = v.add(aten.to.dtype, number, torch.float64)
    number = number if factor == 1 else v.add(aten.mul.Tensor, number, v.number(factor, length))
    number = v.add(aten.add.Tensor, number, v.number(start, length)) if start else number
    return v.add(aten.reciprocal.default, number) if inverse else number


def _units(value: Any) -> set[int]:
    """The lengths that numbers among a step's arguments follow."""
    if isinstance(value, Affine):
        return {unit for unit, _ in value.factors}
    if isinstance(value, Quotient):
        return {value.unit}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return {unit for part in parts for unit in _units(part)}
