"""What a rule of the normal form is written with: a node, its graph, and ways to put something in its place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

END = 2**63 - 1
"""Where a slice ends that says no end."""


class Rewrite:
    """A node and its graph, with what a rule needs to put something in its place."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph = graph
        self.node = node
        self.args: tuple[Any, ...] = tuple(node.args)

    def by(self, rule: Callable[[Rewrite], Any]) -> None:
        with self.graph.inserting_before(self.node):
            other = rule(self)
        if other is not None and other is not self.node:
            self.node.replace_all_uses_with(other)

    def add(self, target: Any, *args: Any, val: Any = None) -> fx.Node:
        made: fx.Node = self.graph.call_function(target, args)
        made.meta = {k: v for k, v in self.node.meta.items() if k in ("stack_trace", "nn_module_stack")}
        if val is None:
            example = next(a.meta["val"] for a in made.all_input_nodes if isinstance(a.meta["val"], Tensor))
            mode: Any = example.fake_mode  # type: ignore[attr-defined]
            # The trace is over: what is computed here must not fix a size, as the check of a cell's batch would.
            with mode, mode.shape_env.suppress_guards() if mode.shape_env is not None else nullcontext():
                val = target(*fx.node.map_arg(args, lambda a: a.meta["val"]))
        made.meta["val"] = val
        return made


def argument(node: fx.Node, position: int, default: Any) -> Any:
    """An argument by its position, or the default where it is left out."""
    return node.args[position] if len(node.args) > position else default


def like(a: fx.Node, b: fx.Node) -> bool:
    """Whether two tensors have one shape and dtype."""
    x, y = a.meta["val"], b.meta["val"]
    return x.dtype == y.dtype and list(map(str, x.shape)) == list(map(str, y.shape))
