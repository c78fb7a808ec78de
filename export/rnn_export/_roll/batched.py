"""Operators over all steps at once: what does not depend on the carry is done for the whole sequence in one call.

Every value of a step then has one dimension more, the first, over the steps. Values that are the same in each step stay
as they are, and broadcast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.fx.node import Target
from torch.utils import _pytree as pytree
from torch.utils._pytree import PyTree

from .rewrite import aten


@dataclass(frozen=True)
class Known:
    """A value outside of the scans.

    Attributes:
        node: its node.
        steps: whether its first dimension goes over the steps; else it is the same in each.
        meta: the value at one step.
    """

    node: fx.Node
    steps: bool
    meta: Any


@dataclass(frozen=True)
class Raised:
    """A value that needs more dimensions of size one, after that over the steps."""

    value: Known
    by: int


_UNARY = {
    *(aten.sigmoid.default, aten.tanh.default, aten.relu.default, aten.exp.default, aten.neg.default, aten.abs.default),
    *(aten.log.default, aten.sqrt.default, aten.rsqrt.default, aten.softplus.default, aten.gelu.default),
    *(aten.silu.default, aten.elu.default, aten.leaky_relu.default, aten.hardtanh.default, aten.clamp.default),
    *(aten.sin.default, aten.cos.default, aten.square.default, aten.reciprocal.default, aten.pow.Tensor_Scalar),
    *(aten.logical_not.default, aten.bitwise_not.default, aten.rsub.Scalar, aten.mul.Scalar, aten.add.Scalar),
    *(aten.to.dtype, aten._to_copy.default, aten.clone.default, aten.contiguous.default, aten.log1p.default),
    *(aten.lt.Scalar, aten.le.Scalar, aten.gt.Scalar, aten.ge.Scalar, aten.eq.Scalar, aten.ne.Scalar),
    *(aten.sub.Scalar, aten.div.Scalar, aten.hardsigmoid.default, aten.erf.default, aten.log_sigmoid.default),
    *(aten.zeros_like.default, aten.ones_like.default),
}
_ELEMENTWISE = {
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Tensor, aten.where.self),
    *(aten.maximum.default, aten.minimum.default, aten.lt.Tensor, aten.le.Tensor, aten.gt.Tensor, aten.ge.Tensor),
    *(aten.eq.Tensor, aten.ne.Tensor, aten.lerp.Scalar, aten.lerp.Tensor, aten.logical_and.default),
    *(aten.logical_or.default, aten.masked_fill.Scalar, aten.addcmul.default),
}
_BY_DIM: dict[Target, int | tuple[int, ...]] = {
    aten.select.int: 1,
    aten.slice.Tensor: 1,
    aten.squeeze.dim: 1,
    aten.unsqueeze.default: 1,
    aten.softmax.int: 1,
    aten.log_softmax.int: 1,
    aten.split.Tensor: 2,
    aten.split_with_sizes.default: 2,
    aten.chunk.default: 2,
    aten.unbind.int: 1,
    aten.sum.dim_IntList: 1,
    aten.mean.dim: 1,
    aten.transpose.int: (1, 2),
    aten.permute.default: 1,
}
"""Operators with one tensor, and where their dimensions stand among the arguments."""


def arguments_over_steps(target: Target, args: Sequence[PyTree], result: PyTree) -> list[PyTree] | None:
    """The arguments with which `target` does all steps at once; None where it is not known to.

    Args:
        target: the operator.
        args: plain values, and Known ones, of which one at least goes over the steps.
        result: the operator's value at one step.
    """
    tensors = [a for a in args if isinstance(a, Known)]
    first = args[0]
    if any(isinstance(a, list | tuple) and any(isinstance(x, Known) for x in a) for a in args):
        if target in (aten.cat.default, aten.stack.default) and all(isinstance(x, Known) and x.steps for x in first):
            rank = result.dim()
            dim = (args[1] if len(args) > 1 else 0) % rank
            return [list(first), dim + 1]
        return None
    if target in _UNARY and tensors == [first]:
        return list(args)
    if target in _ELEMENTWISE and isinstance(result, Tensor):
        # A result larger than what goes in, at all steps at once, might not fit into memory.
        like = any(t.steps and _sizes(t.meta) == _sizes(result) for t in tensors) or result.dim() < 2
        return [Raised(a, result.dim() - a.meta.dim()) if isinstance(a, Known) else a for a in args] if like else None
    if target is aten.linear.default and first.steps and not any(t.steps for t in tensors[1:]):
        return list(args)
    if target in (aten.matmul.default, aten.mm.default):
        x, w = args
        if x.steps and not w.steps and w.meta.dim() == 2 and x.meta.dim() <= 2:
            return [x, w]
    if target is aten.embedding.default and not first.steps and args[1].steps:
        return list(args)
    if target is aten.layer_norm.default and first.steps and not any(t.steps for t in tensors[1:]):
        return list(args)
    if target in _BY_DIM and tensors == [first]:
        places = _BY_DIM[target]
        made = list(args)
        for place in places if isinstance(places, tuple) else (places,):
            made += [0] * (place + 1 - len(made))
            if made[place] is None or made[place] == []:
                return None
            made[place] = _later(made[place])
        return [made[0], [0, *made[1]]] if target is aten.permute.default else made
    return None


def has_steps(tree: PyTree) -> bool:
    """Whether a value in it goes over the steps."""
    return any(isinstance(leaf, Known) and leaf.steps for leaf in pytree.tree_leaves(tree))


def operator_over_steps(target: Target) -> Target:
    """The operator that takes one dimension more."""
    return aten.matmul.default if target is aten.mm.default else target


def _later(dim: PyTree) -> PyTree:
    if isinstance(dim, list | tuple):
        return [_later(d) for d in dim]
    return dim + 1 if dim >= 0 else dim


def _sizes(value: Tensor) -> list[str]:
    return [str(size) for size in value.shape]
