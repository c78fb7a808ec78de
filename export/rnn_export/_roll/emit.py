"""The rolled program: an outline of any length as a module with a scan in the place of each loop."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from .body import counts, with_tensor
from .lengths import Length, computed
from .loops import Loop, Unalike, aten
from .outline import Affine, Outline, Quotient
from .scans import EmittedLoop, Values, as_affine, first_of, plus, times


def emit(
    program: ExportedProgram, fitted: Outline, lengths: Sequence[Length], axes: Mapping[str, tuple[str, int]]
) -> fx.GraphModule:
    """A module for any lengths.

    Args:
        program: one of the unrolled programs.
        fitted: what holds at any length; its sources are nodes of `program`.
        lengths: what the numbers in it follow.
        axes: for each axis the name of a placeholder of the program that has it, and the dimension.
    """
    return Emitter(program, fitted, lengths, axes).run()


class Emitter:
    def __init__(
        self,
        program: ExportedProgram,
        fitted: Outline,
        lengths: Sequence[Length],
        axes: Mapping[str, tuple[str, int]],
    ) -> None:
        self.program = program
        self.fitted = fitted
        self.lengths = lengths
        self.axes = axes
        self.nodes = {node.name: node for node in program.graph.nodes}
        self.graph = fx.Graph()
        self.v = Values(self.graph)
        self.root = nn.Module()
        self.inputs: dict[str, fx.Node] = {}
        self._bind()
        self.known_lengths: dict[int, fx.Node] = {}
        self.made: dict[int, Any] = {}  # item -> node, or the loop as it was emitted
        self.wanted: dict[int, dict[tuple[int, Any], None]] = {}  # loop -> values that are taken from it, in order
        self.taken: dict[tuple[int, int, Any], list[Any]] = {}  # value of a loop -> the steps at which it is taken
        self.current = 0

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
                self.inputs[node.name].meta["val"] = node.meta["val"]
        for node in placeholders:
            if node.name in held:
                value = values[held[node.name]].detach()
                if node.name in signature.inputs_to_parameters:
                    self.root.register_parameter(node.name, nn.Parameter(value, requires_grad=False))
                else:
                    self.root.register_buffer(node.name, value)
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
                self.current = number
                self.made[number] = EmittedLoop(self, number, source, item)
        self.graph.output(tuple(self.value(v) for v in self.fitted.output))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph)

    def _want(self, value: Any) -> None:
        """Note which values of which loops are taken from outside them."""
        if isinstance(value, tuple | list):
            if len(value) == 5 and value[0] == "step":
                self.wanted.setdefault(value[1], {})[(value[2], value[3])] = None
                self.taken.setdefault((value[1], value[2], value[3]), []).append(value[4])
                return
            if len(value) == 4 and value[0] == "run":
                self._run_of(value[1], value[2])
            for item in value:
                self._want(item)
        elif isinstance(value, dict):
            self._want(list(value.values()))

    def _run_of(self, first: Any, moves: Any) -> None:
        """Note that of a loop's value many steps are taken."""
        if isinstance(first, tuple | list):
            if len(first) == 5 and first[0] == "step" and moves[4]:
                self.taken.setdefault((first[1], first[2], first[3]), []).append("many")
            for item, move in zip(first, moves, strict=False):
                if isinstance(move, tuple):
                    self._run_of(item, move)

    def _call(self, target: Any, args: Any, kwargs: Any) -> Any:
        if args and isinstance(args[0], tuple) and args[0][0] == "list":
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            return self._join(target, args[0][1], dim)
        target = with_tensor(target) if counts((args, kwargs)) else target
        return self.v.add(target, *map(self.argument, args), **self.argument(kwargs))

    def length(self, number: int) -> fx.Node:
        """The node of a length."""
        if number not in self.known_lengths:
            expression = self.lengths[number].number
            named = {axis: self.axes[axis] for axis in (symbol.name for symbol in expression.free_symbols)}
            sizes = {axis: self.v.add(aten.sym_size.int, self.inputs[name], dim) for axis, (name, dim) in named.items()}
            self.known_lengths[number] = computed(expression, sizes, self.v.add)
        return self.known_lengths[number]

    def argument(self, value: Any) -> Any:
        if isinstance(value, Affine | Quotient):
            return self.v.number(value, self.length)
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
        rank = self.rank(first_of(segments[0])) + (1 if stacked else 0)
        dim %= rank
        if all(segment[0] == "one" for segment in segments):
            return self.v.add(target, [self.value(s[1]) for s in segments], dim)
        parts = []
        for segment in segments:
            if segment[0] == "one":
                part = self.value(segment[1])
                parts.append(self.v.add(aten.unsqueeze.default, part, dim) if stacked else part)
            elif segment[0] == "turns":
                part = self._to(self._turns(segment), 0, dim)
                parts.append(part if stacked else self.v.add(aten.flatten.using_ints, part, dim, dim + 1))
            else:
                part = self._to(self.run_of(segment), 0, dim)
                parts.append(part if stacked else self.v.add(aten.flatten.using_ints, part, dim, dim + 1))
        return parts[0] if len(parts) == 1 else self.v.add(aten.cat.default, parts, dim)

    def _turns(self, segment: Any, *, none: bool = False) -> fx.Node:
        """The values of several runs in turn, stacked along a new first dimension."""
        runs = [self.run_of(run, none=none) for run in segment[1]]
        return self.v.add(aten.flatten.using_ints, self.v.add(aten.stack.default, runs, 1), 0, 1)

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

    def run_of(self, segment: Any, *, none: bool = False) -> fx.Node:
        """The values of a run, stacked along a new first dimension; `none`: there may be no value."""
        _, first, moves, count = segment
        return self._stacked(first, moves, self.argument(count), none=none)

    def _stacked(self, value: Any, moves: Any, count: Any, *, none: bool = False) -> fx.Node:
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
            if none and self.meta(value[2]).dtype is not torch.bool:  # a window has to fit for there to be none
                pad = [0, 0] * (rank - 1 - dim) + [0, width - 1]
                source = self.v.add(aten.constant_pad_nd.default, source, pad)
            windows = self.v.add(aten.unfold.default, source, dim, width, 1)  # (.., windows, .., width)
            windows = self._to(self._to(windows, rank, dim + 1), dim, 0)
            return self._stretch(windows, 0, value[4], moves[4], count)
        if kind == "read" and not _moves(moves[3:]):
            source = self._stacked(value[2], moves[2], count, none=none)
            if value[1] is operator.getitem:
                raise Unalike("a step takes one of several results of another in an unknown way")
            return self.v.add(value[1], source, value[3] + 1, *(self.argument(a) for a in value[4:]))
        raise Unalike("a step reads something else at each step")

    def _stretch(self, node: fx.Node, dim: int, start: Any, move: int, count: Any) -> fx.Node:
        """`count` entries along a dimension, from `start` on or from there backward."""
        step = abs(move)
        begin = self.argument(start)
        if step > 1:  # from the first of `count` entries to just after the last
            count = self._plus(self._times(self._minus(count, 1), step), 1)
        if move < 0:  # the last `count` up to `start`, in reverse
            end = self.v.add(operator.add, begin, 1) if isinstance(begin, fx.Node) else begin + 1
            begin = self._minus(end, count)
        else:
            end = self._plus(begin, count)
        node = self.v.add(aten.slice.Tensor, node, dim, begin, end, *([step] if step > 1 else []))
        return self.v.add(aten.flip.default, node, [dim]) if move < 0 else node

    def _times(self, a: Any, b: int) -> Any:
        return a * b if isinstance(a, int) else self.v.add(operator.mul, a, b)

    def _plus(self, a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return b if isinstance(a, int) and a == 0 else self.v.add(operator.add, a, b)

    def _minus(self, a: Any, b: Any) -> Any:
        return a - b if isinstance(a, int) and isinstance(b, int) else self.v.add(operator.sub, a, b)

    def filled(self, segments: Any, count: Any) -> fx.Node:
        """The per-step values of a loop, stacked; with zeros where the steps that nothing needs have none."""
        total: Any = 0
        for segment in segments:
            if segment[0] == "turns":
                total = plus(total, times(segment[1][0][3], len(segment[1])))
            else:
                total = plus(total, 1 if segment[0] == "one" else segment[3])
        short = _difference(count, total)
        parts = []
        for segment in segments:
            if segment[0] == "one":
                parts.append(self.v.add(aten.unsqueeze.default, self.value(segment[1]), 0))
            elif segment[0] == "turns":
                parts.append(self._turns(segment, none=short > 0))
            else:
                parts.append(self.run_of(segment, none=short > 0))
        if short:
            meta = self.meta(first_of(segments[0]))
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


def _difference(a: Any, b: Any) -> int:
    """The difference of two numbers, which has to be the same at any length."""
    x, y = as_affine(a), as_affine(b)
    whole, rest = divmod(x.offset - y.offset, x.divisor)
    if (x.factors, x.divisor) != (y.factors, y.divisor) or whole < 0 or rest:
        raise Unalike("what the steps take does not go with the number of steps")
    return whole


def _width(start: Any, end: Any) -> int | None:
    x, y = as_affine(start), as_affine(end)
    return y.offset - x.offset if x.factors == y.factors and x.divisor == y.divisor == 1 else None


def _moves(moves: Any) -> bool:
    return any(map(_moves, moves)) if isinstance(moves, tuple) else moves != 0
