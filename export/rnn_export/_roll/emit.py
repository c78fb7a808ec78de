"""The rolled program: an outline of any length as a module with a scan in the place of each loop."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from .._capture import scan_leaf
from .loops import Loop, Unalike, aten
from .outline import Affine, Outline


def emit(program: ExportedProgram, fitted: Outline, where: tuple[str, int]) -> fx.GraphModule:
    """A module for any length.

    Args:
        program: one of the unrolled programs.
        fitted: what holds at any length; its sources are nodes of `program`.
        where: the name of the program's placeholder that has the length, and the dimension.
    """
    return _Emitter(program, fitted, where).run()


class Values:
    """Adds nodes to a graph; what is known of a value's shape is its rank and dtype."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.meta: dict[str, Any] = {}

    def add(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node: fx.Node = self.graph.call_function(target, args, kwargs)
        node.meta.update(self.meta)
        return node

    def affine(self, value: Any, n: fx.Node) -> Any:
        """A number that may follow the length, as a number or a node."""
        if not isinstance(value, Affine):
            return value
        product = n if value.factor == 1 else self.add(operator.mul, n, value.factor)
        return self.add(operator.add, product, value.offset) if value.offset else product


class _Emitter:
    def __init__(self, program: ExportedProgram, fitted: Outline, where: tuple[str, int]) -> None:
        self.program = program
        self.fitted = fitted
        self.nodes = {node.name: node for node in program.graph.nodes}
        self.graph = fx.Graph()
        self.v = Values(self.graph)
        self.root = nn.Module()
        self.inputs: dict[str, fx.Node] = {}
        self._bind()
        self.n = self.v.add(aten.sym_size.int, self.inputs[where[0]], where[1])
        self.made: dict[int, Any] = {}  # item -> node, or the loop as it was emitted
        self.wanted: dict[int, dict[tuple[int, Any], None]] = {}  # loop -> values that are taken from it, in order

    def _bind(self) -> None:
        signature = self.program.graph_signature
        held = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        values = {**self.program.state_dict, **self.program.constants}
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node in placeholders:
            if node.name not in held:
                self.inputs[node.name] = self.graph.placeholder(node.name)
        for node in placeholders:
            if node.name in held:
                self.root.register_buffer(node.name, values[held[node.name]].detach())
                self.inputs[node.name] = self.graph.get_attr(node.name)

    def run(self) -> fx.GraphModule:
        for item in (*self.fitted.items, self.fitted.output):
            self._want(item)
        for number, (item, source) in enumerate(zip(self.fitted.items, self.fitted.sources, strict=True)):
            node = source if isinstance(source, fx.Node) else source.model_step[0]
            self.v.meta = {k: node.meta[k] for k in ("stack_trace", "nn_module_stack") if k in node.meta}
            if item[0] == "call":
                self.made[number] = self._call(*item[1:])
            else:
                assert isinstance(source, Loop)
                self.made[number] = _EmittedLoop(self, number, source, item)
        self.graph.output(tuple(self.value(v) for v in self.fitted.output))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph)

    def _want(self, value: Any) -> None:
        """Note which values of which loops are taken from outside them."""
        if isinstance(value, tuple | list):
            if len(value) == 5 and value[0] == "step":
                self.wanted.setdefault(value[1], {})[(value[2], value[3])] = None
                return
            for item in value:
                self._want(item)
        elif isinstance(value, dict):
            self._want(list(value.values()))

    def _call(self, target: Any, args: Any, kwargs: Any) -> Any:
        if args and isinstance(args[0], tuple) and args[0][0] == "list":
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            return self._join(target, args[0][1], dim)
        return self.v.add(target, *map(self.argument, args), **self.argument(kwargs))

    def argument(self, value: Any) -> Any:
        if isinstance(value, Affine):
            return self.v.affine(value, self.n)
        if isinstance(value, tuple) and value and value[0] in ("input", "item", "step", "read"):
            return self.value(value)
        if isinstance(value, tuple | list):
            return [self.argument(item) for item in value]
        if isinstance(value, dict):
            return {key: self.argument(item) for key, item in value.items()}
        return value

    def value(self, value: Any) -> Any:
        """The node of a value."""
        if not isinstance(value, tuple):
            return value  # a result that is no tensor
        kind = value[0]
        if kind == "input":
            return self.inputs[value[1]]
        if kind == "item":
            return self.made[value[1]]
        if kind == "step":
            return self.made[value[1]].at(value[2], value[3], value[4])
        return self.v.add(value[1], self.value(value[2]), *(self.argument(item) for item in value[3:]))

    def _join(self, target: Any, segments: Any, dim: int) -> fx.Node:
        stacked = target is aten.stack.default
        rank = self.rank(segments[0][1]) + (1 if stacked else 0)
        dim %= rank
        if all(segment[0] == "one" for segment in segments):
            return self.v.add(target, [self.value(s[1]) for s in segments], dim)
        parts = []
        for segment in segments:
            if segment[0] == "one":
                part = self.value(segment[1])
                parts.append(self.v.add(aten.unsqueeze.default, part, dim) if stacked else part)
            else:
                part = self._to(self.run_of(segment), 0, dim)
                parts.append(part if stacked else self.v.add(aten.flatten.using_ints, part, dim, dim + 1))
        return parts[0] if len(parts) == 1 else self.v.add(aten.cat.default, parts, dim)

    def _to(self, node: fx.Node, source: int, dim: int) -> fx.Node:
        return node if source == dim else self.v.add(aten.movedim.int, node, source, dim)

    def rank(self, value: Any) -> int:
        return int(self.meta(value).dim())

    def meta(self, value: Any) -> Any:
        """The value in the unrolled program: its dtype, rank and sizes."""
        kind = value[0]
        if kind == "input":
            return self.nodes[value[1]].meta["val"]
        if kind == "item":
            return self.fitted.sources[value[1]].meta["val"]
        if kind == "step":
            loop = self.fitted.sources[value[1]]
            assert isinstance(loop, Loop)
            result = loop.model_step[value[2]].meta["val"]
            for _, index in value[3]:
                result = result[index]
            return result
        inner = self.meta(value[2])
        if value[1] is operator.getitem:
            return inner[value[3]]
        with inner.fake_mode:
            if value[1] is aten.select.int:
                return inner.select(value[3], 0)
            return inner.narrow(value[3], 0, 1)

    def run_of(self, segment: Any) -> fx.Node:
        """The values of a run, stacked along a new first dimension."""
        _, first, moves, count = segment
        return self._stacked(first, moves, self.argument(count))

    def _stacked(self, value: Any, moves: Any, count: Any) -> fx.Node:
        kind = value[0]
        if not _moves(moves):
            node = self.value(value)
            rank = self.rank(value)
            return self.v.add(aten.expand.default, self.v.add(aten.unsqueeze.default, node, 0), [count, *[-1] * rank])
        if kind == "step" and not _moves(moves[:4]):
            stacked = self.made[value[1]].all(value[2], value[3])
            return self._stretch(stacked, 0, value[4], moves[4], count)
        if kind == "read" and value[1] is aten.select.int and not _moves(moves[:4]):
            source, rank = self.value(value[2]), self.rank(value[2])
            return self._stretch(self._to(source, value[3] % rank, 0), 0, value[4], moves[4], count)
        if kind == "read" and value[1] is aten.slice.Tensor and not _moves(moves[:4]) and moves[4] == moves[5]:
            source, rank, dim = self.value(value[2]), self.rank(value[2]), value[3] % self.rank(value[2])
            width = _width(value[4], value[5])
            if width is None or (len(value) > 6 and value[6] != 1):
                raise Unalike("a step reads a part of the sequence whose size depends on the length")
            if width == 1:
                steps = self._stretch(self._to(source, dim, 0), 0, value[4], moves[4], count)
                return self.v.add(aten.unsqueeze.default, steps, dim + 1)
            windows = self.v.add(aten.unfold.default, source, dim, width, 1)  # (.., windows, .., width)
            windows = self._to(self._to(windows, rank, dim + 1), dim, 0)
            return self._stretch(windows, 0, value[4], moves[4], count)
        if kind == "read" and not _moves(moves[3:]):
            source = self._stacked(value[2], moves[2], count)
            if value[1] is operator.getitem:
                raise Unalike("a step takes one of several results of another in an unknown way")
            return self.v.add(value[1], source, value[3] + 1, *(self.argument(a) for a in value[4:]))
        raise Unalike("a step reads something else at each step")

    def _stretch(self, node: fx.Node, dim: int, start: Any, move: int, count: Any) -> fx.Node:
        """`count` entries along a dimension, from `start` on or from there backward."""
        if move not in (1, -1):
            raise Unalike("a loop goes through the sequence in strides")
        begin = self.argument(start)
        if move == -1:  # the last `count` up to `start`, in reverse
            end = self.v.add(operator.add, begin, 1) if isinstance(begin, fx.Node) else begin + 1
            begin = self._minus(end, count)
        else:
            end = self._plus(begin, count)
        node = self.v.add(aten.slice.Tensor, node, dim, begin, end)
        return self.v.add(aten.flip.default, node, [dim]) if move == -1 else node

    def _plus(self, a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return b if isinstance(a, int) and a == 0 else self.v.add(operator.add, a, b)

    def _minus(self, a: Any, b: Any) -> Any:
        return a - b if isinstance(a, int) and isinstance(b, int) else self.v.add(operator.sub, a, b)

    def filled(self, segments: Any, count: Any) -> fx.Node:
        """The per-step values of a loop, stacked; with zeros where the steps that nothing needs have none."""
        parts = []
        total: Any = 0
        for segment in segments:
            if segment[0] == "one":
                parts.append(self.v.add(aten.unsqueeze.default, self.value(segment[1]), 0))
                total = _sum(total, 1)
            else:
                parts.append(self.run_of(segment))
                total = _sum(total, segment[3])
        short = _difference(count, total)
        if short:
            meta = self.meta(segments[0][1])
            some = parts[0]
            if meta.dtype is torch.bool:
                some = self.v.add(aten.to.dtype, some, torch.uint8)
            pad = self.v.add(
                aten.constant_pad_nd.default,
                some if len(parts) == 1 else self._cat(parts),
                [0] * (2 * meta.dim() + 1) + [short],
            )
            return self.v.add(aten.to.dtype, pad, torch.bool) if meta.dtype is torch.bool else pad
        return parts[0] if len(parts) == 1 else self._cat(parts)

    def _cat(self, parts: Sequence[fx.Node]) -> fx.Node:
        return self.v.add(aten.cat.default, list(parts), 0)


def _sum(a: Any, b: Any) -> Any:
    x, y = _as_affine(a), _as_affine(b)
    factor, offset = x.factor + y.factor, x.offset + y.offset
    return Affine(factor, offset) if factor else offset


def _difference(a: Any, b: Any) -> int:
    """The difference of two numbers, which has to be the same at any length."""
    x, y = _as_affine(a), _as_affine(b)
    if x.factor != y.factor or x.offset < y.offset:
        raise Unalike("what the steps take does not go with the number of steps")
    return x.offset - y.offset


def _as_affine(value: Any) -> Affine:
    return value if isinstance(value, Affine) else Affine(0, value)


def _width(start: Any, end: Any) -> int | None:
    x, y = _as_affine(start), _as_affine(end)
    return y.offset - x.offset if x.factor == y.factor else None


def _moves(moves: Any) -> bool:
    return any(map(_moves, moves)) if isinstance(moves, tuple) else moves != 0


class _EmittedLoop:
    """A loop as a scan in the new graph."""

    def __init__(self, emitter: _Emitter, number: int, loop: Loop, item: Any) -> None:
        self.e = emitter
        self.v = emitter.v
        _, count, self.body, self.carries, self.each = item
        self.loop = loop
        # A loop that may have no step at length 1 makes one more in vain, since a scan has one or more.
        self.extra = -count.offset if isinstance(count, Affine) and count.factor == 1 and count.offset < 0 else 0
        self.count = count
        self.total = _sum(count, self.extra)
        self.outputs = list(emitter.wanted.get(number, {}))
        self._scan()

    def _scan(self) -> None:
        e, step = self.e, _Step(self)
        states: list[fx.Node] = []
        for k, (position, path, initial) in enumerate(self.carries):
            example = self._example(position, path)
            for value in initial:
                states.append(self._initial(e.value(value), e.meta(value), example))
            step.carry(k, len(initial), example)
        xs = [e.filled(segments, self.total) for segments in self.each]
        for k, segments in enumerate(self.each):
            step.each(k, e.meta(segments[0][1]))
        if step.needs_count(self.body) or not xs:
            xs.append(self.v.add(aten.arange.default, e.argument(self.total)))
            step.count()
        module, closure = step.finish(self.body, self.carries, self.outputs)
        number = scan_leaf.add_step(module)
        node = self.v.add(scan_leaf.scan, number, states, xs, closure, False)
        self.finals = {}
        at = 0
        for position, path, initial in self.carries:
            at += len(initial)
            if len(initial) == 1:
                self.finals[(position, path)] = at - 1
        self.states = states
        self.node = node
        self.first_output = at

    def _example(self, position: int, path: Any) -> Any:
        return _read_meta(self.loop.model_step[position].meta["val"], path)

    def _initial(self, node: fx.Node, meta: Any, example: Any) -> fx.Node:
        """An initial state with the shape and dtype that it has from the first step on."""
        if list(map(str, meta.shape)) != list(map(str, example.shape)):
            node = self.v.add(aten.expand.default, node, [self.size(size) for size in example.shape])
        return node if meta.dtype == example.dtype else self.v.add(aten.to.dtype, node, example.dtype)

    def size(self, size: Any) -> Any:
        if isinstance(size, int):
            return size
        for name, node in self.e.inputs.items():
            value = self.e.nodes[name].meta["val"]
            for dim, other in enumerate(value.shape):
                if str(other) == str(size):
                    return self.v.add(aten.sym_size.int, node, dim)
        raise Unalike(f"the state changes its shape in the first step, to a size ({size}) that no input has")

    def _result(self, k: int) -> fx.Node:
        return self.v.add(operator.getitem, self.node, k)

    def all(self, position: int, path: Any) -> fx.Node:
        """A value of all steps, stacked."""
        return self._result(self.first_output + self.outputs.index((position, path)))

    def at(self, position: int, path: Any, step: Any) -> fx.Node:
        """A value of one step."""
        back = _as_affine(self.count)
        at = _as_affine(step)
        last = at.factor == back.factor and at.offset == back.offset - 1
        if last and not self.extra and (position, path) in self.finals:
            return self._result(self.finals[(position, path)])
        stacked = self.all(position, path)
        if at.factor == 0:
            return self.v.add(aten.select.int, stacked, 0, at.offset)
        if (position, path) in self.finals:
            # Before the first step there is the initial value.
            initial = self.v.add(aten.unsqueeze.default, self.states[self.finals[(position, path)]], 0)
            stacked = self.v.add(aten.cat.default, [initial, stacked], 0)
            at = Affine(at.factor, at.offset + 1)
        if last and not self.extra:
            return self.v.add(aten.select.int, stacked, 0, -1)
        return self.v.add(aten.select.int, stacked, 0, self.v.affine(at, self.e.n))


def _read_meta(value: Any, path: Any) -> Any:
    for part in path:
        if part[0] is operator.getitem:
            value = value[part[1]]
        else:
            with value.fake_mode:
                value = part[0](value, *part[1:])
    return value


class _Step:
    """The graph of one step: (states..., per-step values..., closure...) -> (next states..., outputs...)."""

    def __init__(self, owner: _EmittedLoop) -> None:
        self.owner = owner
        self.graph = fx.Graph()
        self.v = Values(self.graph)
        self.carried: dict[int, list[fx.Node]] = {}
        self.eachs: list[fx.Node] = []
        self.step_number: fx.Node | None = None
        self.closure: dict[Any, tuple[fx.Node, fx.Node]] = {}
        self.values: dict[int, fx.Node] = {}
        self.tensors: list[tuple[fx.Node, Any]] = []

    def _placeholder(self, name: str, meta: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        self.tensors.append((node, meta))
        return node

    def carry(self, number: int, lag: int, meta: Any) -> None:
        self.carried[number] = [self._placeholder(f"state_{number}_{k}", meta) for k in range(lag)]

    def each(self, number: int, meta: Any) -> None:
        self.eachs.append(self._placeholder(f"x_{number}", meta))

    def count(self) -> None:
        self.step_number = self.graph.placeholder("step")

    def needs_count(self, value: Any) -> bool:
        if isinstance(value, tuple | list):
            return (len(value) == 3 and value[0] == "count") or any(map(self.needs_count, value))
        return isinstance(value, dict) and self.needs_count(list(value.values()))

    def finish(self, body: Any, carries: Any, outputs: Any) -> tuple[fx.GraphModule, list[fx.Node]]:
        self._closure(body)
        for position, (target, args, kwargs) in enumerate(body):
            call = _with_tensor(target) if self.needs_count((args, kwargs)) else target
            self.values[position] = self.v.add(call, *map(self._argument, args), **self._argument(kwargs))
        results = []
        for k, (position, path, initial) in enumerate(carries):
            # A lag of more than one is a row of states, each of which moves up by one.
            results += [*self.carried[k][1:], self._same(position, path)]
            del initial
        results += [self._same(position, path) for position, path in outputs]
        self.graph.output(tuple(results))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(nn.Module(), self.graph), [outer for outer, _ in self.closure.values()]

    def _closure(self, value: Any) -> None:
        """Make a placeholder of every tensor from outside that is the same in each step."""
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, tuple) and len(value) == 2 and value[0] == "always":
            self._outer(value[1])
        elif isinstance(value, tuple | list):
            for item in value:
                self._closure(item)

    def _outer(self, value: Any) -> None:
        e = self.owner.e
        meta = e.meta(value)
        key = repr(value)
        if isinstance(meta, Tensor):
            if key not in self.closure:
                self.closure[key] = (e.value(value), self._placeholder(f"outer_{len(self.closure)}", meta))
            return
        # A size: taken from a tensor that has it, inside the step.
        if any(str(s) == str(meta) for _, t in self.tensors for s in t.shape):
            return
        for name in e.inputs:
            if isinstance(e.nodes[name].meta["val"], Tensor) and any(
                str(s) == str(meta) for s in e.nodes[name].meta["val"].shape
            ):
                self._outer(("input", name))
                return
        raise Unalike(f"a step uses the size {meta}, which no tensor in it has")

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Affine):
            raise Unalike("a step uses the number of steps as a plain number")
        if isinstance(value, tuple) and value and isinstance(value[0], str):
            kind = value[0]
            if kind == "same":
                return self._same(value[1], value[2])
            if kind == "carried":
                return self.carried[value[1]][0]
            if kind == "each":
                return self.eachs[value[1]]
            if kind == "always":
                return self._always(value[1])
            if kind == "count":
                return self._count(value[1], value[2])
        if isinstance(value, tuple | list):
            return [self._argument(item) for item in value]
        if isinstance(value, dict):
            return {key: self._argument(item) for key, item in value.items()}
        return value

    def _same(self, position: int, path: Any) -> fx.Node:
        node = self.values[position]
        for part in path:
            node = self.v.add(part[0], node, *part[1:])
        return node

    def _always(self, value: Any) -> fx.Node:
        key = repr(value)
        if key in self.closure:
            return self.closure[key][1]
        meta = self.owner.e.meta(value)
        for node, tensor in self.tensors:
            for dim, size in enumerate(tensor.shape):
                if str(size) == str(meta):
                    return self.v.add(aten.sym_size.int, node, dim)
        raise Unalike(f"a step uses the size {meta}, which no tensor in it has")

    def _count(self, factor: Any, start: Any) -> fx.Node:
        assert self.step_number is not None
        if isinstance(factor, Affine) or isinstance(start, Affine):
            raise Unalike("a step counts from the end of the sequence")
        node = self.step_number
        if isinstance(factor, float) or isinstance(start, float):
            node = self.v.add(aten.to.dtype, node, torch.float64)  # of no dimension, so it widens nothing
        node = node if factor == 1 else self.v.add(aten.mul.Tensor, node, factor)
        return self.v.add(aten.add.Tensor, node, start) if start else node


def _with_tensor(target: Any) -> Any:
    """The form of an operator that takes a tensor where this one takes a plain number."""
    packet = target.overloadpacket
    name = {"Scalar": "Tensor", "Tensor": "Tensor", "Tensor_Scalar": "Tensor_Tensor"}.get(target._overloadname)
    if name is None or name not in packet.overloads():
        raise Unalike(f"a step uses its number in {packet}")
    return getattr(packet, name)
