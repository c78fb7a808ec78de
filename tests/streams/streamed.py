"""Small likenesses of models that people stream, each written anew: its layers and how they meet, not its sizes.

Every entry is (model, example, axes), with time as the axis `sequence`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AXES = {"x": {0: "batch", 1: "sequence"}}
LAST = {"x": {0: "batch", 2: "sequence"}}


class CausalConv(nn.Module):
    """A convolution that is padded on the left."""

    def __init__(self, size: int, out: int, kernel: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.left = (kernel - 1) * dilation
        self.conv = nn.Conv1d(size, out, kernel, dilation=dilation, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.left, 0)))


class Chomped(nn.Module):
    """A block of a TCN: padded on both sides, and what is too much cut off."""

    def __init__(self, size: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.first = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(size, size, 3, padding=self.cut, dilation=dilation)
        )
        self.second = nn.Conv1d(size, size, 3, padding=self.cut, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)[:, :, : -self.cut].contiguous())
        y = torch.relu(self.second(y)[:, :, : -self.cut].contiguous())
        return torch.relu(x + y)


class CausalTCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv1d(5, 6, 1)
        self.blocks = nn.Sequential(*(Chomped(6, 2**k) for k in range(2)))
        self.outward = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outward(self.blocks(self.inward(x.transpose(1, 2))).transpose(1, 2))


class WaveNet(nn.Module):
    """Gated blocks, with what each one skips to the end added up."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = CausalConv(1, 6, 2)
        self.gates = nn.ModuleList(CausalConv(6, 12, 2, dilation=2**k) for k in range(3))
        self.residuals = nn.ModuleList(nn.Conv1d(6, 6, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(6, 4, 1) for _ in range(3))
        self.outward = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inward(x)
        total: Tensor | int = 0
        for gate, residual, skip in zip(self.gates, self.residuals, self.skips, strict=True):
            a, b = gate(y).chunk(2, 1)
            own = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(own)
            y = y + residual(own)
        return self.outward(torch.relu(total))


class DTLN(nn.Module):
    """Two masks one after the other: over spectra, then over features that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(9, 6, 2, batch_first=True), nn.LSTM(8, 6, 2, batch_first=True)
        self.mask, self.mask_2 = nn.Linear(6, 9), nn.Linear(6, 8)
        self.encoder, self.decoder = nn.Conv1d(9, 8, 1, bias=False), nn.Conv1d(8, 9, 1, bias=False)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.mask(self.first(torch.log(x.abs() + 1e-7))[0]))
        y = self.encoder(x.transpose(1, 2)).transpose(1, 2)
        y = y * torch.sigmoid(self.mask_2(self.second(self.norm(y))[0]))
        return self.decoder(y.transpose(1, 2)).transpose(1, 2)


class RNNoise(nn.Module):
    """Features through two convolutions and three layers, each of which sees more than the last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = CausalConv(7, 6, 3), CausalConv(6, 6, 3)
        self.gru_1, self.gru_2 = nn.GRU(6, 5, batch_first=True), nn.GRU(5, 5, batch_first=True)
        self.gains, self.voice = nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.conv_2(torch.tanh(self.conv_1(x.transpose(1, 2))))).transpose(1, 2)
        a, _ = self.gru_1(y)
        b, _ = self.gru_2(a)
        every = torch.cat([y, a, b], -1)
        return torch.sigmoid(self.gains(every)), torch.sigmoid(self.voice(every))


class GTCRN(nn.Module):
    """Spectra (batch, 2, frames, bins): layers over frequency in both directions and over time."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv2d(2, 4, (1, 3), stride=(1, 2), padding=(0, 1))
        self.norm = nn.BatchNorm2d(4)
        self.depth = nn.Conv2d(4, 4, (3, 3), dilation=(2, 1), groups=4)
        self.over_bins = nn.GRU(4, 3, batch_first=True, bidirectional=True)
        self.over_time = nn.GRU(4, 4, batch_first=True)
        self.back, self.scale = nn.Linear(6, 4), nn.LayerNorm((5, 4))
        self.outward = nn.ConvTranspose2d(8, 2, (1, 3), stride=(1, 2), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.norm(self.inward(x)))
        y = self.depth(F.pad(skip, (1, 1, 4, 0)))
        y = y.permute(0, 2, 3, 1)  # (batch, frames, bins, channels)
        shape = y.shape
        within = self.back(self.over_bins(y.reshape(shape[0] * shape[1], shape[2], shape[3]))[0])
        y = self.scale(y + within.view(shape))
        across = y.permute(0, 2, 1, 3).reshape(shape[0] * shape[2], shape[1], shape[3])
        across = self.over_time(across)[0].view(shape[0], shape[2], shape[1], shape[3]).permute(0, 3, 2, 1)
        return torch.tanh(self.outward(torch.cat([across, skip], 1)))


class DPRNN(nn.Module):
    """Frames of features: both directions within a frame, one from frame to frame."""

    def __init__(self) -> None:
        super().__init__()
        self.within = nn.LSTM(1, 3, batch_first=True, bidirectional=True)
        self.across = nn.LSTM(1, 4, batch_first=True)
        self.back, self.back_2 = nn.Linear(6, 1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, size = x.shape
        y = self.back(self.within(x.reshape(batch * frames, size, 1))[0]).reshape(batch, frames, size)
        x = x + y
        y = x.transpose(1, 2).reshape(batch * size, frames, 1)
        y = self.back_2(self.across(y)[0]).reshape(batch, size, frames).transpose(1, 2)
        return x + y


class CRN(nn.Module):
    """Convolutions down the bins, a layer between, and transposed ones up again, with skips across."""

    def __init__(self) -> None:
        super().__init__()
        self.down_1, self.down_2 = nn.Conv2d(1, 3, (2, 3), stride=(1, 2)), nn.Conv2d(3, 4, (2, 3), stride=(1, 2))
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True)
        self.up_2 = nn.ConvTranspose2d(8, 3, (2, 3), stride=(1, 2))
        self.up_1 = nn.ConvTranspose2d(6, 1, (2, 3), stride=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        a = F.elu(self.down_1(F.pad(x.unsqueeze(1), (0, 0, 1, 0))))
        b = F.elu(self.down_2(F.pad(a, (0, 0, 1, 0))))
        y, _ = self.lstm(b.permute(0, 2, 1, 3).flatten(2))
        y = y.unflatten(2, (4, 2)).permute(0, 2, 1, 3)
        y = F.elu(self.up_2(torch.cat([y, b], 1))[:, :, :-1])
        return torch.relu(self.up_1(torch.cat([y, a], 1))[:, :, :-1]).squeeze(1)


class Amplifier(nn.Module):
    """One sample at a time: a short filter, a layer, and the input added to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.lstm, self.outward = CausalConv(1, 4, 5), nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outward(self.lstm(self.filter(x.transpose(1, 2)).transpose(1, 2))[0]) + x


class KeywordSpotter(nn.Module):
    """Convolutions over time and bins, pooled over the last steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, (4, 3), padding=(3, 1)), nn.BatchNorm2d(4)
        self.gru, self.outward = nn.GRU(16, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x.unsqueeze(1))[:, :, : x.shape[1]]))
        y = F.max_pool2d(y, (1, 2))
        y, _ = self.gru(y.transpose(1, 2).flatten(2))
        y = F.avg_pool1d(F.pad(y.transpose(1, 2), (7, 0)), 8, 1)
        return self.outward(y.transpose(1, 2)).softmax(-1)


class MinGRU(nn.Module):
    """A convolution, then a gate whose states are all computed at once, in logarithms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.hidden = CausalConv(5, 5, 4, groups=5), nn.Linear(5, 6), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        k = self.gate(y)
        candidate = F.softplus(self.hidden(y)) + 0.1
        decay = torch.cumsum(-F.softplus(k), 1)
        value = -F.softplus(-k) + torch.log(candidate)
        return torch.exp(decay + torch.logcumsumexp(value - decay, 1))


class Mamba(nn.Module):
    """A depthwise convolution and a scan whose decay follows from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.conv = nn.Linear(4, 12), nn.Conv1d(6, 6, 4, groups=6, padding=3)
        self.steps, self.ends, self.outward = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.decay = nn.Parameter(torch.rand(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.inward(x).chunk(2, -1)
        y = F.silu(self.conv(y.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step = F.softplus(self.steps(y))
        into, out = self.ends(y).chunk(2, -1)
        h = torch.zeros(x.shape[0], 6, 2)
        results = []
        for t in range(x.shape[1]):
            h = torch.exp(-step[:, t, :, None] * self.decay) * h + (step[:, t] * y[:, t])[..., None] * into[:, t, None]
            results.append((h * out[:, t, None]).sum(-1))
        return self.outward(torch.stack(results, 1) * F.silu(gate)) + x


class RWKV(nn.Module):
    """Token shift: each step is mixed with the one before, in both halves of the block."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.norm_1, self.norm_2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.mix = nn.Parameter(torch.rand(3, 4))
        self.key, self.value, self.reads, self.outward = (nn.Linear(4, 4) for _ in range(4))
        self.wide, self.narrow = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_1(x)
        before = self.shift(y)
        k = torch.exp(self.key(torch.lerp(before, y, self.mix[0])).clamp(max=5.0))
        v = self.value(torch.lerp(before, y, self.mix[1]))
        y = torch.cumsum(k * v, 1) / torch.cumsum(k, 1)
        x = x + self.outward(torch.sigmoid(self.reads(before)) * y)
        y = self.norm_2(x)
        y = y * self.mix[2] + self.shift(y) * (1 - self.mix[2])
        return x + self.narrow(torch.relu(self.wide(y)) ** 2)


class CumulativeNorm(nn.Module):
    """Mean and variance over all channels and all steps so far."""

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1] * torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
        mean = x.sum(1).cumsum(-1) / count
        variance = (x**2).sum(1).cumsum(-1) / count - mean**2
        return (x - mean.unsqueeze(1)) / (variance.unsqueeze(1) + 1e-4).sqrt()


class ConvTasNet(nn.Module):
    """Depthwise dilated convolutions between cumulative norms, for a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.norm = nn.Conv1d(6, 4, 1), CumulativeNorm()
        self.wide = nn.ModuleList(nn.Conv1d(4, 8, 1) for _ in range(2))
        self.depth = nn.ModuleList(CausalConv(8, 8, 3, dilation=2**k, groups=8) for k in range(2))
        self.narrow = nn.ModuleList(nn.Conv1d(8, 4, 1) for _ in range(2))
        self.prelu, self.mask = nn.PReLU(), nn.Conv1d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inward(self.norm(x))
        for wide, depth, narrow in zip(self.wide, self.depth, self.narrow, strict=True):
            y = y + narrow(self.norm(self.prelu(depth(self.norm(self.prelu(wide(y)))))))
        return torch.sigmoid(self.mask(y)) * x


class DeepFilter(nn.Module):
    """A filter over past frames whose taps come from a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.taps = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 6 * 4)

    def forward(self, x: Tensor) -> Tensor:
        taps = self.taps(self.gru(x)[0]).unflatten(-1, (6, 4))
        past = F.pad(x, (0, 0, 3, 0)).unfold(1, 4, 1)
        return torch.einsum("btfk,btfk->btf", past, torch.tanh(taps))


class BoundedAttention(nn.Module):
    """Each step looks at itself and the five before, those before the start left out."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward, self.norm = nn.Linear(6, 18), nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inward(self.norm(x)).chunk(3, -1)
        k, v = (F.pad(one, (0, 0, 5, 0)).unfold(1, 6, 1) for one in (k, v))
        scores = (q.unsqueeze(2) @ k).squeeze(2) / 6**0.5
        there = torch.arange(x.shape[1])[:, None] + torch.arange(-5, 1) >= 0
        weights = scores.masked_fill(~there, float("-inf")).softmax(-1)
        return x + self.outward((v @ weights.unsqueeze(-1)).squeeze(-1))


class SpectralGate(nn.Module):
    """Running means and differences of features, before a layer, and a lag."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.outward = nn.GRU(15, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[None, :, None]
        delta = F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))
        lagged = F.pad(x, (0, 0, 3, 0))[:, :-3]
        y, _ = self.gru(torch.cat([x - mean, delta, lagged], -1))
        return torch.sigmoid(self.outward(y))


class PaddedOnce(nn.Module):
    """All of the padding in front of the first convolution, so that the later ones look back at what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(5, 6, 3), nn.Conv1d(6, 4, 4, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(F.pad(x, (8, 0)))))


class QRNN(nn.Module):
    """Gates from a convolution over two steps, and a pool over time in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = CausalConv(5, 12, 2)

    def forward(self, x: Tensor) -> Tensor:
        z, f = self.gates(x.transpose(1, 2)).transpose(1, 2).chunk(2, -1)
        z, f = torch.tanh(z), torch.sigmoid(f)
        h = torch.zeros(x.shape[0], 6)
        results = []
        for t in range(x.shape[1]):
            h = f[:, t] * h + (1 - f[:, t]) * z[:, t]
            results.append(h)
        return torch.stack(results, 1)


class Starts(nn.Module):
    """What a whole run has at its first steps in unlike ways: padded early, late, unevenly, with another value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv1d(5, 5, 3), nn.ConvTranspose1d(5, 5, 3)
        self.gru = nn.GRU(5, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        uneven = (F.pad(x, (3, 0)) * 2 + torch.tanh(F.pad(x, (1, 2))))[..., :-3]
        late = F.pad(torch.sigmoid(self.conv(x)), (2, 0)) + F.pad(self.conv(x), (2, 0)).cumsum(-1)
        early = self.up(torch.sigmoid(F.pad(x, (2, 0))))[..., :-4]
        layer = self.gru(F.pad(x, (4, 0)).transpose(1, 2) + 0.3)[0][:, :-4].transpose(1, 2)
        other = self.conv(F.pad(x.cos(), (2, 0), value=1.5)) * torch.arange(3, x.shape[-1] + 3)
        return uneven + late + early + layer + other


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


MODELS = {
    "tcn": (CausalTCN, _random(3, 7, 5), AXES),
    "wavenet": (WaveNet, _random(3, 1, 7), LAST),
    "dtln": (DTLN, _random(3, 7, 9), AXES),
    "rnnoise": (RNNoise, _random(3, 7, 7), AXES),
    "gtcrn": (GTCRN, _random(3, 2, 7, 9), LAST),
    "dprnn": (DPRNN, _random(3, 7, 5), AXES),
    "crn": (CRN, _random(3, 7, 11), AXES),
    "amplifier": (Amplifier, _random(3, 7, 1), AXES),
    "keyword": (KeywordSpotter, _random(3, 7, 8), AXES),
    "mingru": (MinGRU, _random(3, 7, 5), AXES),
    "mamba": (Mamba, _random(3, 7, 4), AXES),
    "rwkv": (RWKV, _random(3, 7, 4), AXES),
    "conv_tasnet": (ConvTasNet, _random(3, 6, 7), LAST),
    "deep_filter": (DeepFilter, _random(3, 7, 6), AXES),
    "attention": (BoundedAttention, _random(3, 7, 6), AXES),
    "spectral_gate": (SpectralGate, _random(3, 7, 5), AXES),
    "padded_once": (PaddedOnce, _random(3, 5, 7), LAST),
    "starts": (Starts, _random(3, 5, 7), LAST),
    "qrnn": (QRNN, _random(3, 7, 5), AXES),
}
"""Name -> (class, example, axes)."""
