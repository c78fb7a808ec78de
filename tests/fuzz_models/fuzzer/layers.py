"""Features that are layers: recurrent ones with all their options, and what stands around them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from .feature import HIDDEN, Feature
from .source import Source


@dataclass(frozen=True)
class Recurrent(Feature):
    """nn.RNN, nn.LSTM or nn.GRU."""

    kind: str
    hidden: int
    layers: int = 1
    both: bool = False
    batch_first: bool = True
    projected: bool = False
    relu: bool = False
    packed: bool = False
    total: bool = False
    given: bool = False
    final: bool = False

    PLAIN: ClassVar[dict[str, object]] = {"kind": "GRU", "layers": 1, "batch_first": True}

    @classmethod
    def draw(cls, rng: random.Random) -> Recurrent:
        def chance(share: float) -> bool:
            return rng.random() < share

        return cls(
            rng.choice(["RNN", "LSTM", "GRU"]),
            rng.choice(HIDDEN),
            rng.choices([1, 2], [4, 1])[0],
            both=chance(0.25),
            batch_first=chance(0.8),
            projected=chance(0.15),
            relu=chance(0.2),
            packed=chance(0.2),
            total=chance(0.5),
            given=chance(0.2),
            final=chance(0.3),
        )

    def write(self, code: Source) -> None:
        lstm, projected = self.kind == "LSTM", self.projected and self.kind == "LSTM"
        directions, wide = 1 + self.both, 2 if projected else self.hidden
        options = [str(code.width), str(self.hidden)]
        options += [f"num_layers={self.layers}"] if self.layers > 1 else []
        options += ["batch_first=True"] if self.batch_first else []
        options += ["bidirectional=True"] if self.both else []
        options += ["proj_size=2"] if projected else []
        options += ['nonlinearity="relu"'] if self.relu and self.kind == "RNN" else []
        layer = code.build("rnn", f"nn.{self.kind}({', '.join(options)})")
        before = "x" if self.batch_first else "x.transpose(0, 1)"
        packed = self.packed and code.whole
        if packed:
            code.take("lengths", "lengths", "batch")
            first = ", batch_first=True" if self.batch_first else ""
            code.line(
                f"packed = nn.utils.rnn.pack_padded_sequence({before}, lengths{first}, enforce_sorted=False)",
            )
        state = ""
        if self.given:
            sizes = {"h0": wide, **({"c0": self.hidden} if lstm else {})}
            names = [
                code.take(code.fresh(name), "float", self.layers * directions, "batch", size)
                for name, size in sizes.items()
            ]
            state = f", ({', '.join(names)})" if lstm else f", {names[0]}"
        final = f"h_{code.fresh('n')}"
        cell = final.replace("h", "c", 1)
        back = f"({final}, {cell})" if lstm else final
        code.line(f"{'out' if packed else 'x'}, {back} = {layer}({'packed' if packed else before}{state})")
        if packed:
            total = f", total_length={'x.size(1)'}" if self.total else ""
            first = ", batch_first=True" if self.batch_first else ""
            code.line(f"x, _ = nn.utils.rnn.pad_packed_sequence(out{first}{total})")
            code.whole = code.whole and self.total
        if not self.batch_first:
            code.line("x = x.transpose(0, 1)")
        if self.given or self.final:
            code.results |= {final: final, **({cell: cell} if lstm else {})}
        code.width = wide * directions


PIECES = ("linear", "norm", "causal", "same", "valid", "strided", "group", "instance", "batch", "glu", "attention")


@dataclass(frozen=True)
class Piece(Feature):
    """A layer that is not recurrent."""

    form: str
    size: int

    PLAIN: ClassVar[dict[str, object]] = {"form": "linear", "size": 3}

    @classmethod
    def draw(cls, rng: random.Random) -> Piece:
        return cls(rng.choices(PIECES, [6, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1])[0], rng.choice([2, 3, 5, 9]))

    def write(self, code: Source) -> None:
        width, k = code.width, self.size
        over_time = "x = {layer}(x.transpose(1, 2)).transpose(1, 2)"
        match self.form:
            case "linear":
                layer = code.build("proj", f"nn.Linear({width}, 6)")
                code.line(f"x = torch.relu({layer}(x))")
                code.width = 6
            case "norm":
                code.line(f"x = {code.build('norm', f'nn.LayerNorm({width})')}(x)")
            case "causal":
                layer = code.build("conv", f"nn.Conv1d({width}, 6, {k})")
                code.line(f"x = {layer}(F.pad(x.transpose(1, 2), ({k - 1}, 0))).transpose(1, 2)")
                code.width = 6
            case "same":
                layer = code.build("conv", f'nn.Conv1d({width}, 6, {k}, padding="same", dilation=2)')
                code.line(over_time.format(layer=layer))
                code.width = 6
            case "valid" | "strided":
                stride = ", stride=2" if self.form == "strided" else ""
                code.line(over_time.format(layer=code.build("conv", f"nn.Conv1d({width}, 6, {k}{stride})")))
                code.near.setdefault("time", set()).add(k)
                code.width, code.whole = 6, False
            case "group":
                code.line(over_time.format(layer=code.build("norm", f"nn.GroupNorm(1, {width})")))
            case "instance":
                code.line(over_time.format(layer=code.build("norm", f"nn.InstanceNorm1d({width})")))
            case "batch":
                code.line(over_time.format(layer=code.build("norm", f"nn.BatchNorm1d({width})")))
            case "glu":
                layer = code.build("gated", f"nn.Linear({width}, 12)")
                code.line(f"x = F.glu({layer}(x), dim=-1)")
                code.width = 6
            case _:
                layer = code.build("score", f"nn.Linear({width}, 1)")
                code.line(f"x = x + (torch.softmax({layer}(x), 1) * x).sum(1, keepdim=True)")
