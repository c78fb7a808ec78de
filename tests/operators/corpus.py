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
    "ONNX Runtime's LSTM and GRU turn NaN and infinities of their input into numbers; RNN and Scan pass them on"
)
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
        if "GRU" in code or "LSTM" in code
    },
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
        # ONNX Runtime's recurrent operators end the process there; the runtime refuses an axis of no element.
        if label != "no step" or not any(word in code for code in codes for word in ("nn.GRU", "nn.LSTM", "nn.RNN"))
    ]
    if any(word in code for code in codes for word in ("size(1)", "scale_factor", "pool")):
        shown += [(f"{n} steps", [draw(name, "random", (2, n)) for name in names]) for n in LENGTHS]
    if names in (["x", "y"], ["x"]):
        count = len(SPECIAL)
        x = torch.tensor(SPECIAL).repeat_interleave(count).reshape(4, -1, WIDTH)
        y = torch.tensor(SPECIAL).repeat(count).reshape(4, -1, WIDTH)
        shown.append(("every pair", [x, y] if names == ["x", "y"] else [x * 1]))
    return shown


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
