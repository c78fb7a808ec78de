"""The rewriting of a captured program into one that takes a piece of a stream and its states.

Every operator is written anew, by the rule that the table has for it. A rule gives the new node and its relation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..graph import arguments, aten, module_path
from .facts import expression, expressions, is_number, name_of
from .relation import STEPS, Along, Atom, Latest, Numbered, same
from .writer import LAST, Writer

SHAPED = {
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.squeeze.dim),
    *(aten.squeeze.default, aten.squeeze.dims, aten.expand.default),
}
"""Operators that give the same items another shape."""


Rule = Callable[["Rewriting", fx.Node], tuple[Any, Any]]
"""From a node of the program to what it becomes, and its relation (of several results, a list of both)."""


class Rewriting(Writer):
    """Goes through a program once.

    Args:
        module: the captured program with its weights.
        streamed: for each placeholder that has the streamed axis, its dimension.
        steps: the size of that axis.
        rules: by the operator.
        with_numbers: the rule of every operator that takes numbers of steps.
        probe: gives the value of a node of the new graph that follows no step.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        streamed: Mapping[str, int],
        steps: sympy.Expr,
        rules: Callable[[Any], Rule | None],
        with_numbers: Callable[[Rewriting, fx.Node, Rule | None], tuple[Any, Any]],
        probe: Callable[[fx.Node], Tensor | None],
    ) -> None:
        super().__init__(steps)
        self.old = module.graph
        self._streamed = streamed
        self._rules = rules
        self._with_numbers = with_numbers
        self._probe = probe
        self._prefixes: dict[fx.Node, Any] = {}

    def run(self) -> None:
        """Write the new graph, without its states among the results.

        Raises:
            Unstreamable: an operator has no form on a stream.
        """
        for node in self.old.nodes:
            self.node = node
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                self._output(node)
            elif node.op == "get_attr":
                self.env[node], self.relations[node] = self.graph.node_copy(node), None
            else:
                self.env[node], self.relations[node] = self._written(node)

    def _placeholder(self, node: fx.Node) -> None:
        new = self.env[node] = self.graph.node_copy(node)
        self._inputs.append(new)
        self.relations[node] = None
        shape = expressions(node)
        for dim, size in enumerate(shape):
            if size.is_Symbol:
                self._symbols.setdefault(size, (new, dim))
        if node.name in self._streamed:
            dims = [(STEPS,) if k == self._streamed[node.name] else (Atom(size),) for k, size in enumerate(shape)]
            self.relations[node] = along = Along(tuple(dims))
            if self.rows.size == 1:
                self.rows = next((a for a in along.atoms if a.size.is_Symbol), self.rows)

    def _output(self, node: fx.Node) -> None:
        results = []
        for result in arguments(node)[0]:
            relation = self.relations.get(result)
            new = self.env.get(result, result)
            if isinstance(relation, Numbered):
                self.node = result
                self.refuse("gives the numbers of steps", "Number the steps outside of the model")
            if isinstance(relation, Along):
                new, relation = self.aligned(result, min(relation.lead, 0))
                self.node = result
                ahead = -relation.lead
                if ahead and relation.tail == ahead:
                    self.refuse(
                        f"looks {ahead} steps ahead, so that a piece alone is not enough",
                        "Pad on the left alone, as in F.pad(x, (kernel_size - 1, 0))",
                    )
                if ahead or relation.tail:
                    self.refuse(
                        f"gives {self.length(relation)} items for {self.steps_named} steps",
                        "Pad on the left, so that there is one item for each step",
                    )
            results.append(new)
        self.graph.output(tuple(results))

    steps_named = "as many"

    def length(self, along: Along) -> str:
        """How many items a value has in a whole run, in words."""
        more = along.lead + along.tail
        return f"{abs(more)} {'more' if more > 0 else 'less'}"

    def _written(self, node: fx.Node) -> tuple[Any, Any]:
        if is_number(node) or str(node.target).startswith("aten._assert_tensor_metadata"):
            return None, None  # a size: written where it is needed; or a dtype that was seen to be the traced one
        if node.target is operator.getitem:
            source, index = arguments(node)
            relation = self.relations[source]
            picked = relation[index] if isinstance(relation, list) else relation
            new = self.env[source]
            return (new[index] if isinstance(new, list) else self.emit(operator.getitem, new, index)), picked
        inputs = [self.relations[source] for source in node.all_input_nodes if not is_number(source)]
        if not any(isinstance(one, Along | list) for one in inputs) and not self.has_steps(node):
            latest = any(isinstance(one, Latest) for one in inputs)
            return self.copy(node), Latest() if latest else None
        if any(isinstance(one, Latest) for one in inputs):
            self.refuse("brings the last step of a sequence together with all steps", "Use the value of each step")
        rule = self._rules(node.target)
        if any(isinstance(one, Numbered) for one in inputs):
            new, relation = self._with_numbers(self, node, rule)
            self.check(node, relation)
            return new, relation
        if rule is None:
            self.refuse("is an operator for which no form on a stream is known", "Keep it out of the streamed part")
        new, relation = rule(self, node)
        if isinstance(relation, Along):
            self.check(node, relation)
        return new, relation

    def check(self, node: fx.Node, relation: Along) -> None:
        """See that a relation has the shape that the program has."""
        shape = expressions(node)
        whole = relation.whole(self.steps)
        if len(shape) != len(whole) or not all(map(same, shape, whole)):
            self.refuse(f"gives a shape {shape} that was not understood as {whole}", "Use state='none'")

    def has_steps(self, node: fx.Node) -> bool:
        """Whether a value's shape, or a number among its arguments, follows the number of steps."""
        value = node.meta.get("val")
        values = value if isinstance(value, tuple | list) else [value]
        shapes = [size for v in values if isinstance(v, Tensor) for size in v.shape]
        numbers = [source.meta["val"] for source in node.all_input_nodes if is_number(source)]
        return any(self.steps in expression(size).free_symbols for size in (*shapes, *numbers))

    def aligned(self, node: fx.Node, lead: int) -> tuple[fx.Node, Along]:
        """A value that starts with the item `lead` before that of the first step: earlier ones come later."""
        relation = self.along(node)
        back = relation.lead - lead
        if back == 0:
            return self.env[node], relation
        joined = self.with_history(node, back)
        return self.emit(aten.slice.Tensor, joined, relation.dim, 0, -back), relation.moved(-back, back)

    def from_the_start(self, node: fx.Node) -> tuple[fx.Node, Along]:
        """A value of which the first item in a whole run is that of the first step, for what carries a state.

        Raises:
            Unstreamable: the value begins late.
        """
        late = -self.along(node).lead
        if late > 0:
            self.refuse(
                f"runs over what begins {late} steps late: a window looks ahead, or is not padded on the left",
                "Pad by F.pad(x, (kernel_size - 1, 0))",
            )
        return self.aligned(node, 0)

    def with_history(self, node: fx.Node, steps: int, piece: fx.Node | None = None) -> fx.Node:
        """A piece of a value, or `piece` in its place, with so many items before it."""
        relation = self.along(node)
        if not relation.alone:
            self.refuse("looks back over steps that share a dimension with others", "Give time a dimension of its own")
        dim = relation.dim
        atoms = tuple(Atom(sympy.Integer(steps)) if atom.steps else atom for atom in relation.atoms)
        dtype = node.meta["val"].dtype
        state = self.state(atoms, dtype)
        folded = any(len(d) != 1 for d in relation.dims)
        past = self.emit(aten.reshape.default, state, self.sizes(relation, steps)) if folded else state
        if relation.lead > 0 and not self._starts_with_zeros(node):
            past = self._started(node, relation, past, steps)
        joined = self.emit(aten.cat.default, [past, self.env[node] if piece is None else piece], dim)
        kept = self.emit(aten.slice.Tensor, joined, dim, -steps, LAST)
        self.hold(state, kept, "past", self._past(steps), steps)
        return joined

    def _past(self, steps: int) -> str:
        of = f" of {module_path(self.node)!r}" if module_path(self.node) else ""
        return f"the last {steps if steps > 1 else ''} step{'s' if steps > 1 else ''}".replace("  ", " ") + (
            f", which {name_of(self.node)}{of} looks back at"
        )

    def _starts_with_zeros(self, node: fx.Node) -> bool:
        start = self._probe(self._prefix(node))
        return start is not None and not bool(start.any())

    def _started(self, node: fx.Node, relation: Along, past: fx.Node, steps: int) -> fx.Node:
        """`past`, or at the start of a stream what a whole run has before its first step."""
        start = self._prefix(node)
        if relation.lead > steps:
            start = self.emit(aten.slice.Tensor, start, relation.dim, relation.lead - steps, LAST)
        elif relation.lead < steps:
            pads = [0, 0] * (len(relation.dims) - 1 - relation.dim) + [steps - relation.lead, 0]
            start = self.emit(aten.constant_pad_nd.default, start, pads)
        return self.emit(aten.where.self, self.fresh(relation), start, past)

    def _prefix(self, node: fx.Node) -> Any:
        """What a whole run has of a value before the item of the first step."""
        if node not in self._prefixes:
            relation = self.relations.get(node)
            steps_of = relation if isinstance(relation, Along) else None
            if is_number(node) or relation is None:
                self._prefixes[node] = self.now(node)
            elif steps_of is not None and steps_of.lead <= 0:
                sizes = self.sizes(steps_of, 0)
                self._prefixes[node] = self.emit(aten.zeros.default, sizes, dtype=node.meta["val"].dtype)
            else:
                self._prefixes[node] = self._computed_prefix(node, steps_of)
        return self._prefixes[node]

    def _computed_prefix(self, node: fx.Node, relation: Along | None) -> fx.Node:
        args = list(arguments(node))
        if relation is not None and node.target in SHAPED:
            target = aten.expand.default if node.target is aten.expand.default else aten.reshape.default
            return self.emit(target, self._prefix(args[0]), self.sizes(relation, relation.lead))
        if relation is not None and node.target in (aten.pad.default, aten.constant_pad_nd.default):
            place = 2 * (len(relation.dims) - 1 - relation.dim) + 1
            args[1] = [0 if k == place else pad for k, pad in enumerate(args[1])]  # nor is what comes after it
        if relation is not None and node.target is aten.slice.Tensor and args[1] % len(relation.dims) == relation.dim:
            args[3:] = [LAST]  # what is cut off at the end is not there
        sources = [one for one in node.all_input_nodes if isinstance(self.relations.get(one), Along)]
        shortest = min((self.along(one).lead for one in sources), default=0)

        def before(source: fx.Node) -> Any:
            new = self._prefix(source)
            if source in sources and self.along(source).lead > max(shortest, 0):
                new = self.emit(aten.slice.Tensor, new, self.along(source).dim, 0, max(shortest, 0))
            return new

        new_args, kwargs = map_arg((tuple(args), node.kwargs), before)
        new = self.emit(node.target, *new_args, **kwargs)
        if relation is not None and relation.alone:
            new = self.emit(aten.slice.Tensor, new, relation.dim, 0, relation.lead)
        return new
