"""What looks at some steps at once: padding and cuts, convolutions, pools and frames."""

from __future__ import annotations

from typing import Any

import sympy
from torch import fx

from ..graph import arguments, aten
from .facts import bound, expression, expressions
from .relation import Along, Atom, Latest
from .rewrite import Rewriting, Rule


def padded(stream: Rewriting, source: fx.Node, left: int, right: int, value: float) -> tuple[fx.Node, Along]:
    """More items at either end of the steps: nothing is computed, but for items that a whole run lacked there."""
    relation = stream.along(source)
    new = stream.now(source)
    if relation.lead < 0 < left:  # on a stream, there is something in the place of the items that are lacking
        late = stream.emit(aten.lt.Scalar, stream.positions(relation), -relation.lead)
        new = stream.emit(aten.masked_fill.Scalar, new, late, value)
    return new, relation.moved(left, right)


def pad(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """F.pad: at the ends of the steps, and of other dimensions as it is."""
    named = bound(node)
    source, pads = named["self"], list(named["pad"])
    relation = stream.along(source)
    behind = len(relation.dims) - 1 - relation.dim
    left, right = pads[2 * behind : 2 * behind + 2] if len(pads) > 2 * behind else (0, 0)
    mode, value = named.get("mode", "constant"), named.get("value") or 0.0
    if (left or right) and mode != "constant":
        stream.refuse(f"pads the steps by mode={mode!r}", "Pad with zeros")
    if not (isinstance(left, int) and isinstance(right, int)):
        stream.refuse("pads by a number of steps that is none of its own", "Pad by a plain number")
    if (left or right) and not relation.alone:
        stream.refuse("pads steps that share a dimension with others", "Give time a dimension of its own")
    new, found = padded(stream, source, left, right, value)
    pads[2 * behind : 2 * behind + 2] = [0, 0]
    others = pads if len(pads) > 2 * behind else list(named["pad"])
    if any(others):
        new = stream.emit(node.target, new, others, *node.args[2:], **node.kwargs)
        dims = list(found.dims)
        for k in range(len(others) // 2):
            if others[2 * k] or others[2 * k + 1]:
                dims[-1 - k] = (Atom(expressions(node)[-1 - k]),)
        found = found.with_dims(dims)
    return new, found


def cut(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A slice of the steps: its items are the same, some of them less at either end."""
    named = bound(node)
    relation = stream.along(named["self"])
    whole = stream.steps + relation.lead + relation.tail
    length = expressions(node)[relation.dim] if relation.alone else None
    start = named["start"] or 0
    start = expression(start.meta["val"] if isinstance(start, fx.Node) else start)
    if start.is_negative or stream.steps in start.free_symbols:
        start = sympy.expand(whole + start) if start.is_negative or sympy.expand(start + whole).is_Integer else start
    if named["step"] != 1 or length is None:
        stream.refuse("takes some of the steps, or of steps that share a dimension", "Keep every step")
    tail = sympy.expand(length - (whole - start))
    if not start.is_Integer or not tail.is_Integer or tail.is_positive:
        stream.refuse("takes a part of the sequence that follows its length or its end", "Cut a plain number of steps")
    return stream.now(named["self"]), relation.moved(-int(start), int(tail))


def picked(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """One step alone: the last one is that of the piece."""
    source, _, index = arguments(node)
    relation = stream.along(source)
    if index != -1 or relation.lead or relation.tail or not relation.alone:
        stream.refuse("takes one step of the sequence", "Take the last one, or each")
    return stream.copy(node), Latest()


def window(stream: Rewriting, node: fx.Node, source: fx.Node, span: int, pads: tuple[int, int]) -> tuple[Any, Along]:
    """A piece of a value that is padded by `pads`, with `span` items before it; and the relation of what it gives."""
    piece, relation = padded(stream, source, *pads, 0.0)
    new = stream.with_history(source, span, piece) if span else piece
    return new, relation.moved(-span, 0)


def convolution(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A convolution: along the steps, over a piece with the items before it."""
    named = bound(node)
    source, weight = named["input"], named["weight"]
    relation = stream.along(source)
    space = len(expressions(weight)) - 2
    if any(isinstance(stream.relations[other], Along) for other in node.all_input_nodes if other is not source):
        stream.refuse("has weights that follow the steps", "Use constant ones")
    place = relation.dim - (len(relation.dims) - space)
    out = _after(relation, node, space)
    if place == -1:
        stream.refuse("takes the steps for channels", "Move time behind the channels")
    if place < 0:
        return stream.copy(node), relation.with_dims(out)
    if not relation.alone:
        stream.refuse("goes over steps that share a dimension with others", "Give time its own dimension")
    stride, dilation = (_each(named[name], space) for name in ("stride", "dilation"))
    kernel = int(expressions(weight)[2 + place])
    span = (kernel - 1) * dilation[place]
    pads = _pads(named["padding"], space, [int(k) for k in expressions(weight)[2:]], dilation)
    if stride[place] != 1:
        stream.refuse(f"takes {stride[place]} steps at a time", "Use stride 1 along time")
    new, found = window(stream, node, source, span, pads[place])
    own = [pads[k][0] if k != place else 0 for k in range(space)]
    if any(left != right for k, (left, right) in enumerate(pads) if k != place):
        stream.refuse("pads unevenly", "Pad by F.pad")
    bias = None if named["bias"] is None else stream.now(named["bias"])
    target = _PLAIN.get(node.target, node.target)
    new = stream.emit(target, new, stream.now(weight), bias, stride, own, dilation, named["groups"])
    return new, found.with_dims(out)


_PLAIN = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
    aten.conv3d.padding: aten.conv3d.default,
}


def _after(relation: Along, node: fx.Node, space: int) -> list[tuple[Atom, ...]]:
    """The dimensions of a convolution's or pool's result: the rows stay, and so do the steps."""
    sizes = expressions(node)
    first = len(sizes) - space - 1
    return [
        dim if k < first or k == relation.dim else (Atom(sizes[k]),) if sizes[k] != 1 else ()
        for k, dim in enumerate(relation.dims)
    ]


def _each(value: Any, space: int) -> list[int]:
    values = [value] * space if isinstance(value, int) else list(value)
    return values * space if len(values) == 1 else values


def _pads(given: Any, space: int, kernel: list[int], dilation: list[int]) -> list[tuple[int, int]]:
    if given == "valid":
        return [(0, 0)] * space
    if given == "same":
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(one, one) for one in _each(given, space)]


def pool(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A pool: along the steps with stride 1, over a piece with the items before it."""
    named = bound(node)
    source = named["self"]
    relation = stream.along(source)
    space = int(_digit(node))
    place = relation.dim - (len(relation.dims) - space)
    out = _after(relation, node, space)
    out[len(relation.dims) - space - 1] = relation.dims[len(relation.dims) - space - 1]
    if place < 0:
        return stream.copy(node), relation.with_dims(out)
    if not relation.alone:
        stream.refuse("goes over steps that share a dimension with others", "Give time its own dimension")
    kernel, stride = _each(named["kernel_size"], space), _each(named["stride"] or named["kernel_size"], space)
    dilation, padding = _each(named.get("dilation", 1), space), _each(named["padding"], space)
    if kernel[place] == stride[place] == 1:
        return stream.copy(node), relation.with_dims(out)
    if stride[place] != 1:
        stream.refuse(f"takes {stride[place]} steps at a time", "Use stride 1 along time")
    if padding[place] or named["ceil_mode"]:
        stream.refuse("pads the steps by itself", "Pad by F.pad before")
    new, found = window(stream, node, source, (kernel[place] - 1) * dilation[place], (0, 0))
    args = [new, *node.args[1:]]
    return stream.emit(node.target, *args, **node.kwargs), found.with_dims(out)


def transposed(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """A transposed convolution with stride 1 along the steps: each result adds up what the steps before give to it."""
    named = bound(node)
    source, weight = named["input"], named["weight"]
    relation = stream.along(source)
    space = len(expressions(weight)) - 2
    place = relation.dim - (len(relation.dims) - space)
    out = _after(relation, node, space)
    stride, dilation, padding = (_each(named[name], space) for name in ("stride", "dilation", "padding"))
    if any(isinstance(stream.relations[other], Along) for other in node.all_input_nodes if other is not source):
        stream.refuse("has weights that follow the steps", "Use constant ones")
    if place == -1:
        stream.refuse("takes the steps for channels", "Move time behind the channels")
    if place < 0:
        return stream.copy(node), relation.with_dims(out)
    span = (int(expressions(weight)[2 + place]) - 1) * dilation[place]
    more = _each(named["output_padding"], space)[place]
    if not relation.alone or stride[place] != 1 or more:
        stream.refuse(f"gives {stride[place]} steps for each", "Use stride 1 along time")
    if span and relation.lead < 0:
        stream.refuse(f"runs over what begins {-relation.lead} steps late", "Pad on the left")
    new = stream.with_history(source, span) if span else stream.now(source)
    own = [0 if k == place else pad for k, pad in enumerate(padding)]
    bias = None if named["bias"] is None else stream.now(named["bias"])
    rest = (named["output_padding"], named["groups"], dilation)
    new = stream.emit(node.target, new, stream.now(weight), bias, stride, own, *rest)
    if span:
        new = stream.emit(aten.slice.Tensor, new, relation.dim, span, -span)
    return new, relation.with_dims(out).moved(-padding[place], span - padding[place])


def _digit(node: fx.Node) -> str:
    return next(c for c in str(node.target) if c.isdigit())


def framed(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """Tensor.unfold by one step: each step with those before it."""
    source, dim, size, step = arguments(node)
    relation = stream.along(source)
    if dim % len(relation.dims) != relation.dim:
        dims = list(relation.dims)
        dims[dim % len(dims)] = (Atom(expressions(node)[dim % len(dims)]),)
        return stream.copy(node), relation.with_dims([*dims, (Atom(sympy.Integer(size)),)])
    if step != 1:
        stream.refuse(f"takes {step} steps at a time", "Use frames of one step each")
    new, found = window(stream, node, source, size - 1, (0, 0))
    dims = [*found.dims, (Atom(sympy.Integer(size)),) if size != 1 else ()]
    return stream.emit(node.target, new, dim, size, step), found.with_dims(dims)


def no_roll(stream: Rewriting, node: fx.Node) -> tuple[Any, Any]:
    """torch.roll brings the end to the start."""
    named = bound(node)
    relation = stream.along(named["self"])
    if relation.dim not in {dim % len(relation.dims) for dim in named["dims"]} or not named["dims"]:
        return stream.copy(node), relation
    stream.refuse("brings the last steps to the start", "Shift by F.pad and a cut")


RULES: dict[Any, Rule] = {
    **dict.fromkeys((aten.pad.default, aten.constant_pad_nd.default), pad),
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, *_PLAIN), convolution),
    **dict.fromkeys(
        (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.max_pool1d.default, aten.max_pool2d.default), pool
    ),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), transposed
    ),
    aten.unfold.default: framed,
    aten.roll.default: no_roll,
}
