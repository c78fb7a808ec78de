"""The table of operators: by which rule each is written on a stream. What is not in it is refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy
import torch
from torch import fx

from ..graph import arguments, aten
from ..zeros import is_zeros
from . import layers, numbers, products, sums, windows
from .facts import bound, expression, expressions
from .relation import STEPS, Along, Atom, broadcast, regroup
from .rewrite import SHAPED, Rewriting, Rule


def rule(target: Any) -> Rule | None:
    """The rule of an operator; None where there is none."""
    if target in RULES:
        return RULES[target]
    tags = getattr(target, "tags", ())
    return item_by_item if torch.Tag.pointwise in tags and not target._schema.is_mutable else None


def item_by_item(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """Each item of the result follows from the same item of each argument."""
    every = [source for source in node.all_input_nodes if isinstance(stream.relations[source], Along)]
    lead = min((stream.along(source).lead for source in every), default=0)
    pieces = {source: stream.aligned(source, lead) for source in every}
    relation = broadcast([along for _, along in pieces.values()], expressions(node)) if pieces else None
    if relation is None:
        stream.refuse("holds every step against every other one", "Bound what a step looks at")

    def now(source: fx.Node) -> Any:
        return pieces[source][0] if source in pieces else stream.now(source)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), now)
    return stream.emit(node.target, *args, **kwargs), relation


def made(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A tensor of one value, made in a shape that has the steps."""
    relation = _of_sizes(stream, node, expressions(node))
    place = 0 if node.target in _BY_SIZE else 1 if node.target in _NEW else None
    return stream.copy(node, {} if place is None else {place: stream.sizes(relation)}), relation


def _of_sizes(stream: Rewriting, node: fx.Node, sizes: list[sympy.Expr]) -> Along:
    """A relation by the sizes alone: one dimension is the steps, or the steps and a factor."""
    dims: list[tuple[Atom, ...]] = []
    more = 0
    for size in sizes:
        if stream.steps not in size.free_symbols:
            dims.append((Atom(size),) if size != 1 else ())
            continue
        plain = sympy.expand(size - stream.steps)
        if plain.is_Integer:
            dims.append((STEPS,))
            more = int(plain)
        else:
            other = sympy.cancel(size / stream.steps)
            if stream.steps in other.free_symbols or sympy.fraction(other)[1] != 1:
                stream.refuse(f"makes a tensor of a size that follows the steps as {size}", "Make it of one step")
            dims.append((STEPS, Atom(other)))
    relation = Along(tuple(dims), 0, more)
    if sum(atom.steps for atom in relation.atoms) != 1:
        stream.refuse("makes a tensor with the steps in two dimensions", "Bound what a step looks at")
    return relation


def shaped(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """The same items in their order in another shape."""
    relation = regroup(stream.along(arguments(node)[0]), expressions(node), stream.steps)
    if relation is None:
        stream.refuse("takes steps apart or together", "Keep time in one dimension")
    return stream.emit(aten.reshape.default, stream.now(arguments(node)[0]), stream.sizes(relation)), relation


def expanded(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """The same for more rows."""
    source = arguments(node)[0]
    relation = stream.relations[source]
    if not isinstance(relation, Along):
        found = _of_sizes(stream, node, expressions(node))
        return stream.emit(aten.expand.default, stream.now(source), stream.sizes(found)), found
    found_or_none = broadcast([relation], expressions(node))
    if found_or_none is None:
        stream.refuse("spreads steps over steps", "Bound what a step looks at")
    return stream.emit(aten.expand.default, stream.now(source), stream.sizes(found_or_none)), found_or_none


def turned(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """The dimensions in another order."""
    relation = stream.along(arguments(node)[0])
    sizes = range(2, 2 + len(relation.dims))
    target: Any = node.target
    order = target(torch.empty(tuple(sizes)), *node.args[1:], **node.kwargs).shape
    return stream.copy(node), relation.with_dims([relation.dims[size - 2] for size in order])


def unsqueezed(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """One dimension more."""
    source, dim = arguments(node)
    relation = stream.along(source)
    dims = list(relation.dims)
    dims.insert(dim % (len(dims) + 1), ())
    return stream.copy(node), relation.with_dims(dims)


def within_features(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """Something along dimensions that have no steps; the others stay."""
    named = bound(node)
    source = arguments(node)[0]
    relation = stream.along(source)
    rank = len(relation.dims)
    if "normalized_shape" in named:
        over: set[int] = set(range(rank - len(named["normalized_shape"]), rank))
    else:
        given = named.get("dim", named.get("dims"))
        over = _dims(given, rank)
    if relation.dim in over:
        stream.refuse("goes over all steps together", _instead(node))
    if any(isinstance(stream.relations[other], Along) for other in node.all_input_nodes if other is not source):
        stream.refuse("takes weights that follow the steps", "Use constant ones")
    return _results(stream, node, relation, over)


def _results(stream: Rewriting, node: fx.Node, relation: Along, over: set[int]) -> tuple[Any, Any]:
    """The node as it is, and the relations of its results: their other dimensions are those of the argument."""
    new = stream.copy(node)
    values = node.meta["val"]
    several = isinstance(values, tuple | list)
    found = [_kept(relation, value, over) for value in (values if several else [values])]
    for one, value in zip(found, values if several else [values], strict=True):
        if one is None or [str(s) for s in value.shape] != [str(s) for s in one.whole(stream.steps)]:
            stream.refuse("gives a shape that was not understood", "Use state='none'")
    return new, found if several else found[0]


def _kept(relation: Along, value: Any, over: set[int]) -> Along | None:
    rank = len(relation.dims)
    if value.dim() == rank:
        sizes = [expression(size) for size in value.shape]
        return relation.with_dims(
            [
                dim if k not in over else () if sizes[k] == 1 else (Atom(sizes[k]),)
                for k, dim in enumerate(relation.dims)
            ]
        )
    if value.dim() == rank - len(over):
        return relation.with_dims([dim for k, dim in enumerate(relation.dims) if k not in over])
    return None


def _dims(given: Any, rank: int) -> set[int]:
    if given is None or given == []:
        return set(range(rank))
    return {dim % rank for dim in (given if isinstance(given, Iterable) else [given])}


def _instead(node: fx.Node) -> str:
    if "norm" in str(node.target):
        return "Normalise each step over its features (nn.LayerNorm), or use nn.BatchNorm"
    return "Use one over a bounded window (F.avg_pool1d), or a running one (cumsum)"


def joined(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """Values side by side; along the steps, zeros in front."""
    named = bound(node)
    parts: list[fx.Node] = named["tensors"]
    dim: int = named["dim"] % len(expressions(node))
    every = [part for part in parts if isinstance(stream.relations[part], Along)]
    stacks = node.target is aten.stack.default
    if every and not stacks and stream.along(every[0]).dim == dim and stream.along(every[0]).alone:
        return _in_front(stream, parts, dim)
    lead = min(stream.along(part).lead for part in every)
    pieces = {part: stream.aligned(part, lead) for part in every}
    if len(every) != len(parts):
        stream.refuse("joins what has steps to what has none", "Give both the steps, by expand")
    relation = pieces[every[0]][1]
    if len({along.dim for _, along in pieces.values()}) != 1:
        stream.refuse("has the steps in unlike dimensions", "Use permute before")
    dims = list(relation.dims)
    if stacks:
        dims.insert(dim, (Atom(sympy.Integer(len(parts))),))
    else:
        dims[dim] = (Atom(expressions(node)[dim]),)
    found = relation.with_dims(dims)
    return stream.emit(node.target, [pieces[part][0] for part in parts], dim), found


def _in_front(stream: Rewriting, parts: list[fx.Node], dim: int) -> tuple[Any, Any]:
    along = [k for k, part in enumerate(parts) if isinstance(stream.relations[part], Along)]
    others = [part for k, part in enumerate(parts) if k not in along]
    if len(along) != 1 or not all(stream.relations[part] is None and is_zeros(part) for part in others):
        stream.refuse("joins values along the steps", "Pad with zeros at the start alone")
    sizes = [0 if k in along else int(part.meta["val"].shape[dim]) for k, part in enumerate(parts)]
    return windows.padded(stream, parts[along[0]], sum(sizes[: along[0]]), sum(sizes[along[0] :]), 0.0)


def normalised(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A batch norm with the statistics of the training."""
    named = bound(node)
    relation = stream.along(named["input"])
    if named["training"] or named["running_mean"] is None or relation.dim == 1:
        stream.refuse("takes statistics over all steps", _instead(node))
    return stream.copy(node), relation


def by_channel(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """PReLU, whose weights belong to the channels in dimension 1."""
    source, weight = arguments(node)
    relation = stream.along(source)
    if relation.dim == 1 and expressions(weight) != [1]:
        stream.refuse("takes the steps for channels", "Move time behind the channels")
    return stream.copy(node), relation


def of_groups(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A group or instance norm: over all dimensions but the first."""
    relation = stream.along(arguments(node)[0])
    if relation.dim != 0:
        stream.refuse("takes statistics over all steps", _instead(node))
    return stream.copy(node), relation


def moved(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """The same values, perhaps of another dtype or in other memory."""
    return stream.copy(node), stream.along(arguments(node)[0])


def parted(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """Parts along a dimension that has no steps."""
    named = bound(node)
    relation = stream.along(arguments(node)[0])
    rank = len(relation.dims)
    dim = (named.get("dim") or 0) % rank
    if dim == relation.dim:
        stream.refuse("takes steps apart", "Keep time in one dimension")
    return _results(stream, node, relation, {dim})


def parts_or_steps(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A slice or one item; of the steps, by its own rule."""
    source, dim = arguments(node)[0], bound(node)["dim"]
    relation = stream.along(source)
    if dim % len(relation.dims) != relation.dim:
        return parted(stream, node)
    return windows.cut(stream, node) if node.target is aten.slice.Tensor else windows.picked(stream, node)


_BY_SIZE = {aten.zeros.default, aten.ones.default, aten.full.default, aten.empty.memory_format}
_NEW = {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default}
_LIKE = {aten.zeros_like.default, aten.ones_like.default, aten.full_like.default}


def like(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A tensor of one value in the shape of another."""
    return stream.copy(node), stream.along(arguments(node)[0])


RULES: dict[Any, Rule] = {
    **dict.fromkeys(_BY_SIZE | _NEW, made),
    **dict.fromkeys(_LIKE, like),
    **dict.fromkeys(SHAPED, shaped),
    **dict.fromkeys((aten.expand.default, aten.expand_as.default), expanded),
    **dict.fromkeys((aten.permute.default, aten.transpose.int, aten.movedim.int, aten.t.default), turned),
    aten.unsqueeze.default: unsqueezed,
    **dict.fromkeys(
        (
            *(aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default),
            *(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.dropout.default),
            *(aten.feature_dropout.default, aten.type_as.default),
        ),
        moved,
    ),
    **dict.fromkeys(
        (
            *(aten.layer_norm.default, aten.rms_norm.default, aten.softmax.int, aten.log_softmax.int),
            *(aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim),
            *(aten.argmax.default, aten.argmin.default, aten.prod.dim_int, aten.var.correction, aten.std.correction),
            *(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, aten.logsumexp.default, aten.glu.default),
            *(aten.var.dim, aten.std.dim, aten.flip.default, aten.topk.default, aten.sort.default),
            *(aten.mean.default, aten.sum.default, aten.max.default, aten.min.default),
        ),
        within_features,
    ),
    **dict.fromkeys(
        (
            *(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int),
            *(aten.index_select.default,),
        ),
        parted,
    ),
    **dict.fromkeys((aten.slice.Tensor, aten.select.int), parts_or_steps),
    **dict.fromkeys((aten.cat.default, aten.stack.default), joined),
    aten.batch_norm.default: normalised,
    **dict.fromkeys((aten.group_norm.default, aten.instance_norm.default), of_groups),
    aten.prelu.default: by_channel,
    **layers.RULES,
    **products.RULES,
    **windows.RULES,
    **sums.RULES,
    **numbers.RULES,
}
"""By the operator; those item by item are known by their tag."""
