"""One operator over the sequence, the common and the less common."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .feature import Feature
from .source import Source

SAME = (
    "F.logsigmoid(x)",
    "F.softplus(x, beta=2.0)",
    "F.gelu(x)",
    "F.hardswish(x)",
    "F.mish(x)",
    "F.elu(x)",
    "F.softsign(x)",
    "F.tanhshrink(x)",
    "F.normalize(x, dim=-1)",
    "F.layer_norm(x, x.shape[-1:])",
    "torch.softmax(x, 1)",
    "torch.log_softmax(x, -1)",
    "x - torch.logsumexp(x, 1, keepdim=True)",
    "torch.logaddexp(x, torch.zeros_like(x))",
    "torch.logcumsumexp(x, 1)",
    "torch.atan2(x, x.flip(-1))",
    "torch.hypot(x, torch.ones_like(x))",
    "torch.cumsum(x, 1)",
    "torch.cumprod(torch.sigmoid(x), 1)",
    "torch.cummax(x, 1).values",
    "torch.cummin(x, 1)[0]",
    "torch.diff(x, dim=1, prepend=x[:, :1])",
    "torch.sort(x, dim=1).values",
    "torch.roll(x, 1, dims=1)",
    "torch.roll(x, (1, 1), dims=(0, 1))",
    "torch.flip(x, (1,))",
    "x.clamp(-1.0, 1.0)",
    "torch.where(x > 0, x, x.exp())",
    "torch.nan_to_num(x, nan=0.0, posinf=1e4, neginf=-1e4)",
    "x.erf()",
    "torch.expm1(-x.abs())",
    "torch.log1p(x.abs())",
    "torch.sinc(x)",
    "x.abs().sqrt().copysign(x)",
    "x.abs().pow(0.3)",
    "x - x.amax(1, keepdim=True)",
    "x / (x.std(1, keepdim=True, unbiased=False) + 1.0)",
    "x - x.median(1, keepdim=True).values",
    "x + x.var(-1, keepdim=True)",
    "x * torch.tril(torch.ones(x.size(1), x.size(1))).mean(0)[:, None]",
    "torch.tril(torch.ones(x.size(1), x.size(1))) @ x / x.size(1)",
    "torch.einsum('btf,bsf->bts', x, x).softmax(-1) @ x",
    "x.lerp(x.roll(1, 1), 0.3)",
    "torch.addcmul(x, x, x, value=0.1)",
    "x + torch.linspace(0.0, 1.0, x.size(1))[:, None]",
    "x * (torch.arange(x.size(1)) / x.size(1)).unsqueeze(-1)",
    "x.repeat_interleave(2, 1)[:, ::2]",
    "torch.stack([x, -x], 2).flatten(1, 2)[:, ::2]",
    "x.gather(1, torch.arange(x.size(1)).flip(0)[None, :, None].expand_as(x))",
    "x.index_select(1, torch.arange(x.size(1)).flip(0))",
    "F.max_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)",
    "F.avg_pool1d(x.transpose(1, 2), 3, 1, 1, count_include_pad=False).transpose(1, 2)",
    "F.pad(x.transpose(1, 2), (2, 0), mode='replicate').transpose(1, 2)[:, : x.size(1)]",
    "x + F.interpolate(x.transpose(1, 2)[..., ::2], size=x.size(1)).transpose(1, 2)",
    "x + F.adaptive_avg_pool1d(x.transpose(1, 2), 1).transpose(1, 2)",
    "torch.cov(x.flatten(0, 1).T).diag() * x",
    "x.unflatten(-1, (1, -1)).squeeze(2)",
    "torch.baddbmm(x, x, torch.eye(x.size(2)).expand(x.size(0), -1, -1), beta=0.5)",
)
"""They leave the shape of `x` alone."""
OTHER = (
    "F.interpolate(x.transpose(1, 2), scale_factor=2.0, mode='linear').transpose(1, 2)",
    "F.interpolate(x.transpose(1, 2), size=2 * x.size(1) // 3, mode='nearest').transpose(1, 2)",
    "F.interpolate(x.transpose(1, 2), scale_factor=0.5).transpose(1, 2)",
    "F.max_pool1d(x.transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)",
    "F.avg_pool1d(x.transpose(1, 2), 3, 2).transpose(1, 2)",
    "F.adaptive_max_pool1d(x.transpose(1, 2), 3).transpose(1, 2)",
    "torch.diff(x, dim=1)",
    "x.repeat(1, 2, 1)",
    "torch.cat([x, x.mean(1, keepdim=True)], 1)",
    "torch.topk(x, min(3, x.size(1)), dim=1).values",
    "x.reshape(x.size(0), -1, x.size(2))[:, 1:]",
    "F.pad(x.transpose(1, 2), (1, 1), mode='reflect').transpose(1, 2)",
    "F.pad(x, (0, 0, 0, -x.size(1) % 4)).unflatten(1, (-1, 4)).mean(2)",
    "x.unfold(1, 3, 2).mean(-1)",
)
"""They change the number of steps."""


@dataclass(frozen=True)
class Operator(Feature):
    """x = some function of x."""

    expression: str

    @classmethod
    def draw(cls, rng: random.Random) -> Operator:
        return cls(rng.choice(SAME if rng.random() < 0.75 else OTHER))

    def write(self, code: Source) -> None:
        code.line(f"x = {self.expression}")
        code.whole = code.whole and self.expression in SAME
