"""Small likenesses of recurrent models as other people's packages have them: the ways of writing, not the sizes.

Each is a module, the axes of its inputs, and a function of (batch, steps) that draws inputs for it. `refused` is the
reason where one has no graph.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

BT = {0: "batch", 1: "sequence"}
X = {"x": BT}
XN = {"x": BT, "n": {0: "batch"}}


@dataclass
class Likeness:
    """A model, its axes, and inputs of any size for it."""

    build: Callable[[], nn.Module]
    axes: dict[str, dict[int, str]]
    draw: Callable[[int, int], tuple[Any, ...]]
    how: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None
    shapes: tuple[tuple[int, int], ...] = ((1, 1), (2, 13), (5, 40))
    example: tuple[int, int] = (3, 6)


LIKENESSES: dict[str, Likeness] = {}


def likeness(axes: dict[str, dict[int, str]], draw: Callable[[int, int], tuple[Any, ...]], **more: Any) -> Any:
    def register(build: type[nn.Module]) -> type[nn.Module]:
        LIKENESSES[build.__name__] = Likeness(build, axes, draw, **more)
        return build

    return register


def frames(b: int, t: int, size: int = 5) -> Tensor:
    return torch.randn(b, t, size)


def lengths(b: int, t: int, *, ordered: bool = False, full: bool = False) -> Tensor:
    n = torch.randint(1, t + 1, (b,))
    if full:
        n[-1] = t
    return n.sort(descending=True).values if ordered else n


def prefix(n: Tensor, t: int) -> Tensor:
    """A mask of the first n of t steps."""
    return torch.arange(t)[None] < n[:, None]


def ids(b: int, t: int, most: int = 20) -> Tensor:
    return torch.randint(1, most, (b, t))


# Decisions by value.


@likeness({"x": BT, "mask": BT}, lambda b, t: (frames(b, t), prefix(lengths(b, t), t)))
class MaskedOrNot(nn.Module):
    """Packs only where some row is padded, as taggers do."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if mask.all():
            return self.rnn(x)[0]
        y, _ = self.rnn(pack_padded_sequence(x, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True, total_length=x.size(1))[0]


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class ChecksLengths(nn.Module):
    """Checks what it is given, by assert and by raise."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        assert (n > 0).all(), "empty rows"
        if n.max() > x.size(1):
            raise ValueError("longer than the input")
        if not torch.is_floating_point(x):
            raise TypeError("no floats")
        if n.min().item() < 0 or bool(torch.isnan(x).any()):
            raise ValueError("bad numbers")
        _, h = self.rnn(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))
        return h[-1]


@likeness(
    {"obs": {0: "batch"}, "h": {1: "batch"}, "c": {1: "batch"}, "done": {0: "batch"}},
    lambda b, t: (torch.randn(b, 5), torch.randn(1, b, 6), torch.randn(1, b, 6), (torch.rand(b) < 0.3).float()),
)
class PolicyWithDones(nn.Module):
    """A policy's step: the state is reset where an episode ended, if one did."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.memory = nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.LSTM(8, 6)
        self.actor, self.critic = nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, obs: Tensor, h: Tensor, c: Tensor, done: Tensor) -> tuple[Tensor, ...]:
        if torch.any(done > 0.5):
            h, c = h * (1 - done)[None, :, None], c * (1 - done)[None, :, None]
        y, (h, c) = self.memory(self.body(obs).unsqueeze(0), (h, c))
        logits = self.actor(y[0])
        return torch.distributions.Categorical(logits=logits).probs, self.critic(y[0]).squeeze(-1), h, c


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t, full=True)))
class PadMask(nn.Module):
    """The mask that speech toolkits make of lengths, by a number read from them."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    @staticmethod
    def pad_mask(n: Tensor, longest: int | None = None) -> Tensor:
        longest = int(n.max()) if longest is None else longest
        steps = torch.arange(0, longest, dtype=torch.int64, device=n.device)
        return steps.unsqueeze(0).expand(n.size(0), longest) >= n.unsqueeze(-1)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return y.masked_fill(self.pad_mask(n, x.size(1)).unsqueeze(-1), 0.0)


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class CutToLongest(nn.Module):
    """Cuts the padding that no row uses, by `lengths.max().item()`."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        longest = n.max().item()
        x = x[:, :longest]
        y, _ = self.rnn(x)
        return y * PadMask.pad_mask(n, longest).logical_not().unsqueeze(-1)


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class CutByInt(nn.Module):
    """The same by int() and by a tensor as the end of a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        a, _ = self.rnn(x[:, : int(n.max())])
        _, h = self.rnn(x[:, : n.max()])
        return a, h


@likeness(
    X,
    lambda b, t: (frames(b, t),),
    refused=r"decides by the value of a tensor \(`if x.abs\(\).max\(\) > 1:`",
)
class Normalises(nn.Module):
    """Scales loud inputs alone: the two ways differ."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() > 1:
            x = x / x.abs().max()
        return self.rnn(x)[0]


@likeness(X, lambda b, t: (frames(b, t),))
class CleansNan(nn.Module):
    """Cleans what need not be cleaned without a change."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)
        self.register_buffer("ready", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            raise RuntimeError("not fitted")
        if torch.isnan(x).any():
            x = torch.nan_to_num(x)
        return self.rnn(x)[0]


# Lengths from wherever they come.


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class NumpyLengths(nn.Module):
    """A Tacotron encoder: convolutions, batch norm, lengths through NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv1d(5 if k == 0 else 6, 6, 5, padding=2), nn.BatchNorm1d(6)) for k in range(2)
        )
        self.lstm = nn.LSTM(6, 4, 1, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for conv in self.convs:
            x = F.dropout(F.relu(conv(x)), 0.5, self.training)
        x = x.transpose(1, 2)
        n = n.cpu().numpy()
        x = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        self.lstm.flatten_parameters()
        y, _ = self.lstm(x)
        return pad_packed_sequence(y, batch_first=True)[0]


@likeness(
    {"src": {0: "sequence", 1: "batch"}, "n": {0: "batch"}},
    lambda b, t: (torch.randint(0, 20, (t, b)), lengths(b, t, ordered=True)),
)
class ListLengths(nn.Module):
    """A translation encoder: time first, sorted lengths as a list, both directions joined in the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(20, 5), nn.LSTM(5, 4, 2, bidirectional=True, dropout=0.3)

    def forward(self, src: Tensor, n: Tensor) -> tuple[Any, Tensor, Tensor]:
        packed = pack_padded_sequence(self.emb(src), n.view(-1).tolist())
        memory, state = self.rnn(packed)
        memory = pad_packed_sequence(memory)[0]
        state = tuple(torch.cat([h[0 : h.size(0) : 2], h[1 : h.size(0) : 2]], 2) for h in state)
        return state, memory, n


@likeness({"tokens": BT}, lambda b, t: (ids(b, t) * prefix(lengths(b, t), t),))
class LengthsOfIds(nn.Module):
    """Lengths counted from the padding id."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.rnn, self.out = (
            nn.Embedding(20, 5, padding_idx=0),
            nn.GRU(5, 6, batch_first=True),
            nn.Linear(6, 2),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.ne(0).sum(-1)
        packed = pack_padded_sequence(self.emb(tokens), n.to("cpu", torch.int64), True, enforce_sorted=False)
        return self.out(self.rnn(packed)[1].squeeze(0))


@likeness(
    {"tokens": BT, "n": {0: "batch"}},
    lambda b, t: ({"tokens": ids(b, t), "n": lengths(b, t)}, None),
)
class DictBatch(nn.Module):
    """A batch as a dict, one argument None, a dataclass-like dict of results with None in it."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(20, 5), nn.GRU(5, 6, batch_first=True)

    def forward(self, batch: dict[str, Tensor], labels: Tensor | None = None) -> OrderedDict[str, Any]:
        packed = pack_padded_sequence(self.emb(batch["tokens"]), batch["n"].cpu(), True, False)
        y, h = self.rnn(packed)
        y, n = pad_packed_sequence(y, batch_first=True)
        return OrderedDict(loss=None if labels is None else y.sum(), hidden=y, state=(h, None), sizes=n)


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class SortsByHand(nn.Module):
    """Sorts rows, packs, and puts them back; the state too."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        n, order = n.sort(descending=True)
        _, back = order.sort()
        y, (h, _) = self.rnn(pack_padded_sequence(x[order], n.data.cpu().numpy(), batch_first=True))
        y, _ = pad_packed_sequence(y, batch_first=True)
        return y[back], h.index_select(1, back).transpose(0, 1).flatten(1)


@likeness(
    {"x": BT, "mask": BT},
    lambda b, t: (frames(b, t), prefix(lengths(b, t, full=True), t)),
)
class SeqWrapper(nn.Module):
    """A wrapper that drops empty rows by a number read from the mask, and puts zeros back in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch = mask.size(0)
        rows = torch.sum(mask[:, 0]).int().item()
        n = mask.long().sum(-1)
        n, order = n.sort(0, descending=True)
        x = x.index_select(0, order)
        _, back = order.sort(0, descending=False)
        packed = pack_padded_sequence(x[:rows, :, :], n[:rows].data.tolist(), batch_first=True)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        if rows < batch:
            y = torch.cat([y, y.new_zeros(batch - rows, y.size(1), y.size(2))], 0)
        return y.index_select(0, back)


@likeness({"x": BT, "ratio": {0: "batch"}}, lambda b, t: (frames(b, t), lengths(b, t, full=True) / t))
class RelativeLengths(nn.Module):
    """Lengths as parts of the longest, as one toolkit has them."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True)

    def forward(self, x: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
        n = torch.round(ratio * x.shape[1]).clamp(min=1).cpu()
        y, (h, _) = self.rnn(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True)[0], h


@likeness(
    {"x": BT, "n": {0: "batch"}, "y": {0: "batch", 1: "other"}, "m": {0: "batch"}},
    lambda b, t: (frames(b, t), lengths(b, t), frames(b, t + 2), lengths(b, t + 2)),
)
class TwoLengths(nn.Module):
    """Two sentences, each with its lengths, one encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True, bidirectional=True)

    def encode(self, x: Tensor, n: Tensor) -> Tensor:
        _, (h, _) = self.rnn(pack_padded_sequence(x, n.cpu(), batch_first=True, enforce_sorted=False))
        return torch.cat([h[0], h[1]], -1)

    def forward(self, x: Tensor, n: Tensor, y: Tensor, m: Tensor) -> Tensor:
        a, b = self.encode(x, n), self.encode(y, m)
        return torch.cat([a, b, (a - b).abs(), a * b], -1)


@likeness(
    {"words": BT, "chars": {0: "batch", 1: "sequence", 2: "letters"}, "n": {0: "batch", 1: "sequence"}},
    lambda b, t: (ids(b, t), torch.randint(1, 9, (b, t, 7)), torch.randint(1, 8, (b, t))),
)
class CharTagger(nn.Module):
    """Words and their letters: letters packed with words and batch in one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.char = nn.Embedding(20, 5), nn.Embedding(9, 4)
        self.letters = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.rnn, self.out = nn.LSTM(11, 6, batch_first=True, bidirectional=True), nn.Linear(12, 4)

    def forward(self, words: Tensor, chars: Tensor, n: Tensor) -> Tensor:
        b, t, c = chars.shape
        x = pack_padded_sequence(self.char(chars.view(b * t, c)), n.view(-1).cpu(), True, enforce_sorted=False)
        _, (h, _) = self.letters(x)
        x = torch.cat([self.word(words), h.transpose(0, 1).reshape(b, t, -1)], -1)
        return self.out(self.rnn(x)[0])


# Packed data.


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class PackedStack(nn.Module):
    """Layers, norm and dropout on packed data, a residual between two packed layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(5, 6, batch_first=True), nn.GRU(6, 6, batch_first=True)
        self.norm, self.drop, self.out = nn.LayerNorm(6), nn.Dropout(0.3), nn.Linear(6, 3)

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        p = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        p, _ = self.first(p)
        p = PackedSequence(self.drop(self.norm(p.data)), p.batch_sizes, p.sorted_indices, p.unsorted_indices)
        q, h = self.second(p)
        q = q._replace(data=self.out(q.data + p.data))
        y, n = pad_packed_sequence(q, batch_first=True, padding_value=-1.0)
        return F.log_softmax(y, -1), h


@likeness({"tokens": BT, "n": {0: "batch"}}, lambda b, t: (ids(b, t), lengths(b, t)))
class PackedIds(nn.Module):
    """Packs ids, and embeds what is packed."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(20, 5), nn.LSTM(5, 6, batch_first=True)

    def forward(self, tokens: Tensor, n: Tensor) -> Tensor:
        p = pack_padded_sequence(tokens, n.cpu(), batch_first=True, enforce_sorted=False)
        p = PackedSequence(self.emb(p.data), *p[1:])
        return pad_packed_sequence(self.rnn(p)[0], batch_first=True)[0]


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class LastOfPacked(nn.Module):
    """The last valid step by gather, the mean and the largest over valid steps."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        y, _ = self.rnn(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))
        y, n = pad_packed_sequence(y, batch_first=True)
        last = y.gather(1, (n - 1).view(-1, 1, 1).expand(-1, 1, y.size(2))).squeeze(1)
        mean = y.sum(1) / n.unsqueeze(1)
        mask = torch.arange(y.size(1))[None, :] < n[:, None]
        most = y.masked_fill(~mask.unsqueeze(-1), float("-inf")).max(1).values
        rows = y[torch.arange(len(y)), n - 1]
        return torch.cat([last, mean, most, rows], -1)


# In-place writes and masks.


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)))
class WritesInPlace(nn.Module):
    """Results written into a fresh tensor, masks in place, an input changed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        mask = torch.arange(x.size(1)).unsqueeze(0) >= n.unsqueeze(1)
        x = x.clone()
        x[:, 0] += 1.0
        x.masked_fill_(mask.unsqueeze(-1), 0.0)
        y, _ = self.rnn(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))
        y, _ = pad_packed_sequence(y, batch_first=True)
        padded = torch.zeros([x.size(0), x.size(1), 8])
        padded[:, : y.shape[1], :6] = y
        padded[..., -1] = mask.float()
        padded[mask] = -2.0
        return padded


# Sizes that are formulas.


@likeness(
    {"x": {0: "batch", 3: "time"}, "n": {0: "batch"}},
    lambda b, t: (torch.randn(b, 1, 9, 2 * t + 6), lengths(b, 2 * t + 6, full=True)),
)
class DeepSpeech(nn.Module):
    """Strided masked convolutions over a spectrogram, packed layers whose directions are summed, norm over both axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, (5, 3), (2, 2), (2, 1)), nn.BatchNorm2d(4), nn.Hardtanh(0, 20))
        self.norm, self.rnn = nn.BatchNorm1d(20), nn.GRU(20, 6, bidirectional=True)
        self.out = nn.Linear(6, 5)

    def out_lengths(self, n: Tensor) -> Tensor:
        for m in self.conv:
            if isinstance(m, nn.Conv2d):
                n = (n + 2 * m.padding[1] - m.dilation[1] * (m.kernel_size[1] - 1) - 1) // m.stride[1] + 1
        return n.int()

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        n = self.out_lengths(n.cpu().int())
        for module in self.conv:
            x = module(x)
            mask = torch.zeros_like(x, dtype=torch.bool)
            mask = mask | (torch.arange(x.size(3)) >= n[:, None])[:, None, None, :]
            x = x.masked_fill(mask, 0)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3]).transpose(1, 2).transpose(0, 1).contiguous()
        t, b = x.size(0), x.size(1)
        x = self.norm(x.view(t * b, -1)).view(t, b, -1)
        x = pack_padded_sequence(x, n, enforce_sorted=False)
        x, _ = self.rnn(x)
        x, _ = pad_packed_sequence(x)
        x = x.view(x.size(0), x.size(1), 2, -1).sum(2).view(x.size(0), x.size(1), -1)
        t, b = x.size(0), x.size(1)
        x = self.out(x.view(t * b, -1)).view(t, b, -1).transpose(0, 1)
        return F.softmax(x, -1), n


@likeness({"image": {0: "batch", 3: "width"}}, lambda b, t: (torch.randn(b, 1, 16, 4 * t + 4),))
class Crnn(nn.Module):
    """Text in images: height is pooled away, width is the sequence; layers with batch and steps in one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(4, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(True), nn.MaxPool2d((2, 2), (2, 1), (0, 1))),
            *(nn.Conv2d(6, 8, (4, 2), 1, 0), nn.ReLU(True)),
        )
        self.first, self.second = nn.LSTM(8, 5, bidirectional=True), nn.LSTM(6, 5, bidirectional=True)
        self.between, self.out = nn.Linear(10, 6), nn.Linear(10, 7)

    def forward(self, image: Tensor) -> Tensor:
        x = self.cnn(image)
        b, c, h, w = x.size()
        assert h == 1, "the height of conv must be 1"
        x = x.squeeze(2).permute(2, 0, 1)
        for rnn, linear in ((self.first, self.between), (self.second, self.out)):
            y, _ = rnn(x)
            t, b, h = y.size()
            x = linear(y.view(t * b, h)).view(t, b, -1)
        return F.log_softmax(x, 2)


@likeness({"wave": {0: "batch", 1: "samples"}}, lambda b, t: (torch.randn(b, 8 * t + 30),))
class DualPath(nn.Module):
    """Source separation: learned frames, halves that overlap, layers within chunks and across them, overlap and add."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 8
        self.encoder, self.decoder = nn.Conv1d(1, 6, 4, 2, bias=False), nn.ConvTranspose1d(6, 1, 4, 2, bias=False)
        self.inner, self.outer = (nn.LSTM(6, 5, batch_first=True, bidirectional=True) for _ in range(2))
        self.a, self.b, self.mask = nn.Linear(10, 6), nn.Linear(10, 6), nn.Conv1d(6, 12, 1)

    def segment(self, x: Tensor) -> tuple[Tensor, int]:
        b, n, length = x.shape
        half = self.size // 2
        rest = self.size - (half + length % self.size) % self.size
        x = F.pad(x, (half, rest + half))
        left = x[:, :, :-half].contiguous().view(b, n, -1, self.size)
        right = x[:, :, half:].contiguous().view(b, n, -1, self.size)
        return torch.cat([left, right], 3).view(b, n, -1, self.size).transpose(2, 3).contiguous(), rest

    def forward(self, wave: Tensor) -> Tensor:
        x = self.encoder(wave.unsqueeze(1)).relu()
        y, rest = self.segment(x)
        b, n, k, s = y.shape
        within = y.permute(0, 3, 2, 1).reshape(b * s, k, n)
        y = y + self.a(self.inner(within)[0]).view(b, s, k, n).permute(0, 3, 2, 1)
        across = y.permute(0, 2, 3, 1).reshape(b * k, s, n)
        y = y + self.b(self.outer(across)[0]).view(b, k, s, n).permute(0, 3, 1, 2)
        half = self.size // 2
        y = y.transpose(2, 3).contiguous().view(b, n, -1, self.size * 2)
        y = y[..., : self.size].reshape(b, n, -1)[..., half:] + y[..., self.size :].reshape(b, n, -1)[..., :-half]
        y = y[..., :-rest]
        masks = self.mask(y).view(b, 2, n, -1).sigmoid()
        return self.decoder((masks * x.unsqueeze(1)).view(2 * b, n, -1)).view(b, 2, -1)


@likeness({"x": {0: "batch", 2: "time"}}, lambda b, t: (torch.randn(b, 2, 4 * t + 12),))
class WaveUNet(nn.Module):
    """Music separation: strided convolutions down, an LSTM, transposed ones up, what is too long cut at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv1d(2 if k == 0 else 4 * k, 4 * (k + 1), 8, 4 if k == 0 else 2) for k in range(2)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(4 * (k + 1), 2 if k == 0 else 4 * k, 8, 4 if k == 0 else 2) for k in (1, 0)
        )
        self.lstm, self.linear = nn.LSTM(8, 8, 2, bidirectional=True), nn.Linear(16, 8)

    def valid(self, length: int) -> int:
        for conv in self.down:
            length = math.ceil((length - conv.kernel_size[0]) / conv.stride[0]) + 1
            length = max(1, length)
        for conv in self.down:
            length = (length - 1) * 2 + 8
        return int(length)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-1]
        x = F.pad(x, (8, 24))
        saved = []
        for conv in self.down:
            x = F.gelu(conv(x))
            saved.append(x)
        x = x.permute(2, 0, 1)
        x = self.linear(self.lstm(x)[0]).permute(1, 2, 0)
        for conv in self.up:
            skip = saved.pop(-1)
            x = x[..., : skip.shape[-1]] + skip[..., : x.shape[-1]]
            x = conv(x)
        return x[..., 8 : 8 + length]


@likeness({"x": BT}, lambda b, t: (frames(b, t + 8, 4),), shapes=((1, 1), (2, 13), (5, 40)))
class LstNet(nn.Module):
    """Forecasting: convolution, a GRU, and a GRU over every third step, which is as many as fit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru, self.skip = nn.Conv2d(1, 6, (3, 4)), nn.GRU(6, 5), nn.GRU(6, 3)
        self.out, self.highway = nn.Linear(5 + 3 * 3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, window = x.size(0), x.size(1)
        c = F.relu(self.conv(x.view(-1, 1, window, 4))).squeeze(3)
        _, r = self.gru(c.permute(2, 0, 1).contiguous())
        r = r.squeeze(0)
        steps = int((window - 3) / 3)
        s = c[:, :, int(-steps * 3) :].contiguous().view(b, 6, steps, 3).permute(2, 0, 3, 1).contiguous()
        _, s = self.skip(s.view(steps, b * 3, 6))
        z = x[:, -4:, :].permute(0, 2, 1).contiguous().view(-1, 4)
        return torch.tanh(self.out(torch.cat((r, s.view(b, 9)), 1)) + self.highway(z).view(-1, 4))


@likeness(X, lambda b, t: (frames(b, t),))
class TcnGru(nn.Module):
    """Causal dilated convolutions with weight norm, their ends cut off, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        conv = lambda i, d: nn.utils.parametrizations.weight_norm(nn.Conv1d(i, 6, 3, padding=2 * d, dilation=d))
        self.convs = nn.ModuleList([conv(5, 1), conv(6, 2), conv(6, 4)])
        self.gru, self.out = nn.GRU(6, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for conv in self.convs:
            y = F.relu(conv(x)[:, :, : -conv.padding[0]].contiguous())
            x = y if x.size(1) != y.size(1) else x + y
        return self.out(self.gru(x.transpose(1, 2))[0])


# Two sequence axes, one axis for both, no batch at all.


@likeness(
    {"src": BT, "n": {0: "batch"}, "tgt": {0: "batch", 1: "target"}},
    lambda b, t: (ids(b, t), lengths(b, t), ids(b, t + 1)),
)
class Seq2Seq(nn.Module):
    """Encoder and decoder with attention over the source, the target given."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.encoder = nn.Embedding(20, 5), nn.GRU(5, 6, batch_first=True, bidirectional=True)
        self.bridge, self.decoder = nn.Linear(12, 6), nn.GRU(5, 6, batch_first=True)
        self.query, self.out = nn.Linear(6, 12, bias=False), nn.Linear(18, 20)

    def forward(self, src: Tensor, n: Tensor, tgt: Tensor) -> tuple[Tensor, Tensor]:
        p = pack_padded_sequence(self.emb(src), n.cpu(), batch_first=True, enforce_sorted=False)
        memory, h = self.encoder(p)
        memory, _ = pad_packed_sequence(memory, batch_first=True)
        h = torch.tanh(self.bridge(torch.cat([h[-2], h[-1]], dim=1))).unsqueeze(0)
        y, _ = self.decoder(self.emb(tgt), h)
        scores = torch.bmm(self.query(y), memory.transpose(1, 2))
        mask = torch.arange(memory.size(1), device=src.device)[None] >= n[:, None]
        weights = torch.softmax(scores.masked_fill(mask.unsqueeze(1), -1e9), -1)
        return self.out(torch.cat([y, torch.bmm(weights, memory)], -1)), weights


@likeness(
    {"audio": BT, "text": {0: "batch", 1: "target"}},
    lambda b, t: (frames(b, t), ids(b, t + 2)),
)
class Transducer(nn.Module):
    """Speech transducer: encoder, prediction network with a start symbol before it, their sum over both axes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.emb = nn.LSTM(5, 6, 2, batch_first=True), nn.Embedding(20, 6, padding_idx=0)
        self.predictor, self.out = nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 20)

    def forward(self, audio: Tensor, text: Tensor, state: Any = None) -> Tensor:
        f, _ = self.encoder(audio)
        g = self.emb(text)
        b, u, h = g.shape
        g = torch.cat([torch.zeros((b, 1, h), device=g.device, dtype=g.dtype), g], dim=1).contiguous()
        g, _ = self.predictor(g, state)
        return F.log_softmax(self.out(torch.tanh(f.unsqueeze(2) + g.unsqueeze(1))), -1)


@likeness({"x": BT, "queries": {0: "batch", 1: "target"}}, lambda b, t: (frames(b, t, 2), frames(b, t + 1, 2)))
class Pointer(nn.Module):
    """A pointer network with its decoder inputs given: scores over the steps of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(2, 6, batch_first=True), nn.LSTM(2, 6, batch_first=True)
        self.w1, self.w2, self.v = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False), nn.Linear(6, 1, bias=False)

    def forward(self, x: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        memory, state = self.encoder(x)
        y, _ = self.decoder(queries, state)
        scores = self.v(torch.tanh(self.w1(memory).unsqueeze(1) + self.w2(y).unsqueeze(2))).squeeze(-1)
        return F.log_softmax(scores, -1), scores.argmax(-1)


@likeness({"x": {0: "steps"}, "h": {1: "batch"}}, lambda b, t: (torch.randn(b * t, 5), torch.randn(1, b, 6)))
class FlatPolicy(nn.Module):
    """Observations of all environments and steps in one axis; how many environments there are tells the state."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.rnn, self.out = nn.Linear(5, 6), nn.GRU(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        b = h.shape[1]
        y, h = self.rnn(torch.tanh(self.body(x)).reshape(b, -1, 6).swapaxes(0, 1), h)
        return self.out(y.transpose(0, 1).flatten(0, 1)), h


@likeness(X, lambda b, t: (frames(b, t),))
class FlatResult(nn.Module):
    """Results with batch and steps in one axis, as a loss takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.RNN(5, 6, batch_first=True, nonlinearity="relu"), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.rnn(x)
        logits = self.out(y.reshape(-1, y.size(2)))
        return logits, logits.argmax(1).view(y.size(0), -1)


@likeness({"x": BT, "mask": BT}, lambda b, t: (frames(b, t), prefix(lengths(b, t), t)))
class ValidOnly(nn.Module):
    """Results for the valid steps alone, of all rows in one axis: how many there are depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.out(y[mask])


@likeness({"sentence": {0: "words"}}, lambda b, t: (torch.randint(0, 20, (t,)),))
class Emissions(nn.Module):
    """The emissions of a BiLSTM-CRF tagger, one sentence at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.lstm, self.out = nn.Embedding(20, 5), nn.LSTM(5, 3, bidirectional=True), nn.Linear(6, 4)

    def forward(self, sentence: Tensor) -> Tensor:
        embeds = self.emb(sentence).view(len(sentence), 1, -1)
        y, _ = self.lstm(embeds)
        return self.out(y.view(len(sentence), 6))


@likeness({"docs": {0: "batch", 1: "sentences", 2: "words"}}, lambda b, t: (torch.randint(0, 20, (b, t, t + 1)),))
class Hierarchical(nn.Module):
    """Attention over words, then over sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.words = nn.Embedding(20, 5), nn.GRU(5, 4, batch_first=True, bidirectional=True)
        self.sentences, self.a, self.b = (
            nn.GRU(8, 4, batch_first=True, bidirectional=True),
            nn.Linear(8, 1),
            nn.Linear(8, 1),
        )

    def forward(self, docs: Tensor) -> Tensor:
        b, s, w = docs.size()
        y, _ = self.words(self.emb(docs.view(b * s, w)))
        y = torch.sum(y * torch.softmax(self.a(torch.tanh(y)), 1), 1).view(b, s, -1)
        y, _ = self.sentences(y)
        return torch.sum(y * torch.softmax(self.b(torch.tanh(y)), 1), 1)


# Other shapes of models.


@likeness({"tokens": {0: "batch", 1: "sequence"}}, lambda b, t: (torch.randint(1, 9, (b, t, 7)),))
class Elmo(nn.Module):
    """Letters by convolution, highways, two stacks that read each row forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.char = nn.Embedding(9, 4, padding_idx=0)
        self.convs = nn.ModuleList(nn.Conv1d(4, 3, k) for k in (1, 2, 3))
        self.highway, self.project = nn.Linear(9, 18), nn.Linear(9, 6)
        self.forth = nn.ModuleList(nn.LSTM(6, 6, batch_first=True) for _ in range(2))
        self.back = nn.ModuleList(nn.LSTM(6, 6, batch_first=True) for _ in range(2))
        self.gamma, self.weights = (
            nn.Parameter(torch.ones(1)),
            nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(3)]),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.char(tokens.view(-1, tokens.size(2))).transpose(1, 2)
        x = torch.cat([torch.relu(torch.max(conv(x), dim=-1)[0]) for conv in self.convs], -1)
        part, gate = self.highway(x).chunk(2, -1)
        gate = torch.sigmoid(gate)
        x = self.project(gate * x + (1 - gate) * torch.relu(part)).view(tokens.size(0), tokens.size(1), -1)
        layers = [torch.cat([x, x], -1)]
        f, r = x, x.flip(1)
        for forth, back in zip(self.forth, self.back, strict=True):
            f, r = forth(f)[0], back(r)[0]
            layers.append(torch.cat([f, r.flip(1)], -1))
        weights = torch.softmax(torch.cat([w for w in self.weights]), 0)
        return self.gamma * sum(w * layer for w, layer in zip(weights, layers, strict=True))


@likeness(
    {"past": {0: "batch", 1: "history"}, "future": {0: "batch", 1: "horizon"}},
    lambda b, t: (frames(b, t + 1, 3), frames(b, t, 2)),
)
class DeepAr(nn.Module):
    """Forecasts a distribution: scaled by the mean of the past, the last value handed on, known covariates ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.mu, self.sigma = nn.LSTM(3, 8, 2, batch_first=True), nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, past: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        scale = past[..., :1].abs().mean(1, keepdim=True).clamp(min=1e-3)
        past = torch.cat([past[..., :1] / scale, past[..., 1:]], -1)
        _, state = self.rnn(past)
        first = past[:, -1:, :1].expand(-1, future.size(1), -1)
        y, _ = self.rnn(torch.cat([first, future], -1), state)
        normal = torch.distributions.Normal(self.mu(y) * scale, F.softplus(self.sigma(y)) * scale)
        return normal.mean.squeeze(-1), normal.stddev.squeeze(-1)


class Quantiles(NamedTuple):
    prediction: Tensor
    attention: Tensor
    static: Tensor | None


@likeness(
    {
        "static": {0: "batch"},
        "past": {0: "batch", 1: "history"},
        "n": {0: "batch"},
        "future": {0: "batch", 1: "horizon"},
    },
    lambda b, t: (torch.randn(b, 4), frames(b, t, 6), lengths(b, t), frames(b, t + 1, 6)),
)
class Fusion(nn.Module):
    """A temporal fusion transformer: the state starts from static features, gates, attention from horizon to all."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.c = nn.Linear(4, 6), nn.Linear(4, 6)
        self.encoder, self.decoder = nn.LSTM(6, 6, batch_first=True), nn.LSTM(6, 6, batch_first=True)
        self.glu, self.norm, self.out = nn.Linear(6, 12), nn.LayerNorm(6), nn.Linear(6, 3)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def mask(self, n: Tensor, past: int, future: int) -> Tensor:
        ahead = torch.arange(future)
        causal = (ahead[:, None] < ahead[None, :]).unsqueeze(0).expand(n.size(0), -1, -1)
        padding = (torch.arange(past)[None] >= n[:, None]).unsqueeze(1).expand(-1, future, -1)
        return torch.cat([padding, causal], 2)

    def forward(self, static: Tensor, past: Tensor, n: Tensor, future: Tensor) -> Quantiles:
        state = (self.h(static)[None], self.c(static)[None])
        p = pack_padded_sequence(past, n.cpu(), batch_first=True, enforce_sorted=False)
        e, state = self.encoder(p, state)
        e, _ = pad_packed_sequence(e, batch_first=True, total_length=past.size(1))
        d, _ = self.decoder(future, state)
        y = torch.cat([e, d], 1)
        y = self.norm(F.glu(self.glu(y), -1) + torch.cat([past, future], 1))
        mask = self.mask(n, past.size(1), future.size(1)).repeat_interleave(2, 0)
        z, w = self.attention(y[:, past.size(1) :], y, y, attn_mask=mask)
        return Quantiles(self.out(z), w, None)


@likeness({"x": {0: "batch"}, "state": {1: "batch"}}, lambda b, t: (torch.randn(b, 32), torch.randn(2, b, 6)))
class VoiceActivity(nn.Module):
    """A detector's step: one tensor for h and c, a window, a learned transform, one LSTM cell, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", torch.randn(10, 1, 16))
        self.encoder = nn.Sequential(
            nn.Conv1d(5, 6, 3, padding=1), nn.ReLU(), nn.Conv1d(6, 6, 3, 2, padding=1), nn.ReLU()
        )
        self.rnn, self.out = nn.LSTM(6, 6), nn.Sequential(nn.Dropout(0.1), nn.ReLU(), nn.Conv1d(6, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pad(x.unsqueeze(1), (0, 8), "reflect")
        spectrum = F.conv1d(x, self.basis, stride=8)
        x = torch.sqrt(spectrum[:, :5] ** 2 + spectrum[:, 5:] ** 2)
        x = self.encoder(x).permute(2, 0, 1)
        y, (h, c) = self.rnn(x, (state[:1], state[1:]))
        return torch.mean(self.out(y.permute(1, 2, 0)), dim=2), torch.cat([h, c])


@likeness(
    {"x": BT, "vad": {1: "batch"}, "noise": {1: "batch"}, "denoise": {1: "batch"}},
    lambda b, t: (frames(b, t + 4, 6), (torch.zeros(1, b, 3), torch.zeros(1, b, 4), torch.zeros(1, b, 5))),
)
class NoiseSuppressor(nn.Module):
    """Three GRUs of different sizes, each fed by those before it; states in a tuple; convolutions without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(6, 6, 3), nn.Conv1d(6, 6, 3)
        self.vad, self.noise, self.denoise = (nn.GRU(i, h, batch_first=True) for i, h in ((6, 3), (9, 4), (13, 5)))
        self.gain, self.speech = nn.Linear(12, 6), nn.Linear(3, 1)

    def forward(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        y = torch.tanh(self.conv2(torch.tanh(self.conv1(x.permute(0, 2, 1))))).permute(0, 2, 1)
        v, sv = self.vad(y, states[0])
        n, sn = self.noise(torch.cat([y, v], -1), states[1])
        d, sd = self.denoise(torch.cat([y, v, n], -1), states[2])
        return torch.sigmoid(self.gain(torch.cat([d, v, n], -1))), torch.sigmoid(self.speech(v)), (sv, sn, sd)


@dataclass
class Output:
    logits: Tensor
    hidden_states: tuple[Tensor, ...]
    loss: Tensor | None = None


@likeness({"tokens": BT}, lambda b, t: (ids(b, t),))
class LanguageModel(nn.Module):
    """A language model with tied weights and an optional state, whose layers are separate; a dataclass comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, 6)
        self.rnns = nn.ModuleList(nn.LSTM(6, 6, batch_first=True) for _ in range(2))
        self.out = nn.Linear(6, 20)
        self.out.weight = self.emb.weight

    def forward(self, tokens: Tensor, state: Any = None, labels: Tensor | None = None) -> Output:
        x = self.emb(tokens)
        hidden = []
        for k, rnn in enumerate(self.rnns):
            x, (h, c) = rnn(x, None if state is None else state[k])
            hidden += [h, c]
        return Output(logits=self.out(x), hidden_states=tuple(hidden))


@likeness({"roll": {0: "batch", 1: "time"}}, lambda b, t: (torch.randn(b, t, 16),))
class PianoTranscription(nn.Module):
    """Convolutions over a spectrogram, an LSTM in chunks of 512 steps, two heads, one fed by the other."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Dropout(0.25)
        )
        self.fc, self.onset = nn.Linear(24, 8), nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.out, self.frame = nn.Linear(8, 5), nn.Linear(13, 5)

    def forward(self, roll: Tensor) -> tuple[Tensor, Tensor]:
        x = self.cnn(roll.view(roll.size(0), 1, roll.size(1), roll.size(2)))
        x = self.fc(x.transpose(1, 2).flatten(-2))
        onset = torch.sigmoid(self.out(self.onset(x)[0]))
        return onset, torch.sigmoid(self.frame(torch.cat([x, onset.detach()], -1)))


@likeness(
    {"obs": {0: "steps"}, "h": {0: "batch"}, "c": {0: "batch"}, "n": {0: "batch"}},
    lambda b, t: (torch.randn(b * t, 5), torch.randn(b, 6), torch.randn(b, 6), torch.full((b,), t)),
)
class PaddedPolicy(nn.Module):
    """A policy of a reinforcement learning library: as many rows as there are lengths, the rest is time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.rnn, self.out = nn.Linear(5, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, obs: Tensor, h: Tensor, c: Tensor, n: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = torch.relu(self.fc(obs))
        batch = n.shape[0]
        x = x.reshape([batch, x.shape[0] // batch, *x.shape[1:]])
        y, (h, c) = self.rnn(x, (h.unsqueeze(0), c.unsqueeze(0)))
        return self.out(y).reshape([-1, 2]), [h.squeeze(0), c.squeeze(0)]


@likeness({"text": BT, "n": {0: "batch"}}, lambda b, t: (ids(b, t), lengths(b, t, full=True)))
class Durations(nn.Module):
    """Speech synthesis: a style beside each step, packed layers with a norm between, durations per symbol."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.style = nn.Embedding(20, 5), nn.Parameter(torch.randn(3))
        self.lstms = nn.ModuleList(nn.LSTM(8, 4, batch_first=True, bidirectional=True) for _ in range(2))
        self.affine, self.proj = nn.Linear(3, 16), nn.Linear(11, 4)

    def forward(self, text: Tensor, n: Tensor) -> Tensor:
        mask = torch.arange(n.max()).unsqueeze(0).expand(n.shape[0], -1).type_as(n)
        mask = torch.gt(mask + 1, n.unsqueeze(1))
        x = self.emb(text)
        s = self.style.expand(x.shape[0], x.shape[1], -1)
        x = torch.cat([x, s], -1)
        x.masked_fill_(mask.unsqueeze(-1), 0.0)
        for k, lstm in enumerate(self.lstms):
            p = pack_padded_sequence(x, n.cpu(), batch_first=True, enforce_sorted=False)
            y, _ = pad_packed_sequence(lstm(p)[0], batch_first=True)
            padded = torch.zeros([y.shape[0], mask.shape[-1], y.shape[-1]])
            padded[:, : y.shape[1], :] = y
            gamma, beta = self.affine(s).chunk(2, -1)
            y = (1 + gamma) * F.layer_norm(padded, (8,)) + beta
            x = y if k else y + x
        return torch.sigmoid(self.proj(torch.cat([x, s], -1))).sum(-1)


@likeness(X, lambda b, t: (frames(b, t),))
class PositionsAndCasts(nn.Module):
    """Small habits: sizes in Python arithmetic, len(), int(), positions, casts by type_as, scalars from sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.position = nn.GRU(6, 6, batch_first=True), nn.Embedding(100, 5)
        self.register_buffer("table", torch.randn(1, 100, 5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, t = len(x), x.shape[1]
        x = x * math.sqrt(t) / float(t) + self.table[:, :t].type_as(x) + self.position(torch.arange(t).repeat(b, 1))
        ramp = torch.linspace(0, 1, t).view(1, -1, 1).expand(b, t, 1)
        y, h = self.rnn(torch.cat([x, ramp], -1))
        half = int(round(t / 2))
        return y[:, half:].sum(1) / max(t - half, 1), h.reshape(b, -1) * (1.0 / t)


@likeness(
    {"left": BT, "right": {0: "batch", 1: "other"}, "m": BT, "k": {0: "batch", 1: "other"}},
    lambda b, t: (ids(b, t), ids(b, t + 1), prefix(lengths(b, t), t), prefix(lengths(b, t + 1), t + 1)),
)
class Inference(nn.Module):
    """Natural language inference: two sentences aligned by masked attention, composed and pooled over valid steps."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.first = nn.Embedding(20, 5), nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.project, self.second = nn.Linear(32, 6), nn.LSTM(6, 4, batch_first=True, bidirectional=True)

    @staticmethod
    def attend(scores: Tensor, mask: Tensor) -> Tensor:
        weights = torch.softmax(scores * mask[:, None], -1) * mask[:, None]
        return weights / (weights.sum(-1, keepdim=True) + 1e-13)

    def encode(self, rnn: nn.LSTM, x: Tensor, mask: Tensor) -> Tensor:
        n = mask.sum(1).long()
        y, _ = rnn(pack_padded_sequence(x, n.cpu(), batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True, total_length=x.size(1))[0]

    def forward(self, left: Tensor, right: Tensor, m: Tensor, k: Tensor) -> Tensor:
        m, k = m.float(), k.float()
        a, b = self.encode(self.first, self.emb(left), m), self.encode(self.first, self.emb(right), k)
        scores = a.bmm(b.transpose(2, 1).contiguous())
        a2, b2 = self.attend(scores, k).bmm(b), self.attend(scores.transpose(1, 2).contiguous(), m).bmm(a)
        pooled = []
        for x, y, mask in ((a, a2, m), (b, b2, k)):
            z = torch.relu(self.project(torch.cat([x, y, x - y, x * y], -1)))
            z = self.encode(self.second, z, mask)
            pooled.append((z * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
            pooled.append((z + (1 - mask.unsqueeze(-1)) * -1e7).max(1)[0])
        return torch.cat(pooled, -1)


@likeness(X, lambda b, t: (frames(b, t),))
class OldHabits(nn.Module):
    """How states were made years ago: from a weight, by a legacy constructor, as a Variable; a learned one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LSTM(5, 4, batch_first=True), nn.GRU(4, 4, 2, bidirectional=True)
        self.start = nn.Parameter(torch.randn(4, 1, 4))

    def init_hidden(self, batch: int) -> tuple[Tensor, Tensor]:
        weight = next(self.parameters()).data
        return weight.new(1, batch, 4).zero_(), torch.autograd.Variable(weight.new_zeros(1, batch, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch = x.size(0)
        y, (h, c) = self.a(x, self.init_hidden(batch))
        y, h = self.b(y.permute(1, 0, 2), self.start.expand(-1, batch, -1).contiguous())
        h = h.view(2, 2, batch, 4)[-1]
        return torch.cat([h[0], h[1]], -1), y[-1] + torch.zeros(batch, 8).type_as(y)


@likeness(X, lambda b, t: (frames(b, t),))
class KeepsHidden(nn.Module):
    """A language model's layers, each with a state of its own in a list, made anew where the batch is another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.LSTM(5, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)])
        self.batch, self.hidden = 1, None

    def reset(self) -> None:
        self.hidden = [tuple(torch.zeros(1, self.batch, 4) for _ in "hc") for _ in self.layers]

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden is None or self.hidden[0][0].size(1) != x.size(0):
            self.batch = x.size(0)
            self.reset()
        new = []
        for layer, hidden in zip(self.layers, self.hidden):
            x, hidden = layer(x, hidden)
            new.append(tuple(part.detach() for part in hidden))
        self.hidden = new
        return x


@likeness({"wave": {0: "batch", 1: "samples"}}, lambda b, t: (torch.randn(b, 8 * t + 16),))
class Spectral(nn.Module):
    """Speech enhancement: a short-time transform, a mask over magnitudes from an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.rnn, self.out = nn.LSTM(9, 6, batch_first=True), nn.Linear(6, 9)

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.stft(wave, 16, 8, window=self.window, return_complex=True)
        magnitude = torch.view_as_real(s).pow(2).sum(-1).add(1e-9).sqrt().transpose(1, 2)
        y, _ = self.rnn(torch.log1p(magnitude))
        mask = torch.sigmoid(self.out(y))
        return mask * magnitude, mask


@likeness({"wave": {0: "batch", 1: "samples"}}, lambda b, t: (torch.randn(b, 8 * t + 24),))
class Framed(nn.Module):
    """Frames by unfold, windowed, layers over them, overlap and add by fold."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.rnn, self.out = nn.GRU(16, 6, batch_first=True), nn.Linear(6, 16)

    def forward(self, wave: Tensor) -> Tensor:
        x = wave.unfold(-1, 16, 8) * self.window
        y = self.out(self.rnn(x)[0]) * self.window
        size = (y.shape[1] - 1) * 8 + 16
        y = F.fold(y.transpose(1, 2), (1, size), (1, 16), stride=(1, 8))
        return y.view(y.size(0), -1)


@likeness({"mels": {0: "batch", 2: "frames"}}, lambda b, t: (torch.randn(b, 5, t + 4),))
class Vocoder(nn.Module):
    """Conditioning of a vocoder: residual convolutions without padding, stretched in time, a GRU over samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.smooth = (
            nn.Conv1d(5, 6, 5, bias=False),
            nn.BatchNorm1d(6),
            nn.Conv2d(1, 1, (1, 9), padding=(0, 4), bias=False),
        )
        self.rnn, self.out = nn.GRU(6, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, mels: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(mels)))
        b, c, h, w = x.unsqueeze(1).size()
        x = x.unsqueeze(1).unsqueeze(-1).unsqueeze(3).repeat(1, 1, 1, 1, 1, 4).view(b, c, h, w * 4)
        x = self.smooth(x).squeeze(1).transpose(1, 2)
        x = x + F.interpolate(mels[:, :1, 2:-2], scale_factor=4, mode="nearest").transpose(1, 2)
        return self.out(self.rnn(x)[0])


@likeness(XN, lambda b, t: (frames(b, t, 6), lengths(b, t, full=True)))
class AttentivePooling(nn.Module):
    """Speaker recognition: attention with padded keys, weighted mean and deviation, the largest k of all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.attention = nn.LSTM(6, 6, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True)
        self.score = nn.Conv1d(6, 1, 1)

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.rnn(x)
        mask = torch.arange(x.size(1), device=x.device).expand(len(n), x.size(1)) >= n.unsqueeze(1)
        y = y + self.attention(y, y, y, key_padding_mask=mask, need_weights=False)[0]
        w = torch.softmax(self.score(y.transpose(1, 2)).masked_fill(mask.unsqueeze(1), float("-inf")), -1)
        mean = torch.einsum("bot,btc->bc", w, y)
        deviation = torch.sqrt((w.transpose(1, 2) * (y - mean.unsqueeze(1)) ** 2).sum(1).clamp(min=1e-7))
        steps = torch.cumsum((~mask).float(), 1)
        return torch.cat([mean, deviation], -1), steps / n.unsqueeze(1)


@likeness(X, lambda b, t: (frames(b, t + 3),))
class Pyramid(nn.Module):
    """Listen, attend and spell: every second layer joins pairs of steps, an odd one left over."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nn.LSTM(5, 4, batch_first=True, bidirectional=True),
            nn.LSTM(16, 4, batch_first=True, bidirectional=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.first(x)
        b, t, d = y.size()
        y = y[:, : t // 2 * 2, :].contiguous().view(b, t // 2, d * 2)
        return self.second(y)[0]


@likeness(
    {"obs": {0: "batch"}, "hidden": {1: "batch"}, "mask": {0: "batch"}},
    lambda b, t: (
        {"image": torch.randn(b, 3, 8, 8), "vector": torch.randn(b, 4)},
        {"hidden": torch.randn(1, b, 6)},
        torch.randint(0, 2, (b, 1)).bool(),
    ),
    refused="names 'obs', but",
)
class WrongNames(nn.Module):
    """Axes that name a dict instead of what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv2d(3, 2, 3, 2), nn.GRU(22, 6)

    def forward(self, obs: dict[str, Tensor], state: dict[str, Tensor], mask: Tensor) -> Any:
        x = torch.cat([self.conv(obs["image"]).flatten(1), obs["vector"]], -1)
        y, h = self.rnn(x.unsqueeze(0), torch.where(mask, state["hidden"], torch.zeros_like(state["hidden"])))
        return y.squeeze(0), {"hidden": h}


@likeness(
    {"image": {0: "batch"}, "vector": {0: "batch"}, "hidden": {1: "batch"}, "mask": {0: "batch"}},
    lambda b, t: (
        {"image": torch.randn(b, 3, 8, 8), "vector": torch.randn(b, 4)},
        {"hidden": torch.randn(1, b, 6)},
        torch.randint(0, 2, (b, 1)).bool(),
    ),
)
class DictPolicy(WrongNames):
    """A policy on dicts of observations and of states, a mask of where an episode goes on."""


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t)), refused="'inward' is TorchScript already")
class Scripted(nn.Module):
    """A part of the model is TorchScript already."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = torch.jit.script(nn.Sequential(nn.Linear(5, 5), nn.ReLU()))
        self.rnn = nn.GRU(5, 4, batch_first=True)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        y, _ = self.rnn(pack_padded_sequence(self.inward(x), n, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True)[0]


@likeness(XN, lambda b, t: (frames(b, t), lengths(b, t, full=True)))
class ReversesRows(nn.Module):
    """Reads each row backward to its own end by gather, as two layers in place of a bidirectional one."""

    def __init__(self) -> None:
        super().__init__()
        self.forth, self.back = nn.GRU(5, 4, batch_first=True), nn.GRU(5, 4, batch_first=True)

    def reverse(self, x: Tensor, n: Tensor) -> Tensor:
        t = torch.arange(x.size(1)).unsqueeze(0).expand(x.size(0), -1)
        index = torch.where(t < n.unsqueeze(1), n.unsqueeze(1) - 1 - t, t)
        return torch.gather(x, 1, index.unsqueeze(-1).expand_as(x))

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        y, _ = self.forth(x)
        z, _ = self.back(self.reverse(x, n))
        return torch.cat([y, self.reverse(z, n)], -1)


@torch.jit.script_if_tracing
def over_all_but_the_batch(x: Tensor) -> Tensor:
    dims: list[int] = torch.arange(1, len(x.shape)).tolist()
    return x.mean(dim=dims, keepdim=True)


@likeness(X, lambda b, t: (frames(b, t + 8),))
class SeparationNorm(nn.Module):
    """A norm over all but the batch, in a function that tracing compiles; the dimensions are a list of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(5, 6, batch_first=True, bidirectional=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.rnn(x)[0])
        mean = over_all_but_the_batch(y)
        return x + (y - mean) / (over_all_but_the_batch((y - mean) ** 2) + 1e-5).sqrt()


@likeness({"wave": {0: "batch", 1: "samples"}}, lambda b, t: (torch.randn(b, 8 * t + 80),))
class Sinc(nn.Module):
    """Band-pass filters made of their edges, which lie between a whole number and one with a point."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.band = nn.Parameter(torch.rand(4, 1) * 100), nn.Parameter(torch.rand(4, 1) * 9000)
        self.register_buffer("time", torch.arange(-5, 6).view(1, -1) / 100)
        self.rnn, self.norm = nn.LSTM(4, 6, batch_first=True, bidirectional=True), nn.InstanceNorm1d(4)

    def forward(self, wave: Tensor) -> Tensor:
        low = 30 + self.low.abs()
        high = torch.clamp(low + 50 + self.band.abs(), 50, 8000 / 2)
        filters = (torch.sin(high * self.time) - torch.sin(low * self.time)) / (high - low)
        x = F.conv1d(wave.unsqueeze(1), filters.unsqueeze(1), stride=4)
        x = F.max_pool1d(self.norm(x.abs()), 9)  # takes no wave that is shorter than some 70 samples
        return self.rnn(F.leaky_relu(x).transpose(1, 2))[0]


@likeness(X, lambda b, t: (frames(b, 2 * t + 1, 8),))
class ConvRecurrent(nn.Module):
    """Convolutions and pools over steps and features; squeezes a dimension that need not be 1, and is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d((2, 1))
        self.rnn = nn.GRU(24, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(F.leaky_relu(self.conv(x.unsqueeze(1)))).permute(0, 2, 3, 1)
        return self.rnn(y.squeeze(-1).flatten(2))[0]


@likeness({"wave": {0: "batch", 1: "samples"}}, lambda b, t: (torch.randn(b, 6 * t),))
class Denoiser(nn.Module):
    """Pads to a length that its strides divide, rounding up what is whole already, and cuts it off again."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(1, 6, 8, 4), nn.ConvTranspose1d(6, 1, 8, 4)
        self.rnn = nn.LSTM(6, 6)

    def valid(self, length: int) -> int:
        steps = max(math.ceil((math.ceil(length * 2) - 8) / 4) + 1, 1)
        return int(math.ceil(((steps - 1) * 4 + 8) / 2)) + 4

    def forward(self, wave: Tensor) -> Tensor:
        length = wave.shape[-1]
        x = F.pad(wave.unsqueeze(1), (0, self.valid(length) - length))
        y, _ = self.rnn(self.down(x).permute(2, 0, 1))
        return self.up(y.permute(1, 2, 0))[..., :length].squeeze(1)
