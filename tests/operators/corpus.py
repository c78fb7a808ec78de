"""The operators of the sweep, as expressions, and the values that they are tried on.

An expression takes `x` and `y` (floats), `i` and `j` (whole numbers), `m` (booleans) and `k` (positions within the last
axis), each of axes batch, sequence and 4; or it is a layer of `nn`, which is called with `x`, its axes in the order
that the layer wants them in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LIMITS", "OPERATORS", "F", "arguments", "draw", "math", "nn", "values"]

ELEMENTWISE = """
torch.logaddexp(x, y)
torch.logaddexp2(x, y)
torch.atan2(x, y)
torch.remainder(x, y)
torch.fmod(x, y)
torch.floor_divide(x, y)
torch.div(x, y, rounding_mode='trunc')
torch.div(x, y, rounding_mode='floor')
x % 1.0
x // 0.5
x % -1.5
torch.fmod(x, 1.0)
x / y
x + y
x - y
x + 1e-8
x * 0.99999
x * 1.000001
1.0 / (x + 1e-9)
(x - 1e-8) / x.abs()
x * y
torch.add(x, y, alpha=2)
1.0 / x
2.0 - x
torch.reciprocal(x)
torch.pow(x, y)
x ** 2
x ** 3
x ** -1
x ** 0.5
x ** 0
2.0 ** x
x.square()
x.sqrt()
x.rsqrt()
torch.maximum(x, y)
torch.minimum(x, y)
torch.fmax(x, y)
torch.fmin(x, y)
torch.clamp(x, -1.0, 1.0)
torch.clamp(x, min=0.5)
torch.clamp(x, max=0.5)
torch.clamp(x, x, y)
torch.clamp(x, min=y)
torch.clamp_min(x, 0.25)
torch.clamp_max(x, 0.25)
x.exp()
x.exp2()
x.expm1()
x.log()
x.log2()
x.log10()
x.log1p()
x.sin()
x.cos()
x.tan()
x.asin()
x.acos()
x.atan()
x.sinh()
x.cosh()
x.tanh()
x.asinh()
x.acosh()
x.atanh()
x.sigmoid()
x.erf()
x.erfc()
x.erfinv()
x.abs()
x.neg()
x.sign()
x.sgn()
x.round()
x.round(decimals=2)
x.floor()
x.ceil()
x.trunc()
x.frac()
x.relu()
F.relu6(x)
F.silu(x)
F.gelu(x)
F.gelu(x, approximate='tanh')
F.elu(x)
F.selu(x)
F.celu(x, 0.5)
F.mish(x)
F.softplus(x)
F.softplus(x, beta=2.0)
F.softplus(x, beta=0.5, threshold=3.0)
F.logsigmoid(x)
F.hardtanh(x)
F.hardtanh(x, -0.5, 2.0)
F.hardsigmoid(x)
F.hardswish(x)
F.hardshrink(x)
F.softshrink(x)
F.tanhshrink(x)
F.softsign(x)
F.threshold(x, 0.1, -2.0)
F.leaky_relu(x, 0.1)
F.prelu(x, torch.tensor([0.25]))
torch.logit(x)
torch.logit(x, eps=1e-3)
torch.special.xlogy(x, y)
torch.xlogy(x, y)
torch.special.entr(x)
torch.sinc(x)
torch.hypot(x, y)
torch.copysign(x, y)
torch.heaviside(x, y)
torch.lerp(x, y, 0.3)
torch.lerp(x, y, 0.8)
torch.lerp(x, y, y)
torch.addcmul(x, x, y, value=0.5)
torch.addcdiv(x, x, y, value=0.5)
torch.nan_to_num(x)
torch.nan_to_num(x, nan=1.0, posinf=2.0, neginf=-2.0)
torch.isnan(x)
torch.isinf(x)
torch.isfinite(x)
torch.isclose(x, y)
torch.isclose(x, y, equal_nan=True)
torch.isposinf(x)
torch.isneginf(x)
torch.signbit(x)
torch.deg2rad(x)
torch.rad2deg(x)
x > y
x >= y
x < y
x <= y
x == y
x != y
x > 0
x == 0
torch.where(x > y, x, y)
torch.where(m, x, y)
torch.where(m, x, -math.inf)
x.masked_fill(m, -math.inf)
x.masked_fill(m, math.nan)
x.masked_fill(x != x, 0.0)
x.logical_not()
torch.logical_and(x, y)
torch.logical_xor(x, y)
x.bool()
x.double()
x.to(torch.int64).float() * 0 + x.clamp(-1e4, 1e4).nan_to_num().to(torch.int64)
x.half().float()
torch.zeros_like(x)
torch.full_like(x, 3.5)
F.glu(x)
i + j
i - j
i * j
-i
i.abs()
i.sign()
i // 7
i // -7
i % 7
i % -7
torch.fmod(i, 7)
torch.div(i, 7, rounding_mode='trunc')
torch.div(i, 7, rounding_mode='floor')
torch.div(i, j.abs() + 1, rounding_mode='floor')
torch.div(i, j.abs() + 1, rounding_mode='trunc')
torch.remainder(i, j.abs() + 1)
torch.remainder(i, -j.abs() - 1)
torch.fmod(i, -j.abs() - 1)
i // (j.abs() + 1)
i / 7
i / (j.abs() + 1)
i >> 2
i.clamp(-2, 2) << 2
i & 6
i | j
i ^ j
~i
i.clamp(-3, 9)
torch.maximum(i, j)
torch.minimum(i, j)
i.clamp(-9, 9) ** 2
i.float()
i.bool()
i == j
i > 3
torch.where(m, i, j)
i * 0.5
i + 0.5
torch.gcd(i, j)
torch.bitwise_and(m, i > 0)
m & (x > 0)
m | (x > 0)
m ^ (x > 0)
~m
m.float()
m.long()
m + x
m * i
torch.special.expit(x)
torch.special.log1p(x)
torch.special.erf(x)
torch.special.i0(x)
torch.special.log_ndtr(x)
torch.special.ndtr(x)
torch.digamma(x)
torch.lgamma(x)
torch.float_power(x, 2)
torch.true_divide(x, y)
torch.rsub(x, y)
torch.subtract(x, y, alpha=2)
torch.clip(x, -0.5, 0.5)
torch.clamp(x, max=y)
torch.clamp(i, min=j)
torch.where(x > 0, 1.0, 0.0)
torch.where(x > 0, x, 0.0)
torch.where(m, i, 0)
torch.nextafter(x, y)
torch.ldexp(x, i.clamp(-9, 9))
torch.frexp(x)[0]
torch.positive(x)
torch.logical_or(x, y)
torch.isin(i, torch.tensor([1, 2, 3]))
torch.isreal(x)
torch.absolute(x)
x.softmax(-1).log()
x.mul(y).add(1.0)
x.type_as(y)
x.int()
x.clamp(-100, 100).nan_to_num().to(torch.int32)
x.clamp(0, 100).nan_to_num().to(torch.uint8)
x.float().bfloat16().float()
x.ge(0).float()
x.gt(y).sum(-1)
x.sub(x.mean(1, keepdim=True)).div(x.std(1, keepdim=True) + 1e-5)
torch.ones_like(i)
torch.empty_like(x).fill_(2.0)
x.new_full((x.size(0), 3), 2.5)
torch.zeros(x.size(0), x.size(1), dtype=torch.long)
torch.bitwise_not(m)
torch.bitwise_or(m, x > 0)
torch.bitwise_left_shift(i.clamp(-9, 9), 2)
i.to(torch.int32) * 2
i.to(torch.int32) // 7
i.to(torch.int32) % -7
i.double() / 3
i.clamp(min=0)
i.square()
i.float().sqrt()
i.pow(3).clamp(-100, 100)
i.remainder(5)
i ** 2 % 7
i.eq(0) | m
F.rrelu(x)
F.logsigmoid(-x)
F.gumbel_softmax(x * 0, tau=1.0).shape[0] + x
F.alpha_dropout(x, 0.5, False)
torch.polar(x.abs(), y).real
torch.view_as_complex(x.unflatten(-1, (2, 2))).abs()
torch.complex(x, y).real
torch.angle(x)
torch.special.logit(x, eps=1e-6)
torch.special.exp2(x)
torch.nn.functional.normalize(x, dim=1, eps=1e-3)
"""

REDUCTIONS = """
x.sum()
x.sum(1)
x.sum((0, 2), keepdim=True)
x.mean()
x.mean(1)
x.mean((0, 1))
x.var(-1)
x.var(1)
x.var(1, unbiased=False)
x.var(1, correction=3)
x.var()
x.std(-1)
x.std(1)
x.std(1, unbiased=False)
x.std()
torch.var_mean(x, 1)
torch.std_mean(x, -1)
x.prod(1)
x.prod(-1)
x.amax(1)
x.amin(1)
x.amax((0, 2))
x.max()
x.min()
x.max(1)
x.max(-1)
x.min(1)
x.min(-1, keepdim=True)
torch.aminmax(x, dim=-1)
x.argmax(-1)
x.argmax(1)
x.argmin(-1)
x.argmin(1)
x.argmax()
x.logsumexp(1)
x.logsumexp(-1)
x.logsumexp((1, 2))
x.norm()
x.norm(dim=-1)
x.norm(p=1, dim=-1)
x.norm(p=math.inf, dim=-1)
x.norm(p=3, dim=1)
x.norm(p='fro', dim=(1, 2))
torch.linalg.vector_norm(x, dim=-1)
torch.linalg.vector_norm(x, ord=math.inf, dim=1)
torch.linalg.vector_norm(x, ord=-math.inf, dim=1)
torch.linalg.vector_norm(x, ord=0, dim=1)
torch.linalg.vector_norm(x, ord=1, dim=1)
torch.linalg.matrix_norm(x)
F.normalize(x, dim=-1)
F.normalize(x, p=1.0, dim=1)
F.cosine_similarity(x, y, dim=-1)
F.pairwise_distance(x, y)
torch.cdist(x, y)
torch.dist(x, y)
x.softmax(-1)
x.softmax(1)
x.log_softmax(-1)
x.log_softmax(1)
F.softmin(x, -1)
x.masked_fill(m, -math.inf).softmax(-1)
x.masked_fill(m, -math.inf).log_softmax(-1)
x.cumsum(1)
x.cumsum(-1)
x.cumprod(1)
x.cumprod(-1)
x.logcumsumexp(1)
x.logcumsumexp(-1)
x.logcumsumexp(0)
x.cummax(1)
x.cummin(1)
x.diff(dim=1)
x.median()
x.median(-1)
x.median(1)
x.nanmedian(-1)
x.nanmean(1)
x.nansum(1)
x.quantile(0.5, dim=-1)
x.quantile(0.3, dim=1)
x.kthvalue(2, dim=-1)
x.mode(-1)
x.sort(-1)
x.sort(-1, descending=True)
torch.sort(x, dim=-1, stable=True)
x.sort(1)
torch.sort(x, dim=1, descending=True, stable=True)
x.argsort(-1)
x.argsort(1)
x.topk(2)
x.topk(2, largest=False)
x.topk(1, dim=1)
x.topk(3, sorted=True).values
x.any()
x.any(1)
x.all()
x.all(-1)
m.any(1)
m.all(1)
m.sum(1)
m.sum()
m.cumsum(1)
m.float().mean(1)
m.long().argmax(1)
m.max(1)
i.sum(1)
i.sum()
i.prod(-1)
i.max()
i.max(1)
i.min(-1)
i.argmax(1)
i.argmin(-1)
i.cumsum(1)
i.cumprod(-1)
i.sort(-1)
i.sort(1, descending=True)
torch.argsort(i, dim=1, stable=True)
i.topk(2)
i.cummax(1)
i.float().mean(1)
i.median(-1)
torch.count_nonzero(x, 1)
x[m].sum()
x[m].mean()
x[m].var()
x[m].std()
x[m]
x[:, 1:].mean(1)
x[:, 1:].sum(1)
x[:, 1:].var(1)
x[:, 1:].std(1)
x[:, 1:].prod(1)
x[:, 1:].logsumexp(1)
x[:, 1:].cumsum(1)
x[:, 1:].logcumsumexp(1)
x[:, 1:].softmax(1)
x[:, 1:].norm(dim=1)
x[:, 1:].mean()
x[:, 1:].any(1)
x[:, 1:].all(1)
(x * m).sum(1) / m.sum(1)
torch.masked_select(x, m)
torch.nonzero(m)
torch.trace(x[:, 0] @ x[:, 0].mT)
F.mse_loss(x, y)
F.l1_loss(x, y, reduction='none')
F.smooth_l1_loss(x, y, reduction='none')
F.huber_loss(x, y, reduction='none')
F.kl_div(x, y, reduction='none')
F.binary_cross_entropy_with_logits(x, m.float(), reduction='none')
F.cross_entropy(x.flatten(0, 1), k[..., 0].flatten(), reduction='none')
F.nll_loss(x.flatten(0, 1), k[..., 0].flatten(), reduction='none')
F.cross_entropy(x.flatten(0, 1), k[..., 0].flatten(), weight=torch.tensor([1.0, 0.5, 2.0, 1.5]))
F.cross_entropy(x.flatten(0, 1), k[..., 0].flatten(), ignore_index=2, label_smoothing=0.1)
F.cross_entropy(x.mT, k[..., 0], reduction='none')
F.nll_loss(x.flatten(0, 1), k[..., 0].flatten(), ignore_index=1, reduction='sum')
F.binary_cross_entropy(x.sigmoid(), m.float(), reduction='none')
F.gaussian_nll_loss(x, y, y.abs() + 1, reduction='none')
F.poisson_nll_loss(x, y, reduction='none')
F.hinge_embedding_loss(x, m.float() * 2 - 1, reduction='none')
F.margin_ranking_loss(x, y, m.float() * 2 - 1, reduction='none')
F.triplet_margin_loss(x[:, 0], y[:, 0], x[:, -1], reduction='none')
F.cosine_embedding_loss(x[:, 0], y[:, 0], m[:, 0, 0].float() * 2 - 1, reduction='none')
F.smooth_l1_loss(x, y, beta=0.5)
F.huber_loss(x, y, delta=2.0)
x.sum(-1, dtype=torch.float64)
x.mean(-1, keepdim=True)
x.mean((1, 2), keepdim=True)
x.amax(-1, keepdim=True)
x.amin((1, 2))
x.max(1, keepdim=True).values
x.max(1).indices
x.argmax(1, keepdim=True)
x.var((0, 1), unbiased=False)
x.std((1, 2))
x.all(1)
x.norm(p=0, dim=1)
x.norm(p=0.5, dim=1)
x.norm(p=4, dim=-1, keepdim=True)
x.norm(p=-math.inf, dim=1)
torch.linalg.norm(x, dim=-1)
torch.linalg.vector_norm(x, dim=(1, 2))
torch.linalg.vector_norm(x, ord=3, dim=-1)
F.normalize(x, p=3.0, dim=1)
F.normalize(x, p=math.inf, dim=1)
F.pairwise_distance(x, y, p=1.0)
F.cosine_similarity(x[:, :, None], y[:, None], dim=-1)
x.renorm(2, 1, 1.0)
x.logsumexp(1, keepdim=True)
x.softmax(0)
x.float().softmax(-1, dtype=torch.float64)
F.softmax(x / 0.1, -1)
F.gumbel_softmax(x, hard=False).sum(-1).round()
x.cumsum(0)
x.flip(1).cumsum(1).flip(1)
torch.cumulative_trapezoid(x, dim=1)
torch.trapezoid(x, dim=1)
x.cumsum(1) / torch.arange(1, x.size(1) + 1)[:, None]
x.exp().cumsum(1).log()
x.diff(n=2, dim=1)
x.diff(dim=1, prepend=x[:, :1])
x.quantile(torch.tensor([0.25, 0.75]), dim=-1)
x.nanquantile(0.5, dim=-1)
x.msort()
x.unique()
torch.unique_consecutive(i[0, :, 0])
torch.histc(x.clamp(-1, 1).nan_to_num(), 5)
torch.bincount(k.flatten(), minlength=4)
torch.argwhere(m)
torch.count_nonzero(m)
torch.cov(x[0])
torch.corrcoef(x[0])
i.amax(1)
i.amin((1, 2))
i.any(1)
i.all(1)
i.float().std(1)
i.to(torch.int32).sum(1)
i.to(torch.int32).cumsum(1)
i.unique()
m.any()
m.all()
m.sum(-1, keepdim=True)
m.float().cumsum(1)
m.long().cumsum(1).clamp(max=3)
m.float().argmax(1)
m.int().prod(1)
m.to(torch.int64).min(1)
(x * m).amax(1)
x.masked_fill(~m, -math.inf).amax(1)
x.masked_fill(~m, 0.0).sum(1) / m.sum(1).clamp(min=1)
x.masked_fill(~m, -1e9).softmax(1)
x.masked_fill(m, -math.inf).logsumexp(1)
x.masked_fill(m, -math.inf).max(1)
"""

PRODUCTS = """
x @ y.mT
torch.bmm(x, y.mT)
torch.einsum('bti,bsi->bts', x, y)
torch.einsum('bti,btj->bij', x, y)
F.linear(x, torch.arange(12.0).reshape(3, 4) / 7)
torch.baddbmm(x @ y.mT, x, y.mT, beta=0.5, alpha=2.0)
torch.outer(x[0, :, 0], y[0, :, 0])
torch.dot(x[0, :, 0], y[0, :, 0])
torch.cross(x[..., :3], y[..., :3], dim=-1)
torch.linalg.cross(x[..., 1:], y[..., 1:])
torch.tensordot(x, y, dims=([2], [2]))
torch.kron(x[0], y[0])
F.scaled_dot_product_attention(x, y, x)
F.scaled_dot_product_attention(x[:, None], y[:, None], x[:, None])
F.scaled_dot_product_attention(x[:, None], y[:, None], x[:, None], is_causal=True)
F.scaled_dot_product_attention(x[:, None], y[:, None], x[:, None], attn_mask=(m[:, :, :1] & m[:, :, 1:2].mT)[:, None])
F.scaled_dot_product_attention(x[:, None], y[:, None], x[:, None], attn_mask=(x @ y.mT)[:, None])
F.scaled_dot_product_attention(x, y, x, attn_mask=m[..., :1] & m[..., 1:2].mT)
F.scaled_dot_product_attention(x, y, x, attn_mask=(x @ y.mT).masked_fill(m[..., :1], -math.inf))
F.scaled_dot_product_attention(x, y, x, is_causal=True, scale=0.3)
F.scaled_dot_product_attention(x[:, None], y[:, None, ::2], x[:, None, ::2], is_causal=True)
torch.inner(x[0], y[0])
torch.addmm(x[0] @ y[0].mT, x[0], y[0].mT, beta=0.5, alpha=2.0)
torch.addmv(x[0, :, 0], x[0], y[0, 0], beta=0.5)
torch.mv(x[0], y[0, 0])
torch.einsum('bti,i->bt', x, torch.arange(4.0))
torch.einsum('bti,bti->b', x, y)
torch.einsum('...i,ij->...j', x, torch.arange(8.0).reshape(4, 2))
torch.linalg.multi_dot([x[0], y[0].mT, x[0]])
torch.vecdot(x, y)
F.bilinear(x, y, torch.arange(32.0).reshape(2, 4, 4) / 9)
x.matmul(torch.arange(4.0))
torch.chain_matmul(x[0], y[0].mT)
"""

PLACES = """
torch.gather(x, -1, k)
torch.gather(x, 1, k[:, :1] * 0)
torch.take_along_dim(x, k, dim=-1)
x.scatter(-1, k, y)
x.scatter(-1, k, 2.5)
torch.zeros_like(x).scatter(-1, k[..., :1], 1.0)
x.scatter_add(-1, k, y)
x.scatter_reduce(-1, k, y, reduce='amax')
x.scatter_reduce(-1, k, y, reduce='sum', include_self=False)
x.index_select(-1, k[0, 0])
x.index_add(-1, k[0, 0], y)
x.index_copy(-1, torch.tensor([2, 0]), y[..., :2])
x.index_fill(-1, torch.tensor([2, 0]), 7.0)
x[..., k[0, 0]]
x[..., [-1, 0, -2]]
x[:, [-1, 0]]
x[:, -1]
x[:, -3:]
x[:, :-2]
x[:, ::2]
x[:, 1::3]
x.flip(1)
x.flip((1, 2))
x.roll(1, 1)
x.roll(-2, 1)
x.roll((1, 3), (1, 2))
x.roll(5)
F.one_hot(k, 4)
F.one_hot(k, 6)
F.embedding(k, torch.arange(12.0).reshape(4, 3))
torch.searchsorted(torch.tensor([-1.0, 0.0, 0.0, 0.5, 2.0]), x)
torch.searchsorted(torch.tensor([-1.0, 0.0, 0.0, 0.5, 2.0]), x, right=True)
torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.0, 0.5, 2.0]))
torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.0, 0.5, 2.0]), right=True)
torch.bucketize(i, torch.tensor([-3, 0, 5]))
x.tril()
x.triu(1)
torch.tril(x @ y.mT, -1)
torch.triu(x @ y.mT, 1)
torch.ones(x.size(1), x.size(1)).triu(1)
torch.diagonal(x, dim1=1, dim2=2)
torch.diag_embed(x)
x.unfold(1, 3, 1)
x.unfold(1, 3, 2)
x.unfold(-1, 2, 1)
F.unfold(x.unsqueeze(1), (2, 2))
F.pad(x, (1, 2))
F.pad(x, (0, 0, 2, 1), value=-1.5)
F.pad(x, (0, 0, -1, 2))
F.pad(x, (0, 0, 2, 0), value=-math.inf)
F.pad(x, (1, 2), mode='reflect')
F.pad(x, (1, 2), mode='replicate')
F.pad(x, (1, 2), mode='circular')
F.pad(x.mT, (2, 1), mode='reflect')
F.pad(x.mT, (2, 1), mode='replicate')
F.pad(x.mT, (2, 1), mode='circular')
torch.cat([x, y], 1)
torch.cat([x, x[:, :0]], 1)
torch.stack([x, y], 1)
x.repeat(1, 2, 1)
x.repeat_interleave(2, 1)
x.expand(2, -1, -1, -1)
torch.tile(x, (2, 1))
x.chunk(2, -1)
x.split([1, 3], -1)
x.unbind(-1)
x.movedim(1, 0)
x.flatten(1)
x.reshape(x.size(0), -1, 2)
x.unflatten(-1, (2, 2))
torch.meshgrid(x[0, :, 0], y[0, :, 1], indexing='ij')
torch.arange(x.size(1)) * x[..., 0]
torch.arange(x.size(1), 0, -1) * x[..., 0]
torch.arange(0, x.size(1) * 0.1, 0.1)
torch.arange(0, x.size(1) * 3, 3)
torch.arange(0.0, x.size(1)) * 0.1
torch.arange(x.size(1), dtype=torch.float32)
torch.linspace(0, 1, x.size(1))
torch.linspace(-2, 5, x.size(1)) + x[..., 0]
torch.logspace(0, 1, x.size(1))
torch.eye(x.size(1))
torch.full((x.size(1),), 0.1) * x[..., 0]
torch.tensor(x.size(1)) * x
x * x.size(1)
x / x.size(1)
x / x.size(1) ** 0.5
x * (1 / x.size(1))
x * math.sqrt(x.size(1))
x * math.log(x.size(1))
x[:, : int(x.size(1) * 0.7)]
x[:, : int(x.size(1) * 0.29)]
x[:, int(0.1 * x.size(1)) :]
x[:, : int(x.size(1) / 3 * 2)]
x[:, : int(x.size(1) * 2 / 3)]
x[:, : x.size(1) * 2 // 3]
x[:, : -(-x.size(1) // 4)]
F.pad(x, (0, 0, 0, -x.size(1) % 4))
x[:, : round(x.size(1) * 0.5)]
x[:, : round(x.size(1) / 4)]
x[:, : math.ceil(x.size(1) * 0.35)]
x[:, : math.floor(x.size(1) * 0.57)]
x[:, : math.ceil(x.size(1) / 10)]
x[:, : max(1, int(x.size(1) * 0.58))]
x[:, : min(4, int(x.size(1) * 0.58))]
x[:, : int(x.size(1) ** 0.5)]
x[:, : int(math.sqrt(x.size(1)))]
x[:, : int(x.size(1) // 1.5)]
x[:, : int(x.size(1) % 2.5)]
x[:, : int(x.size(1) * (1 - 0.42))]
x[:, : int(x.size(1) * 0.7 + 0.5)]
x[:, : x.size(1) - int(x.size(1) * 0.07)]
x.new_zeros(x.size(0), int(x.size(1) * 1.1)).sum() + x
torch.zeros(x.size(0), x.size(1) + 1)
x.view(-1, 4)
x.scatter_reduce(-1, k, y, reduce='amin')
x.scatter_reduce(-1, k, y, reduce='prod')
x.scatter_reduce(-1, k, y, reduce='mean')
x.scatter_reduce(-1, k, y, reduce='amax', include_self=False)
x.index_put((k[0, 0],), y[: 4, :, :] * 0, accumulate=False).shape[0] + x
x.masked_scatter(m, y)
x.select_scatter(y[:, 0], 1, 0)
x.slice_scatter(y[:, :1], 1, 0, 1)
x.narrow(1, 0, 1)
x.swapaxes(1, 2)
x.permute(2, 0, 1)
x.squeeze(1)
x[:, None].squeeze(1)
x.unsqueeze(-1)
x.ravel()
x.broadcast_to(2, -1, -1, -1)
x.expand_as(y)
x.view_as(y)
x.rot90(1, (1, 2))
x.fliplr()
torch.hstack([x, y])
torch.vstack([x, y])
torch.dstack([x, y])
torch.column_stack([x[0], y[0]])
torch.atleast_3d(x)
torch.block_diag(x[0], y[0])
torch.cartesian_prod(x[0, :, 0], y[0, :, 0])
torch.combinations(x[0, :, 0])
torch.vander(x[0, :, 0], 3)
torch.tensor_split(x, 2, dim=-1)
torch.take(x, k)
torch.repeat_interleave(x, torch.tensor([1, 2, 0, 1]), dim=-1)
torch.tril_indices(x.size(1), x.size(1))
torch.tril(torch.ones(x.size(1), x.size(1), dtype=torch.bool))
torch.arange(x.size(1)).flip(0)[None, :, None] * x
torch.arange(x.size(1))[None, :] < k[:, 0, :1]
torch.arange(0.5, x.size(1) + 0.5) / x.size(1)
F.embedding(k, torch.arange(12.0).reshape(4, 3), padding_idx=0)
F.embedding_bag(k[:, 0], torch.arange(12.0).reshape(4, 3), mode='mean')
x[torch.arange(x.size(0)), k[:, 0, 0] * 0]
x[k[:, 0, 0] * 0]
x[:, -1:]
x[..., 1:-1]
x[:, :, [True, False, True, True]]
x.mT.contiguous().view(x.size(0), 2, -1)
x[:, torch.randperm(1)]
x.index_select(1, torch.zeros(3, dtype=torch.long))
x * (x.size(1) - 1)
x / max(1, x.size(1) - 1)
x * divmod(x.size(1), 4)[1]
x * math.isqrt(x.size(1))
x.cumsum(1)[:, ::2]
"""

SIGNALS = """
F.interpolate(x.mT, size=(x.size(1) * 2) // 3, mode='nearest')
F.interpolate(x.mT, size=(x.size(1) * 2) // 3, mode='nearest-exact')
F.interpolate(x.mT, size=(x.size(1) * 2) // 3, mode='linear')
F.interpolate(x.mT, size=(x.size(1) * 2) // 3, mode='linear', align_corners=True)
F.interpolate(x.mT, size=7, mode='nearest')
F.interpolate(x.mT, size=7, mode='linear')
F.interpolate(x.mT, size=1, mode='linear', align_corners=True)
F.interpolate(x.mT, scale_factor=1.5, mode='nearest')
F.interpolate(x.mT, scale_factor=0.3, mode='nearest')
F.interpolate(x.mT, scale_factor=1.5, mode='linear')
F.interpolate(x.mT, scale_factor=0.7, mode='linear')
F.interpolate(x.mT, scale_factor=2, mode='linear', align_corners=True)
F.interpolate(x.mT, scale_factor=1.7, mode='linear', recompute_scale_factor=True)
F.interpolate(x.mT, scale_factor=0.6, mode='nearest', recompute_scale_factor=True)
F.interpolate(x.mT, size=(x.size(1) * 2) // 3, mode='area')
F.interpolate(x[:, None], size=(x.size(1) * 2 // 3, 5), mode='nearest')
F.interpolate(x[:, None], size=(x.size(1) * 2 // 3, 5), mode='bilinear')
F.interpolate(x[:, None], size=(x.size(1) * 2 // 3, 5), mode='bilinear', align_corners=True)
F.interpolate(x[:, None], scale_factor=(1.5, 2.0), mode='bilinear')
F.interpolate(x[:, None], size=(x.size(1) * 2 // 3, 5), mode='bicubic')
F.interpolate(x[:, None], size=(x.size(1) + 3, 5), mode='bicubic', align_corners=True)
F.interpolate(x[:, None], size=(3, 3), mode='bilinear', antialias=True)
F.interpolate(x[:, None, None], scale_factor=(1.0, 1.5, 2.0), mode='trilinear')
F.interpolate(x[:, None, None], size=(2, 5, 3), mode='nearest')
F.avg_pool1d(x.mT, 3, 2)
F.avg_pool1d(x.mT, 3, 2, ceil_mode=True)
F.avg_pool1d(x.mT, 4, 4, padding=1, ceil_mode=True)
F.avg_pool1d(x.mT, 4, 3, padding=2, ceil_mode=True, count_include_pad=False)
F.avg_pool2d(x[:, None], (3, 2), (2, 1), ceil_mode=True)
F.avg_pool2d(x[:, None], 2, divisor_override=3)
F.max_pool1d(x.mT, 3, 2)
F.max_pool1d(x.mT, 3, 2, ceil_mode=True)
F.max_pool1d(x.mT, 5, 3, padding=2, ceil_mode=True)
F.max_pool1d(x.mT, 3, 1, padding=1, dilation=1)
F.max_pool1d(x.mT, 2, 2, dilation=2)
F.max_pool1d(x.mT, 3, 2, return_indices=True)
F.max_pool2d(x[:, None], (3, 2), (2, 1), ceil_mode=True)
F.lp_pool1d(x.mT, 2, 3)
F.adaptive_avg_pool1d(x.mT, 1)
F.adaptive_avg_pool1d(x.mT, 3)
F.adaptive_max_pool1d(x.mT, 1)
F.adaptive_max_pool1d(x.mT, 3)
F.adaptive_avg_pool2d(x[:, None], (1, 2))
F.adaptive_avg_pool2d(x[:, None], (3, None))
F.adaptive_avg_pool2d(x[:, None], 1)
F.adaptive_avg_pool3d(x[:, None, None], (1, 3, 2))
F.avg_pool2d(x[:, None], (3, 2), (2, 1), padding=1, divisor_override=5)
F.avg_pool2d(x[:, None], (3, 2), (2, 1), ceil_mode=True, divisor_override=5)
F.avg_pool2d(x[:, None], 2, padding=1, count_include_pad=False)
F.conv1d(x.mT, torch.arange(24.0).reshape(2, 4, 3) / 9, padding=1)
F.conv1d(x.mT, torch.arange(24.0).reshape(2, 4, 3) / 9, stride=2, dilation=2)
F.conv1d(x.mT, torch.arange(8.0).reshape(4, 1, 2) / 9, groups=4, padding='same')
F.conv2d(x[:, None], torch.arange(12.0).reshape(2, 1, 3, 2) / 9)
F.conv_transpose1d(x.mT, torch.arange(24.0).reshape(4, 2, 3) / 9, stride=2, output_padding=1)
F.pixel_shuffle(x.reshape(x.size(0), 4, -1, 1), 2)
torch.stft(x[..., 0], 4, 2, window=torch.ones(4), return_complex=False, center=False)
torch.fft.rfft(x, dim=-1).abs()
torch.fft.fft(x, dim=-1).real
F.grid_sample(x[:, None], y[:, :, None, :2], align_corners=False)
F.dropout(x, 0.5, training=False)
F.avg_pool1d(x.mT, 2)
F.max_pool2d(x[:, None], 2, padding=1)
F.lp_pool2d(x[:, None], 2, 2)
F.adaptive_max_pool2d(x[:, None], (1, 2))
F.adaptive_avg_pool1d(x.mT, 7)
F.conv3d(x[:, None, None], torch.arange(4.0).reshape(1, 1, 1, 2, 2) / 9)
F.conv1d(x.mT, torch.arange(8.0).reshape(4, 1, 2) / 9, groups=4, padding=1, dilation=2)
F.conv_transpose1d(x.mT, torch.arange(16.0).reshape(4, 2, 2) / 9, stride=2, padding=1)
F.conv_transpose2d(x[:, None], torch.arange(8.0).reshape(1, 2, 2, 2) / 9, stride=2)
F.pixel_unshuffle(x[:, None], 2)
F.channel_shuffle(x.mT, 2)
F.fold(F.unfold(x[:, None], (1, 2)), (x.size(1), 4), (1, 2))
F.upsample(x.mT, scale_factor=2)
torch.fft.irfft(torch.fft.rfft(x, dim=-1), n=4, dim=-1)
torch.fft.rfft(x, dim=1).abs()
torch.hann_window(4) * x
torch.hamming_window(4, periodic=False) * x
F.layer_norm(x, (4,))
F.group_norm(x.mT, 2)
F.instance_norm(x.mT)
F.batch_norm(x.mT, torch.zeros(4), torch.ones(4))
F.rms_norm(x, (4,))
F.local_response_norm(x.mT, 2)
"""

LAYERS = """
nn.LayerNorm(4)
nn.LayerNorm(4, elementwise_affine=False)
nn.LayerNorm(4, eps=1e-12)
nn.RMSNorm(4)
nn.GroupNorm(2, 4)
nn.GroupNorm(4, 4)
nn.InstanceNorm1d(4)
nn.InstanceNorm1d(4, affine=True)
nn.BatchNorm1d(4)
nn.LocalResponseNorm(2)
nn.Linear(4, 3)
nn.Conv1d(4, 3, 3, padding=1)
nn.PReLU(4)
nn.MultiheadAttention(4, 2, batch_first=True)
nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
nn.GRU(4, 3, batch_first=True)
nn.LSTM(4, 3, batch_first=True)
nn.RNN(4, 3, batch_first=True)
nn.RNN(4, 3, nonlinearity='relu', batch_first=True)
nn.LSTM(4, 4, proj_size=2, batch_first=True)
nn.GRU(4, 3, batch_first=True, bidirectional=True)
nn.LayerNorm(4, bias=False)
nn.BatchNorm1d(4, affine=False)
nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=2)
nn.ConvTranspose1d(4, 3, 3, stride=2)
nn.Conv1d(4, 3, 4, padding='same')
nn.Conv1d(4, 3, 3, padding=1, padding_mode='reflect')
nn.Conv1d(4, 3, 3, padding=1, padding_mode='circular')
nn.GLU()
nn.Softmax(-1)
nn.Hardtanh()
nn.Threshold(0.1, 20.0)
nn.Identity()
nn.Flatten()
nn.Dropout(0.5)
nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)
nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True, activation='gelu')
nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)
nn.GRU(4, 3, batch_first=True, bias=False)
"""

CHANNELS_FIRST = ("GroupNorm", "InstanceNorm", "BatchNorm", "LocalResponse", "Conv", "PReLU")

GROUPS = {
    "elementwise": ELEMENTWISE,
    "reductions": REDUCTIONS,
    "products": PRODUCTS,
    "places and sizes": PLACES,
    "signals": SIGNALS,
    "layers": LAYERS,
}
OPERATORS: list[tuple[str, str]] = [
    (group, code) for group, text in GROUPS.items() for code in text.strip().splitlines()
]

_TIES = "which of equal values comes first is not defined in PyTorch either; the values are right"
_RECURRENT = (
    "ONNX Runtime's LSTM, GRU and RNN with relu turn NaN and infinities of their input into numbers; RNN with tanh and "
    "Scan pass them on"
)
_OVERFLOWS = "sums of terms beyond float32's largest number are infinite or NaN, as the order of the terms is"
_WRAPS = "whole numbers beyond int64's largest wrap round in PyTorch and stay the largest in ONNX Runtime"
_ATTENDED = "where scores are NaN or overflow, PyTorch's kernel for the CPU gives zeros"
_SPECTRA = (
    "a transform sums every term, in an order of its own: NaN and infinities get to other places, large ones lose more"
)
_SQUARED = "the size of a complex number is infinite from 1e19 on, since its parts are squared"
_SAMPLED = "which of the corners count at infinite or huge positions is not the same"
_POOLED = "ONNX Runtime passes over NaN; PyTorch gives it"
_TOGETHER = "of rows with infinities PyTorch gives NaN or the infinity, as its vectors happen to be filled"

LIMITS: dict[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(("x.topk(2)", "x.topk(2, largest=False)", "x.topk(1, dim=1)", "i.topk(2)"), (("*",), _TIES)),
    **dict.fromkeys(("x.sort(1)", "x.argsort(1)", "i.sort(1, descending=True)", "i.sort(-1)"), (("*",), _TIES)),
    **dict.fromkeys(
        ("torch.var_mean(x, 1)", "torch.std_mean(x, -1)"), (("+inf", "-inf", "rows of -inf", "every pair"), _TOGETHER)
    ),
    **{
        code: (("NaN", "+inf", "-inf", "rows of -inf", "every pair"), _RECURRENT)
        for code in LAYERS.strip().splitlines()
        if "GRU" in code or "LSTM" in code or "relu" in code
    },
    **{
        code: (("1e30", "every pair"), _OVERFLOWS)
        for code in (*PRODUCTS.strip().splitlines(), *PLACES.strip().splitlines())
        if "x @ y" in code or code.startswith(("torch.bmm", "torch.einsum", "torch.cross", "torch.linalg.cross"))
    },
    **{
        code: (("1e30", "+inf", "-inf", "NaN", "every pair"), _ATTENDED)
        for code in PRODUCTS.strip().splitlines()
        if code.startswith("F.scaled_dot_product_attention")
    },
    **{
        code: (("1e30", "+inf", "-inf", "rows of -inf", "NaN", "every pair"), _SPECTRA)
        for code in SIGNALS.strip().splitlines()
        if code.startswith(("torch.fft", "torch.stft"))
    },
    **{
        code: (("1e30", "+inf", "-inf", "rows of -inf", "NaN", "every pair"), _SAMPLED)
        for code in SIGNALS.strip().splitlines()
        if code.startswith("F.grid_sample")
    },
    "torch.view_as_complex(x.unflatten(-1, (2, 2))).abs()": (("1e30", "every pair"), _SQUARED),
    "i.prod(-1)": (("1e30",), _WRAPS),
    **{
        code: (("NaN", "every pair"), _POOLED)
        for code in SIGNALS.strip().splitlines()
        if code.startswith(("F.max_pool", "F.adaptive_max_pool"))
    },
    "x.scatter_reduce(-1, k, y, reduce='amax')": (("NaN",), _POOLED),
}
"""What is known to differ: on which inputs ("*" is any, in numbers alone), and why. Anything else is wrong."""

WIDTH = 4
LENGTHS = (1, 2, 3, 4, 5, 7, 10, 16, 30, 33, 50, 90, 100, 170, 180, 300, 500, 999, 1000)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 2.0, -2.0, 3.0, -3.0, 7.25, -20.5, 21.0, 100.0]
SPECIAL += [-100.0, 1e-8, -1e-8, 1e-40, -1e-40, 1e4, -1e4, 1e30, -1e30, math.inf, -math.inf, math.nan, math.pi, 0.1]


def arguments(code: str) -> list[str]:
    """The inputs that an expression takes, in order."""
    return ["x"] if code.startswith("nn.") else [name for name in "xyijmk" if re.search(rf"\b{name}\b", code)]


def values(codes: Sequence[str]) -> list[tuple[str, list[Tensor]]]:
    """The inputs that expressions of the same arguments are tried on, by what they show."""
    names = arguments(codes[0])
    shown = [
        (label, [draw(name, label, shape) for name in names])
        for label, shape in _SHAPES.items()
        # These operators of ONNX Runtime end the process there; the runtime refuses an axis of no element.
        if label != "no step" or not any(word in code for code in codes for word in _DIE_OF_NOTHING)
    ]
    if any(word in code for code in codes for word in ("size(1)", "scale_factor", "pool")):
        shown += [(f"{n} steps", [draw(name, "random", (2, n)) for name in names]) for n in LENGTHS]
    if names in (["x", "y"], ["x"]):
        count = len(SPECIAL)
        x = torch.tensor(SPECIAL).repeat_interleave(count).reshape(4, -1, WIDTH)
        y = torch.tensor(SPECIAL).repeat(count).reshape(4, -1, WIDTH)
        shown.append(("every pair", [x, y] if names == ["x", "y"] else [x * 1]))
    return shown


_DIE_OF_NOTHING = ("nn.GRU", "nn.LSTM", "nn.RNN", "nn.GroupNorm", "F.group_norm")

_SHAPES = {
    "random": (3, 5),
    "zeros": (2, 4),
    "signed zeros": (2, 6),
    "ties": (3, 9),
    "equal": (2, 6),
    "negative": (2, 5),
    "denormal": (2, 5),
    "1e-8": (2, 5),
    "1e4": (2, 6),
    "1e30": (2, 6),
    "offset 1e4": (2, 8),
    "+inf": (2, 6),
    "-inf": (2, 6),
    "rows of -inf": (2, 6),
    "NaN": (2, 6),
    "500 steps": (1, 500),
    "one step": (2, 1),
    "one row": (1, 1),
    "no step": (2, 0),
}


def draw(name: str, label: str, shape: tuple[int, int], large: float = 1e30) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name + label)))
    size = (*shape, WIDTH)
    if name == "m":
        some = torch.rand(size, generator=generator) > 0.4
        return {"zeros": torch.zeros_like(some), "equal": torch.ones_like(some)}.get(label, some)
    if name == "k":
        return torch.randint(0, WIDTH, size, generator=generator)
    x = torch.randn(size, generator=generator)
    if name in "ij":
        whole = (x * 20).long()
        kinds = {"zeros": whole * 0, "negative": -whole.abs() - 1, "ties": whole % 3, "1e30": whole * 2**33}
        return kinds.get(label, whole)
    hit = torch.rand(size, generator=generator) < 0.2
    rows = torch.arange(shape[1])[None, :, None] % 2 == 0
    kinds = {
        "zeros": x * 0,
        "signed zeros": torch.copysign(torch.zeros(()), x),
        "ties": (x * 2).round() / 2,
        "equal": torch.full(size, 0.75),
        "negative": -x.abs() - 0.01,
        "denormal": x * 1e-40,
        "1e-8": x * 1e-8,
        "1e4": x * 1e4,
        "1e30": x * large,
        "offset 1e4": x + 1e4,
        "+inf": torch.where(hit, math.inf, x),
        "-inf": torch.where(hit, -math.inf, x),
        "rows of -inf": torch.where(rows, -math.inf, x),
        "NaN": torch.where(hit, math.nan, x),
    }
    return kinds.get(label, x)
