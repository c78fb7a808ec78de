"""Loops over time as people write them: LOOPS is name -> Case.

x is (batch, sequence, 5) where a model is batch first, (sequence, batch, 5) where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IN, HID = 5, 8


@dataclass(frozen=True)
class Case:
    """A model with a loop, and how it is called.

    Attributes:
        model: makes the module, without a seed of its own.
        inputs: (batch, sequence) -> forward's arguments.
        axes: for the export.
        refused: where it is refused: words of the reason; else None.
    """

    model: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    axes: dict[str, dict[int, str]]
    refused: str | None = None


LOOPS: dict[str, Case] = {}

BATCH_FIRST = {0: "batch", 1: "sequence"}
TIME_FIRST = {0: "sequence", 1: "batch"}


def batch_first(batch: int, sequence: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, sequence, IN),)


def time_first(batch: int, sequence: int) -> tuple[Tensor, ...]:
    return (torch.randn(sequence, batch, IN),)


def loop(
    inputs: Callable[[int, int], tuple[Tensor, ...]] = batch_first,
    axes: dict[str, dict[int, str]] | None = None,
    refused: str | None = None,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Add a model to LOOPS under its class's name."""

    def add(model: type[nn.Module]) -> type[nn.Module]:
        x = BATCH_FIRST if inputs is batch_first else TIME_FIRST
        LOOPS[model.__name__] = Case(model, inputs, axes or {"x": x}, refused)
        return model

    return add


# Cells of torch


@loop(time_first)
class LSTMCellLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_size = HID
        self.cell = nn.LSTMCell(IN, HID)

    def forward(self, x):
        h = torch.zeros(x.size(1), self.hidden_size, dtype=x.dtype)
        c = torch.zeros(x.size(1), self.hidden_size, dtype=x.dtype)
        outputs = []
        for t in range(x.size(0)):
            h, c = self.cell(x[t], (h, c))
            outputs.append(h)
        return torch.stack(outputs), h, c


@loop()
class GRUCellUnbind(nn.Module):
    """The state is None at the first step."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(IN, HID), nn.Linear(HID, 3)

    def forward(self, x):
        h, out = None, []
        for x_t in x.unbind(1):
            h = self.cell(x_t, h)
            out.append(self.head(h))
        return torch.stack(out, dim=1)


@loop(time_first)
class RNNCellIteration(nn.Module):
    """Iterates over the tensor itself."""

    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(IN, HID, nonlinearity="relu")

    def forward(self, x):
        h, out = x.new_zeros(x.shape[1], HID), []
        for x_t in x:
            h = self.cell(x_t, h)
            out += [h]
        return torch.stack(out, 0)


@loop(
    lambda b, t: (torch.randn(b, t, IN), torch.randn(b, HID), torch.randn(b, HID)),
    {"x": BATCH_FIRST, "h": {0: "batch"}, "c": {0: "batch"}},
)
class LSTMCellGivenState(nn.Module):
    """The state is an argument and a result."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(IN, HID, bias=False)

    def forward(self, x, h, c):
        outs = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t, :], (h, c))
            outs.append(h.unsqueeze(1))
        return torch.cat(outs, dim=1), (h, c)


@loop()
class LSTMCellLast(nn.Module):
    """A classifier on the last state alone."""

    def __init__(self):
        super().__init__()
        self.cell, self.fc = nn.LSTMCell(IN, HID), nn.Linear(HID, 4)

    def forward(self, x):
        hx = torch.zeros(x.size(0), HID).to(x)
        cx = torch.zeros(x.size(0), HID).to(x)
        for i in range(x.size(1)):
            hx, cx = self.cell(x[:, i], (hx, cx))
        return self.fc(hx)


@loop()
class StackedCells(nn.Module):
    """Layers inside time."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(IN, HID), nn.LSTMCell(HID, HID), nn.LSTMCell(HID, HID)])

    def forward(self, x):
        b, t, _ = x.shape
        states = [(x.new_zeros(b, HID), x.new_zeros(b, HID)) for _ in self.cells]
        outputs = []
        for i in range(t):
            inp = x[:, i]
            for k, cell in enumerate(self.cells):
                states[k] = cell(inp, states[k])
                inp = states[k][0]
            outputs.append(inp)
        return torch.stack(outputs, 1)


@loop()
class LayersOutsideTime(nn.Module):
    """One loop after another, each over the list that the one before made."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.GRUCell(IN, HID), nn.GRUCell(HID, HID)])

    def forward(self, x):
        seq = [x[:, t] for t in range(x.shape[1])]
        for layer in self.layers:
            h, out = x.new_zeros(x.shape[0], HID), []
            for x_t in seq:
                h = layer(x_t, h)
                out.append(h)
            seq = out
        return torch.stack(seq, 1)


@loop()
class Bidirectional(nn.Module):
    def __init__(self):
        super().__init__()
        self.forward_cell, self.backward_cell = nn.GRUCell(IN, HID), nn.GRUCell(IN, HID)

    def forward(self, x):
        b, T, _ = x.shape
        h_f = h_b = x.new_zeros(b, HID)
        fwd, bwd = [], []
        for t in range(T):
            h_f = self.forward_cell(x[:, t], h_f)
            fwd.append(h_f)
        for t in reversed(range(T)):
            h_b = self.backward_cell(x[:, t], h_b)
            bwd.append(h_b)
        bwd.reverse()
        return torch.cat([torch.stack(fwd, 1), torch.stack(bwd, 1)], dim=-1)


@loop()
class BothDirectionsInOneLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.LSTMCell(IN, HID), nn.LSTMCell(IN, HID)

    def forward(self, x):
        T = x.shape[1]
        hf, cf, hb, cb = (torch.zeros(x.shape[0], HID, dtype=x.dtype) for _ in range(4))
        of, ob = [], []
        for t in range(T):
            hf, cf = self.a(x[:, t], (hf, cf))
            hb, cb = self.b(x[:, T - 1 - t], (hb, cb))
            of.append(hf)
            ob.insert(0, hb)
        return torch.cat((torch.stack(of, 1), torch.stack(ob, 1)), 2)


@loop()
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.cell = nn.Linear(IN, HID), nn.GRUCell(HID, HID)

    def forward(self, x):
        x = self.proj(x)
        h = torch.zeros_like(x[:, 0])
        ys = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            ys.append(torch.relu(h) + x[:, t])
        return torch.stack(ys, dim=1).mean(dim=1)


@loop(time_first)
class WholeLSTMByStep(nn.Module):
    """An nn.LSTM that is called step by step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.norm = nn.LSTM(IN, HID), nn.LayerNorm(HID)

    def forward(self, x):
        state = (x.new_zeros(1, x.shape[1], HID), x.new_zeros(1, x.shape[1], HID))
        out = []
        for t in range(x.shape[0]):
            y, state = self.lstm(x[t].unsqueeze(0), state)
            out.append(self.norm(y.squeeze(0)))
        return torch.stack(out)


@loop()
class WholeGRUByStep(nn.Module):
    """Two layers, batch first, fed slices of one step, without a state at the first."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(IN, HID, num_layers=2, batch_first=True)

    def forward(self, x):
        h, out = None, []
        for t in range(x.shape[1]):
            y, h = self.gru(x[:, t : t + 1], h)
            out.append(y)
        return torch.cat(out, 1), h


# Cells of one's own


@loop(time_first)
class LayerNormLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.norm = nn.LSTMCell(IN, HID), nn.LayerNorm(HID)

    def forward(self, x):
        h = x.new_zeros(x.shape[1], HID)
        c = h
        o = []
        for t in range(x.shape[0]):
            h, c = self.cell(x[t], (h, c))
            h = self.norm(h)
            o.append(h)
        return torch.stack(o), h, c


@loop()
class LayerNormGates(nn.Module):
    """Layer norm on the gates, as in the paper."""

    def __init__(self):
        super().__init__()
        self.i2h, self.h2h = nn.Linear(IN, 4 * HID, bias=False), nn.Linear(HID, 4 * HID)
        self.ln_i, self.ln_h, self.ln_c = nn.LayerNorm(4 * HID), nn.LayerNorm(4 * HID), nn.LayerNorm(HID)

    def forward(self, x):
        h = c = torch.zeros(x.shape[0], HID).type_as(x)
        out = []
        for t in range(x.shape[1]):
            gates = self.ln_i(self.i2h(x[:, t])) + self.ln_h(self.h2h(h))
            i, f, g, o = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.ln_c(c))
            out.append(h)
        return torch.stack(out, 1)


@loop()
class PeepholeLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.W, self.U = nn.Linear(IN, 4 * HID), nn.Linear(HID, 4 * HID, bias=False)
        self.p_i, self.p_f, self.p_o = (nn.Parameter(torch.randn(HID) * 0.1) for _ in range(3))

    def forward(self, x):
        batch, steps, _ = x.size()
        h_t, c_t = torch.zeros(batch, HID, dtype=x.dtype), torch.zeros(batch, HID, dtype=x.dtype)
        hidden_seq = []
        for t in range(steps):
            x_t = x[:, t, :]
            gates = self.W(x_t) + self.U(h_t)
            i = torch.sigmoid(gates[:, :HID] + self.p_i * c_t)
            f = torch.sigmoid(gates[:, HID : 2 * HID] + self.p_f * c_t)
            g = torch.tanh(gates[:, 2 * HID : 3 * HID])
            c_t = f * c_t + i * g
            o = torch.sigmoid(gates[:, 3 * HID :] + self.p_o * c_t)
            h_t = o * torch.tanh(c_t)
            hidden_seq.append(h_t.unsqueeze(0))
        hidden_seq = torch.cat(hidden_seq, dim=0)
        return hidden_seq.transpose(0, 1).contiguous(), (h_t, c_t)


@loop()
class HandWrittenLSTM(nn.Module):
    """The eight matrices of many blog posts."""

    def __init__(self):
        super().__init__()
        for gate in "ifgo":
            self.register_parameter(f"W_{gate}", nn.Parameter(torch.randn(IN, HID) / 4))
            self.register_parameter(f"U_{gate}", nn.Parameter(torch.randn(HID, HID) / 4))
            self.register_parameter(f"b_{gate}", nn.Parameter(torch.zeros(HID)))

    def forward(self, x):
        h_t, c_t, hidden = None, None, []
        for t in range(x.size(1)):
            x_t = x[:, t, :]
            if h_t is None:
                h_t, c_t = torch.zeros(x.size(0), HID).to(x), torch.zeros(x.size(0), HID).to(x)
            i_t = torch.sigmoid(x_t @ self.W_i + h_t @ self.U_i + self.b_i)
            f_t = torch.sigmoid(x_t @ self.W_f + h_t @ self.U_f + self.b_f)
            g_t = torch.tanh(x_t @ self.W_g + h_t @ self.U_g + self.b_g)
            o_t = torch.sigmoid(x_t @ self.W_o + h_t @ self.U_o + self.b_o)
            c_t = f_t * c_t + i_t * g_t
            h_t = o_t * torch.tanh(c_t)
            hidden.append(h_t)
        return torch.stack(hidden, 1)


@loop()
class LiGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.u = nn.Linear(IN, 2 * HID, bias=False), nn.Linear(HID, 2 * HID, bias=False)
        self.norm = nn.BatchNorm1d(2 * HID)
        self.register_buffer("h_init", torch.zeros(1, HID))

    def forward(self, x):
        w = self.w(x)
        w = self.norm(w.reshape(w.shape[0] * w.shape[1], w.shape[2])).reshape(w.shape)
        ht, hiddens = self.h_init, []
        for k in range(w.shape[1]):
            at, zt = (w[:, k] + self.u(ht)).chunk(2, 1)
            zt = torch.sigmoid(zt)
            ht = zt * ht + (1 - zt) * torch.relu(at)
            hiddens.append(ht)
        return torch.stack(hiddens, dim=1)


@loop(time_first)
class IndRNN(nn.Module):
    """Its state grows to the batch by broadcasting."""

    def __init__(self):
        super().__init__()
        self.w, self.u = nn.Linear(IN, HID), nn.Parameter(torch.rand(HID))

    def forward(self, x):
        h, out = torch.zeros(HID).to(x), []
        for x_t in x.split(1, dim=0):
            h = torch.relu(self.w(x_t.squeeze(0)) + self.u * h)
            out.append(h)
        return torch.stack(out)


@loop()
class ESN(nn.Module):
    """An echo state network with a leak."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w_in", torch.randn(IN, HID) / 2)
        self.register_buffer("w", torch.randn(HID, HID) / 4)
        self.leak, self.readout = 0.3, nn.Linear(HID + IN, 2)

    def forward(self, x):
        state, states = torch.zeros(x.shape[0], HID).to(x), []
        for t in range(x.shape[1]):
            u = x[:, t]
            state = (1 - self.leak) * state + self.leak * torch.tanh(u @ self.w_in + state @ self.w)
            states.append(torch.cat([state, u], dim=1))
        return self.readout(torch.stack(states, dim=1))


@loop()
class SRU(nn.Module):
    """The simple recurrent unit: all products before the loop."""

    def __init__(self):
        super().__init__()
        self.lin, self.v_f, self.v_r = (
            nn.Linear(IN, 3 * HID),
            nn.Parameter(torch.rand(HID)),
            nn.Parameter(torch.rand(HID)),
        )
        self.skip = nn.Linear(IN, HID, bias=False)

    def forward(self, x):
        u, f, r = self.lin(x).chunk(3, dim=-1)
        s = self.skip(x)
        c, out = torch.zeros(x.shape[0], HID, dtype=x.dtype), []
        for t in range(x.shape[1]):
            ft = torch.sigmoid(f[:, t] + self.v_f * c)
            rt = torch.sigmoid(r[:, t] + self.v_r * c)
            c = ft * c + (1 - ft) * u[:, t]
            out.append(rt * c + (1 - rt) * s[:, t])
        return torch.stack(out, 1), c


@loop()
class LiquidTimeConstant(nn.Module):
    """A continuous-time cell, six solver steps in each."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(IN + HID, HID)
        self.tau, self.a = nn.Parameter(torch.rand(HID) + 1), nn.Parameter(torch.randn(HID))

    def forward(self, x):
        h = torch.zeros(x.shape[0], HID, device=x.device, dtype=x.dtype)
        ys = []
        for t in range(x.shape[1]):
            for _ in range(6):
                f = torch.sigmoid(self.f(torch.cat([x[:, t], h], dim=-1)))
                h = (h + f * self.a / 6) / (1 + (1 / self.tau + f) / 6)
            ys.append(h)
        return torch.stack(ys, dim=1)


@loop()
class ConvLSTM(nn.Module):
    """A convolutional LSTM over (batch, sequence, channels, height, width)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2 + 3, 4 * 3, 3, padding=1)

    def forward(self, x):
        b, t, _, height, width = x.shape
        h = torch.zeros(b, 3, height, width, dtype=x.dtype)
        c = torch.zeros(b, 3, height, width, dtype=x.dtype)
        outs = []
        for k in range(t):
            i, f, o, g = torch.split(self.conv(torch.cat([x[:, k], h], dim=1)), 3, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outs.append(h)
        return torch.stack(outs, dim=1), h


LOOPS["ConvLSTM"] = Case(ConvLSTM, lambda b, t: (torch.randn(b, t, 2, 4, 6),), {"x": BATCH_FIRST})


@loop()
class ZoneOut(nn.Module):
    """Zoneout in evaluation mode: a mix of the old and the new state."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(IN, HID)

    def forward(self, x):
        h, c = x.new_zeros(x.size(0), HID), x.new_zeros(x.size(0), HID)
        out = []
        for t in range(x.size(1)):
            nh, nc = self.cell(F.dropout(x[:, t], 0.2, self.training), (h, c))
            h, c = 0.1 * h + 0.9 * nh, 0.05 * c + 0.95 * nc
            out.append(h)
        return torch.stack(out, 1)


# Attention, memory, decoders


@loop(
    lambda b, t: (torch.randn(b, t, IN), torch.randn(b, t + 2, 6)),
    {"x": BATCH_FIRST, "memory": {0: "batch", 1: "source"}},
)
class GRUWithAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.query, self.key = nn.GRUCell(IN + 6, HID), nn.Linear(HID, 7), nn.Linear(6, 7)
        self.score = nn.Linear(7, 1)

    def forward(self, x, memory):
        h, outs, weights = x.new_zeros(x.shape[0], HID), [], []
        for t in range(x.shape[1]):
            energy = self.score(torch.tanh(self.query(h).unsqueeze(1) + self.key(memory))).squeeze(-1)
            alpha = torch.softmax(energy, dim=-1)
            context = torch.bmm(alpha.unsqueeze(1), memory).squeeze(1)
            h = self.cell(torch.cat([x[:, t], context], dim=-1), h)
            outs.append(h)
            weights.append(alpha)
        return torch.stack(outs, 1), torch.stack(weights, 1)


@loop()
class SelfAttentionEachStep(nn.Module):
    """Attention of the state over the whole input."""

    def __init__(self):
        super().__init__()
        self.cell, self.q, self.v = nn.GRUCell(IN, HID), nn.Linear(HID, IN), nn.Linear(IN, IN)

    def forward(self, x):
        h, ys = torch.zeros(x.size(0), HID).to(x), []
        for t in range(x.size(1)):
            scores = torch.einsum("bd,btd->bt", self.q(h), x) / math.sqrt(IN)
            context = torch.einsum("bt,btd->bd", scores.softmax(-1), self.v(x))
            h = self.cell(context + x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


@loop(lambda b, t: (torch.randint(0, 11, (b, t)), torch.randn(b, HID)), {"targets": BATCH_FIRST, "h": {0: "batch"}})
class TeacherForcing(nn.Module):
    """The decoder of a sequence-to-sequence model: the token before is the next input."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.out = nn.Embedding(11, IN), nn.GRUCell(IN, HID), nn.Linear(HID, 11)

    def forward(self, targets, h):
        token = torch.zeros(targets.shape[0], dtype=torch.long)
        logits = []
        for t in range(targets.shape[1]):
            h = self.cell(self.embed(token), h)
            logits.append(self.out(h))
            token = targets[:, t]
        return torch.stack(logits, dim=1)


@loop()
class FedBack(nn.Module):
    """The last prediction is a part of the next input."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(IN + 2, HID), nn.Linear(HID, 2)

    def forward(self, x):
        batch = x.size(0)
        h, c, y = x.new_zeros(batch, HID), x.new_zeros(batch, HID), x.new_zeros(batch, 2)
        ys = []
        for t in range(x.size(1)):
            h, c = self.cell(torch.cat((x[:, t], y), 1), (h, c))
            y = torch.tanh(self.out(h))
            ys.append(y)
        return torch.stack(ys, 1)


@loop(lambda b, t: (torch.randn(b, t, IN), torch.randint(0, 9, (b,))), {"x": BATCH_FIRST, "start": {0: "batch"}})
class GreedyDecoder(nn.Module):
    """As many tokens as there are input steps, each the best one after the token before."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.out = nn.Embedding(9, HID), nn.GRUCell(HID, HID), nn.Linear(HID, 9)
        self.init = nn.Linear(IN, HID)

    def forward(self, x, start):
        h, token = torch.tanh(self.init(x.mean(1))), start
        tokens = []
        for _ in range(x.shape[1]):
            h = self.cell(self.embed(token), h)
            token = self.out(h).argmax(-1)
            tokens.append(token)
        return torch.stack(tokens, 1)


@loop(lambda b, t: (torch.randn(b, t, IN), torch.randn(b, t, IN)), {"source": BATCH_FIRST, "target": BATCH_FIRST})
class EncoderDecoder(nn.Module):
    """Two loops, the second starts where the first ends."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.out = nn.LSTMCell(IN, HID), nn.LSTMCell(IN, HID), nn.Linear(HID, IN)

    def forward(self, source, target):
        state = None
        for t in range(source.shape[1]):
            state = self.encoder(source[:, t], state)
        ys = []
        for t in range(target.shape[1]):
            state = self.decoder(target[:, t], state)
            ys.append(self.out(state[0]))
        return torch.stack(ys, 1)


@loop()
class MemoryMatrix(nn.Module):
    """A fast-weight memory: the carried state is a matrix."""

    def __init__(self):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(IN, HID), nn.Linear(IN, HID), nn.Linear(IN, HID)
        self.beta = nn.Linear(IN, 1)

    def forward(self, x):
        S = torch.zeros(x.shape[0], HID, HID, dtype=x.dtype)
        out = []
        for t in range(x.shape[1]):
            k, v, q = torch.softmax(self.k(x[:, t]), -1), self.v(x[:, t]), self.q(x[:, t])
            b = torch.sigmoid(self.beta(x[:, t])).unsqueeze(-1)
            S = S + b * torch.einsum("bi,bj->bij", v - torch.einsum("bij,bj->bi", S, k), k)
            out.append(torch.einsum("bij,bj->bi", S, q))
        return torch.stack(out, dim=1)


@loop()
class StateSpace(nn.Module):
    """A selective state space model's reference loop."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.rand(IN, 4) + 0.5)
        self.dt, self.B, self.C = nn.Linear(IN, IN), nn.Linear(IN, 4), nn.Linear(IN, 4)

    def forward(self, u):
        dt, B, C = F.softplus(self.dt(u)), self.B(u), self.C(u)
        dA = torch.exp(-dt.unsqueeze(-1) * self.A)
        dBu = dt.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1)
        x = torch.zeros(u.shape[0], IN, 4, dtype=u.dtype)
        ys = []
        for i in range(u.shape[1]):
            x = dA[:, i] * x + dBu[:, i]
            ys.append(torch.einsum("bdn,bn->bd", x, C[:, i, :]))
        return torch.stack(ys, dim=1) + u


LOOPS["StateSpace"] = Case(StateSpace, batch_first, {"u": BATCH_FIRST})


# Reads and writes


@loop()
class Preallocated(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(IN, HID), nn.Linear(HID, 3)

    def forward(self, x):
        B, T, _ = x.shape
        y = torch.zeros(B, T, 3, dtype=x.dtype)
        h = torch.zeros(B, HID, dtype=x.dtype)
        for t in range(T):
            h = self.cell(x[:, t], h)
            y[:, t] = self.head(h)
        return y


@loop(time_first)
class PreallocatedWithFirst(nn.Module):
    """A tensor of one step more, whose first is the initial state, read and written by index."""

    def __init__(self):
        super().__init__()
        self.cell, self.h0 = nn.RNNCell(IN, HID), nn.Parameter(torch.randn(1, HID))

    def forward(self, x):
        T, N, _ = x.shape
        states = torch.empty(T + 1, N, HID, dtype=x.dtype)
        states[0] = self.h0.expand(N, HID)
        for t in range(T):
            states[t + 1] = self.cell(x[t], states[t])
        return states[1:]


@loop()
class GrowingResult(nn.Module):
    """Outputs appended by cat, one after another."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        result = None
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            result = h.unsqueeze(1) if result is None else torch.cat([result, h.unsqueeze(1)], dim=1)
        return result


@loop()
class NeighbouringSteps(nn.Module):
    """Reads t - 1, t and t + 1, zeros beyond the ends."""

    def __init__(self):
        super().__init__()
        self.mix, self.cell = nn.Linear(3 * IN, IN), nn.GRUCell(IN, HID)

    def forward(self, x):
        T = x.size(1)
        h, zero, out = x.new_zeros(x.size(0), HID), torch.zeros_like(x[:, 0]), []
        for t in range(T):
            before = x[:, t - 1] if t > 0 else zero
            after = x[:, t + 1] if t < T - 1 else zero
            h = self.cell(self.mix(torch.cat([before, x[:, t], after], -1)), h)
            out.append(h)
        return torch.stack(out, 1)


@loop()
class Differences(nn.Module):
    """The first step differs: there is nothing to take the difference to."""

    def __init__(self):
        super().__init__()
        self.cell, self.first = nn.GRUCell(IN, HID), nn.Linear(IN, HID)

    def forward(self, x):
        outs = []
        for t in range(x.shape[1]):
            if t == 0:
                h = torch.tanh(self.first(x[:, 0]))
            else:
                h = self.cell(x[:, t] - x[:, t - 1], h)
            outs.append(h)
        return torch.stack(outs, 1)


@loop()
class FromTheSecondStep(nn.Module):
    """Starts at the second step from the first."""

    def __init__(self):
        super().__init__()
        self.init, self.cell = nn.Linear(IN, HID), nn.GRUCell(IN, HID)

    def forward(self, x):
        h = self.init(x[:, 0])
        hs = [h]
        for t in range(1, x.size(1)):
            h = self.cell(x[:, t], h)
            hs.append(h)
        return torch.stack(hs, 1), h


@loop()
class SecondOrder(nn.Module):
    """Takes the states of the two steps before."""

    def __init__(self):
        super().__init__()
        self.w, self.u, self.v = nn.Linear(IN, HID), nn.Linear(HID, HID), nn.Linear(HID, HID)

    def forward(self, x):
        prev = prev2 = torch.zeros(x.shape[0], HID).to(x)
        outs = []
        for t in range(x.shape[1]):
            h = torch.tanh(self.w(x[:, t]) + self.u(prev) + self.v(prev2))
            prev2, prev = prev, h
            outs.append(h)
        return torch.stack(outs, 1)


@loop(
    lambda b, t: (torch.randn(b, t, IN), torch.cat([torch.randint(1, t + 1, (b - 1,)), torch.tensor([t])])),
    {"x": BATCH_FIRST, "lengths": {0: "batch"}},
)
class MaskedByWhere(nn.Module):
    """Rows end at their lengths, by torch.where."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x, lengths):
        h, out = torch.zeros(x.shape[0], HID, dtype=x.dtype), []
        for t in range(x.shape[1]):
            new = self.cell(x[:, t], h)
            inside = (t < lengths).unsqueeze(1)
            h = torch.where(inside, new, h)
            out.append(torch.where(inside, new, torch.zeros_like(new)))
        return torch.stack(out, 1), h


@loop(lambda b, t: (torch.randn(b, t, IN), (torch.rand(b, t) < 0.3).float()), {"x": BATCH_FIRST, "done": BATCH_FIRST})
class ResetWhereDone(nn.Module):
    """A control policy: the state is reset where an episode ended."""

    def __init__(self):
        super().__init__()
        self.enc, self.cell, self.pi = nn.Linear(IN, HID), nn.LSTMCell(HID, HID), nn.Linear(HID, 4)

    def forward(self, x, done):
        h = c = torch.zeros(x.shape[0], HID, dtype=x.dtype)
        z, logits = torch.relu(self.enc(x)), []
        for t in range(x.shape[1]):
            keep = (1.0 - done[:, t]).unsqueeze(-1).to(x.dtype)
            h, c = self.cell(z[:, t], (keep * h, keep * c))
            logits.append(self.pi(h))
        return torch.stack(logits, dim=1)


@loop(lambda b, t: (torch.randn(b, t, IN), torch.rand(b, t)), {"x": BATCH_FIRST, "gaps": BATCH_FIRST})
class TimeGaps(nn.Module):
    """GRU-D: the state decays with the time since the last value."""

    def __init__(self):
        super().__init__()
        self.decay, self.cell = nn.Linear(1, HID), nn.GRUCell(IN, HID)

    def forward(self, x, gaps):
        h = torch.zeros(x.size(0), HID, dtype=x.dtype)
        out = []
        for x_t, gap in zip(x.unbind(dim=1), gaps.unbind(dim=1), strict=True):
            h = h * torch.exp(-torch.relu(self.decay(gap.unsqueeze(-1))))
            h = self.cell(x_t, h)
            out.append(h)
        return torch.stack(out, dim=1)


@loop()
class ClockFeature(nn.Module):
    """The number of the step is an input."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN + 1, HID)

    def forward(self, x):
        h, out = x.new_zeros(x.shape[0], HID), []
        for t in range(x.shape[1]):
            clock = torch.ones_like(x[:, t, :1]) * (t * 0.01)
            h = self.cell(torch.cat([x[:, t], clock], dim=1), h)
            out.append(h)
        return torch.stack(out, 1)


@loop()
class Smoothing(nn.Module):
    """An exponential moving average, with statistics over the loop's results."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        ema, total = x[:, 0], torch.zeros_like(x[:, 0])
        series = [ema]
        for t in range(1, x.shape[1]):
            ema = self.alpha * x[:, t] + (1 - self.alpha) * ema
            total = total + (ema - x[:, t]).abs()
            series.append(ema)
        return torch.stack(series, 1), total / x.shape[1]


@loop()
class Kalman(nn.Module):
    """A linear filter: mean and covariance are carried."""

    def __init__(self):
        super().__init__()
        self.F, self.H = nn.Parameter(torch.eye(4) * 0.9), nn.Parameter(torch.randn(IN, 4) / 2)
        self.Q, self.R = nn.Parameter(torch.eye(4) * 0.1), nn.Parameter(torch.eye(IN))

    def forward(self, z):
        m = torch.zeros(z.shape[0], 4, dtype=z.dtype)
        P = torch.eye(4, dtype=z.dtype).expand(z.shape[0], 4, 4)
        means = []
        for t in range(z.shape[1]):
            m, P = m @ self.F.T, self.F @ P @ self.F.T + self.Q
            S = self.H @ P @ self.H.T + self.R
            # One step of Newton's iteration stands in for the inverse.
            X = self.R / (1 + S.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None])
            K = P @ self.H.T @ (2 * X - X @ S @ X)
            m = m + torch.einsum("bij,bj->bi", K, z[:, t] - m @ self.H.T)
            P = P - K @ self.H @ P
            means.append(m)
        return torch.stack(means, 1)


LOOPS["Kalman"] = Case(Kalman, batch_first, {"z": BATCH_FIRST})


@loop()
class RunningNorm(nn.Module):
    """Statistics of all steps so far, carried."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        s = torch.zeros(x.shape[0], IN, dtype=x.dtype)
        h, out = torch.zeros(x.shape[0], HID, dtype=x.dtype), []
        for t in range(x.shape[1]):
            s = s + x[:, t]
            h = self.cell(x[:, t] - s / (t + 1), h)
            out.append(h)
        return torch.stack(out, 1)


@loop(time_first)
class ConvolutionsAround(nn.Module):
    """A convolution before the loop and one after it."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv1d(IN, HID, 3, padding=1), nn.Conv1d(HID, 2, 3, padding=1)
        self.cell = nn.GRUCell(HID, HID)

    def forward(self, x):
        z = self.before(x.permute(1, 2, 0)).permute(2, 0, 1)
        h, out = torch.zeros(x.shape[1], HID).to(x), []
        for z_t in z:
            h = self.cell(z_t, h)
            out.append(h)
        return self.after(torch.stack(out, 2)).transpose(1, 2)


@loop()
class DilatedCell(nn.Module):
    """A dilated RNN: the state of three steps before."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        states = [x.new_zeros(x.shape[0], HID) for _ in range(3)]
        out = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], states.pop(0))
            states.append(h)
            out.append(h)
        return torch.stack(out, 1)


@loop()
class SharedCellTwice(nn.Module):
    """One cell runs over the sequence and then over its own results."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, IN)

    def run(self, xs):
        h, out = torch.zeros_like(xs[0]), []
        for x in xs:
            h = self.cell(x, h)
            out.append(h)
        return out

    def forward(self, x):
        return torch.stack(self.run(self.run([x[:, t] for t in range(x.size(1))])), 1)


@loop()
class StepModule(nn.Module):
    """The step is a module of its own with several results."""

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.new = nn.Linear(IN + HID, HID), nn.Linear(IN + HID, HID)
            self.head = nn.Sequential(nn.Linear(HID, HID), nn.ELU(), nn.Linear(HID, 2))

        def forward(self, x, h):
            xh = torch.cat([x, h], -1)
            z = torch.sigmoid(self.gate(xh))
            h = torch.lerp(h, torch.tanh(self.new(xh)), z)
            return {"h": h, "mean": self.head(h)[:, 0], "scale": F.softplus(self.head(h)[:, 1]) + 1e-3}

    def __init__(self):
        super().__init__()
        self.step = self.Step()

    def forward(self, x):
        h, means, scales = x.new_zeros(x.shape[0], HID), [], []
        for t in range(x.shape[1]):
            result = self.step(x[:, t], h)
            h = result["h"]
            means.append(result["mean"])
            scales.append(result["scale"])
        return {"mean": torch.stack(means, 1), "scale": torch.stack(scales, 1), "h": h}


@loop()
class MultiplicativeLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.mx, self.mh = nn.Linear(IN, HID, bias=False), nn.Linear(HID, HID, bias=False)
        self.cell = nn.LSTMCell(IN, HID)

    def forward(self, x):
        h = c = torch.zeros(x.size(0), HID, dtype=x.dtype)
        out = []
        for x_t in torch.unbind(x, dim=1):
            h, c = self.cell(x_t, (self.mx(x_t) * self.mh(h), c))
            out.append(h)
        return torch.stack(out, dim=1)


# In further ways


@loop()
class Strided(nn.Module):
    """Every second step, by range(0, n, 2)."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], HID)
        o = []
        for t in range(0, x.shape[1], 2):
            h = self.cell(x[:, t], h)
            o.append(h)
        return torch.stack(o, 1)


@loop()
class StridedSlice(nn.Module):
    """Every second step, by a slice."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], HID)
        o = []
        for x_t in x[:, ::2].unbind(1):
            h = self.cell(x_t, h)
            o.append(h)
        return torch.stack(o, 1)


@loop(
    lambda b, t: (torch.randn(b, t, IN), torch.randn(b, t + 3, IN)),
    {"x": {0: "batch", 1: "source"}, "y": {0: "batch", 1: "target"}},
)
class Seq2SeqTwoAxes(nn.Module):
    """An encoder's loop over the source, a decoder's with attention over the target."""

    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.GRUCell(IN, HID), nn.GRUCell(IN + HID, HID)
        self.out = nn.Linear(HID, 3)

    def forward(self, x, y):
        h = x.new_zeros(x.shape[0], HID)
        mem = []
        for t in range(x.shape[1]):
            h = self.enc(x[:, t], h)
            mem.append(h)
        mem = torch.stack(mem, 1)
        out = []
        for t in range(y.shape[1]):
            w = torch.softmax(torch.bmm(mem, h.unsqueeze(2)).squeeze(2), 1)
            ctx = torch.bmm(w.unsqueeze(1), mem).squeeze(1)
            h = self.dec(torch.cat([y[:, t], ctx], 1), h)
            out.append(self.out(h))
        return torch.stack(out, 1)


@loop()
class WhileCounter(nn.Module):
    """A while loop over a counter."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(IN, HID)

    def forward(self, x):
        h, c = x.new_zeros(x.size(0), HID), x.new_zeros(x.size(0), HID)
        t = 0
        o = []
        while t < x.size(1):
            h, c = self.cell(x[:, t, :], (h, c))
            o.append(h)
            t += 1
        return torch.stack(o, 1), c


@loop()
class QueueOfPast(nn.Module):
    """The last three outputs are a part of the next input."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(IN + 3 * HID, HID)

    def forward(self, x):
        past = [x.new_zeros(x.size(0), HID) for _ in range(3)]
        out = []
        for t in range(x.size(1)):
            y = torch.tanh(self.l(torch.cat([x[:, t], *past], 1)))
            out.append(y)
            past = [*past[1:], y]
        return torch.stack(out, 1)


@loop()
class LayerLists(nn.Module):
    """States of stacked layers in lists, with residuals and dropout."""

    def __init__(self):
        super().__init__()
        self.n = 3
        self.cells = nn.ModuleList([nn.LSTMCell(IN if k == 0 else HID, HID) for k in range(3)])
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        B, T, _ = x.shape
        h = [torch.zeros(B, HID, dtype=x.dtype) for _ in range(self.n)]
        c = [torch.zeros(B, HID, dtype=x.dtype) for _ in range(self.n)]
        out = []
        for t in range(T):
            inp = x[:, t]
            for k in range(self.n):
                h[k], c[k] = self.cells[k](inp, (h[k], c[k]))
                inp = self.drop(h[k]) + (inp if k else 0)
            out.append(inp)
        return torch.stack(out, 1), torch.stack(h), torch.stack(c)


@loop()
class SlicedWeights(nn.Module):
    """Gates by slices of one weight."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3 * HID, IN) * 0.3)
        self.u = nn.Parameter(torch.randn(3 * HID, HID) * 0.3)
        self.b = nn.Parameter(torch.randn(3 * HID) * 0.1)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            z = torch.sigmoid(F.linear(x[:, t], self.w[:HID], self.b[:HID]) + F.linear(h, self.u[:HID]))
            r = torch.sigmoid(
                F.linear(x[:, t], self.w[HID : 2 * HID], self.b[HID : 2 * HID]) + F.linear(h, self.u[HID : 2 * HID])
            )
            n = torch.tanh(F.linear(x[:, t], self.w[2 * HID :], self.b[2 * HID :]) + F.linear(r * h, self.u[2 * HID :]))
            h = (1 - z) * h + z * n
            o.append(h)
        return torch.stack(o, 1)


@loop()
class GatesByIndex(nn.Module):
    """Gates by index into a view."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(IN, 4 * HID)
        self.u = nn.Linear(HID, 4 * HID)

    def forward(self, x):
        b, T, _ = x.shape
        gx = self.w(x).view(b, T, 4, HID)
        h = c = x.new_zeros(b, HID)
        o = []
        for t in range(T):
            g = gx[:, t] + self.u(h).view(b, 4, HID)
            i, f, o_, g_ = torch.sigmoid(g[:, 0]), torch.sigmoid(g[:, 1]), torch.sigmoid(g[:, 2]), torch.tanh(g[:, 3])
            c = f * c + i * g_
            h = o_ * torch.tanh(c)
            o.append(h.unsqueeze(1))
        return torch.cat(o, 1)


@loop()
class WeightNormCell(nn.Module):
    """Weights that a parametrization computes."""

    def __init__(self):
        super().__init__()
        self.i = nn.utils.parametrizations.weight_norm(nn.Linear(IN, HID))
        self.h = nn.utils.parametrizations.weight_norm(nn.Linear(HID, HID))

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h = torch.tanh(self.i(x[:, t]) + self.h(h))
            o.append(h)
        return torch.stack(o, 1)


@loop(
    lambda b, t: (torch.randn(b, t, IN), torch.rand(b, t).cumsum(1)),
    {"x": {0: "batch", 1: "sequence"}, "times": {0: "batch", 1: "sequence"}},
)
class PhasedLSTM(nn.Module):
    """Gates that open by the time stamp of each step."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(IN, HID)
        self.tau = nn.Parameter(torch.rand(HID) + 0.5)
        self.s = nn.Parameter(torch.rand(HID))

    def forward(self, x, times):
        h = c = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h2, c2 = self.cell(x[:, t], (h, c))
            phi = torch.fmod(times[:, t, None] - self.s, self.tau) / self.tau
            k = torch.where(phi < 0.05, 2 * phi / 0.1, torch.where(phi < 0.1, 2 - 2 * phi / 0.1, 0.001 * phi))
            h, c = k * h2 + (1 - k) * h, k * c2 + (1 - k) * c
            o.append(h)
        return torch.stack(o, 1)


@loop()
class ClockworkMask(nn.Module):
    """Units that change at every second or fourth step, by a mask."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)
        self.register_buffer("period", torch.tensor([1, 1, 2, 2, 4, 4, 8, 8][:HID] + [8] * max(0, HID - 8)))

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            mask = (t % self.period == 0).to(x.dtype)
            n = self.cell(x[:, t], h)
            h = mask * n + (1 - mask) * h
            o.append(h)
        return torch.stack(o, 1)


@loop(
    lambda b, t: (torch.randn(b, t, IN), torch.randn(b, 6, HID), torch.randint(1, 7, (b,))),
    {"x": {0: "batch", 1: "sequence"}, "memory": {0: "batch"}, "n": {0: "batch"}},
)
class AttendPadded(nn.Module):
    """Attention over a padded memory with lengths."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN + HID, HID)
        self.q = nn.Linear(HID, HID)

    def forward(self, x, memory, n):
        mask = torch.arange(memory.size(1))[None] >= n[:, None]
        h = x.new_zeros(x.size(0), HID)
        o = []
        ws = []
        for x_t in x.unbind(1):
            s = torch.einsum("bh,bth->bt", self.q(h), memory).masked_fill(mask, float("-inf"))
            w = s.softmax(-1)
            h = self.cell(torch.cat([x_t, torch.einsum("bt,bth->bh", w, memory)], -1), h)
            o.append(h)
            ws.append(w)
        return torch.stack(o, 1), torch.stack(ws, 1)


@loop(lambda b, t: (torch.randn(b, 8 * t + 8),), {"wave": {0: "batch", 1: "samples"}})
class UnfoldFrames(nn.Module):
    """Over frames of sixteen samples, eight apart."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(16, HID)

    def forward(self, wave):
        frames = wave.unfold(1, 16, 8)
        h = wave.new_zeros(wave.size(0), HID)
        o = []
        for f in frames.unbind(1):
            h = self.cell(f, h)
            o.append(h)
        return torch.stack(o, 1)


@loop(lambda b, t: (torch.randn(b, t, IN),), {"x": {0: "batch", 1: "sequence"}})
class StridedConvThenLoop(nn.Module):
    """Over what a convolution with stride two leaves."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(IN, HID, 3, stride=2, padding=1)
        self.cell = nn.GRUCell(HID, HID)

    def forward(self, x):
        y = F.relu(self.conv(x.transpose(1, 2)))
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(y.size(2)):
            h = self.cell(y[:, :, t], h)
            o.append(h)
        return torch.stack(o, 2)


@loop()
class RunningMean(nn.Module):
    """A mean of all steps so far, by one over their number."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        h = m = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            a = 1.0 / (t + 1)
            m = m + a * (h - m)
            o.append(m)
        return torch.stack(o, 1)


@loop()
class PositionFeature(nn.Module):
    """The part of the sequence that has passed is an input."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN + 1, HID)

    def forward(self, x):
        B, T, _ = x.shape
        h = x.new_zeros(B, HID)
        o = []
        for t in range(T):
            p = torch.full((B, 1), t / T, dtype=x.dtype)
            h = self.cell(torch.cat([x[:, t], p], 1), h)
            o.append(h)
        return torch.stack(o, 1)


@loop()
class Remaining(nn.Module):
    """The number of steps that remain is an input."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        B, T, _ = x.shape
        h = x.new_zeros(B, HID)
        o = []
        for t in range(T):
            h = self.cell(x[:, t] * (T - 1 - t), h)
            o.append(h / T)
        return torch.stack(o, 1)


@loop()
class EmbeddingOfT(nn.Module):
    """An embedding of the step's number."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)
        self.e = nn.Embedding(100, IN)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        for t in range(x.size(1)):
            h = self.cell(x[:, t] + self.e(torch.tensor(t)), h)
        return h


@loop()
class LeakyIntegrate(nn.Module):
    """Spiking neurons that leak, fire and reset."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(IN, HID)
        self.beta = 0.9
        self.threshold = 0.5

    def forward(self, x):
        mem = torch.zeros(x.size(0), HID, dtype=x.dtype)
        spk = torch.zeros_like(mem)
        rec = []
        mems = []
        for t in range(x.size(1)):
            cur = self.fc(x[:, t])
            mem = self.beta * mem * (1 - spk) + cur
            spk = (mem > self.threshold).to(x.dtype)
            rec.append(spk)
            mems.append(mem)
        return torch.stack(rec, 1), torch.stack(mems, 1)


@loop()
class NTM(nn.Module):
    """A neural Turing machine: reads and writes a memory by content."""

    def __init__(self):
        super().__init__()
        self.ctrl = nn.LSTMCell(IN + 4, HID)
        self.k = nn.Linear(HID, 4)
        self.e = nn.Linear(HID, 4)
        self.a = nn.Linear(HID, 4)
        self.register_buffer("m0", torch.randn(6, 4))

    def forward(self, x):
        B = x.size(0)
        M = self.m0.repeat(B, 1, 1)
        h = c = x.new_zeros(B, HID)
        r = x.new_zeros(B, 4)
        o = []
        for t in range(x.size(1)):
            h, c = self.ctrl(torch.cat([x[:, t], r], 1), (h, c))
            w = F.softmax(F.cosine_similarity(M, torch.tanh(self.k(h)).unsqueeze(1), dim=-1), dim=1)
            M = M * (1 - w.unsqueeze(-1) * torch.sigmoid(self.e(h)).unsqueeze(1)) + w.unsqueeze(-1) * torch.tanh(
                self.a(h)
            ).unsqueeze(1)
            r = (w.unsqueeze(-1) * M).sum(1)
            o.append(torch.cat([h, r], 1))
        return torch.stack(o, 1)


@loop(lambda b, t: (torch.randn(b, t, 4, IN),), {"x": {0: "batch", 1: "sequence"}})
class GraphGRU(nn.Module):
    """A GRU cell at each node of a graph, then messages between them."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)
        self.register_buffer("A", torch.rand(4, 4))
        self.w = nn.Linear(HID, HID)

    def forward(self, x):
        b, T, n, f = x.shape
        h = torch.zeros(b * n, HID, dtype=x.dtype)
        o = []
        for t in range(T):
            h = self.cell(x[:, t].reshape(b * n, f), h)
            h = torch.relu(torch.matmul(self.A, self.w(h).view(b, n, HID))).reshape(b * n, HID)
            o.append(h.view(b, n, HID))
        return torch.stack(o, 1)


@torch.jit.script
def jit_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    return torch.tanh(F.linear(x, w) + F.linear(h, u))


@loop()
class JitFunction(nn.Module):
    """The step is a TorchScript function."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(HID, IN) * 0.3)
        self.u = nn.Parameter(torch.randn(HID, HID) * 0.3)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h = jit_step(x[:, t], h, self.w, self.u)
            o.append(h)
        return torch.stack(o, 1)


@loop()
class Recursion(nn.Module):
    """Each step calls the function for the step before."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def go(self, x, t):
        if t < 0:
            return x.new_zeros(x.size(0), HID)
        return self.cell(x[:, t], self.go(x, t - 1))

    def forward(self, x):
        return self.go(x, x.size(1) - 1)


@loop()
class ChunkedSteps(nn.Module):
    """Pieces of one step, by chunk."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(IN, HID, batch_first=True)
        self.o = nn.Linear(HID, 2)

    def forward(self, x):
        h = x.new_zeros(1, x.size(0), HID)
        o = []
        for c in torch.chunk(x, x.size(1), dim=1):
            y, h = self.rnn(c, h)
            o.append(self.o(y) + c[..., :2])
        return torch.cat(o, 1)


@loop(
    lambda b, t: (torch.randn(b, t, IN), torch.randint(1, t + 1, (b,))),
    {"x": {0: "batch", 1: "sequence"}, "n": {0: "batch"}},
)
class LengthMask(nn.Module):
    """Rows end at their lengths, by a mask in products."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(IN, HID)

    def forward(self, x, n):
        h = c = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h2, c2 = self.cell(x[:, t], (h, c))
            m = (t < n).unsqueeze(1).to(x.dtype)
            h = m * h2 + (1 - m) * h
            c = m * c2 + (1 - m) * c
            o.append(h * m)
        return torch.stack(o, 1), h


@loop(lambda b, t: (torch.randn(b * t, IN), torch.randn(1, b, HID)), {"x": {0: "rows"}, "h": {1: "batch"}})
class RowsByBatch(nn.Module):
    """Rows hold batch times steps; the state tells the batch."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(IN, HID)
        self.norm = nn.LayerNorm(HID)

    def forward(self, x, h):
        b = h.shape[1]
        xs = x.view(b, -1, IN)
        h = h[0]
        c = torch.zeros_like(h)
        o = []
        for t in range(xs.shape[1]):
            h, c = self.cell(xs[:, t], (self.norm(h), c))
            o.append(h)
        return torch.stack(o, 1).flatten(0, 1), h.unsqueeze(0)


@loop()
class UpsamplingOutput(nn.Module):
    """Two outputs in each step, into one list."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)
        self.a, self.b = nn.Linear(HID, 2), nn.Linear(HID, 2)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            o.append(self.a(h))
            o.append(self.b(h))
        return torch.stack(o, 1)


@loop()
class SkipRecurrent(nn.Module):
    """States of two steps before by index, where there are any."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        hs = []
        for t in range(x.size(1)):
            prev = hs[t - 1] if t > 0 else x.new_zeros(x.size(0), HID)
            skip = hs[t - 2] if t > 1 else torch.zeros_like(prev)
            hs.append(self.cell(x[:, t], 0.5 * (prev + skip)))
        return torch.stack(hs, 1)


@loop()
class InplaceState(nn.Module):
    """The state is changed in place."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(IN, HID)
        self.u = nn.Linear(HID, HID)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h.mul_(0.5).add_(torch.tanh(self.l(x[:, t]) + self.u(h)))
            o.append(h.clone())
        return torch.stack(o, 1)


@loop()
class MultiheadStep(nn.Module):
    """nn.MultiheadAttention over the whole input in each step."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)
        self.att = nn.MultiheadAttention(HID, 2 if HID % 2 == 0 else 1, batch_first=True)
        self.mem = nn.Linear(IN, HID)

    def forward(self, x):
        m = self.mem(x)
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            a, _ = self.att(h[:, None], m, m)
            h = h + a[:, 0]
            o.append(h)
        return torch.stack(o, 1)


@loop()
class PyramidLoop(nn.Module):
    """A second loop over every other state of the first."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.GRUCell(IN, HID), nn.GRUCell(HID, HID)

    def forward(self, x):
        h = x.new_zeros(x.size(0), HID)
        o = []
        for t in range(x.size(1)):
            h = self.a(x[:, t], h)
            o.append(h)
        g = torch.zeros_like(h)
        for k in range(0, len(o), 2):
            g = self.b(o[k], g)
        return g


# Refused


@loop(refused="all steps before")
class AttentionOverOwnHistory(nn.Module):
    """Each step looks back at all states so far."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        h, history = x.new_zeros(x.shape[0], HID), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            history.append(h)
            past = torch.stack(history, 1)
            h = h + (torch.softmax((past @ h.unsqueeze(-1)).squeeze(-1), -1).unsqueeze(-1) * past).sum(1)
        return h


@loop(refused="by the value of a tensor")
class StopsByValue(nn.Module):
    """Stops where the state is large enough."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], HID)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if h.abs().max() > 0.9:
                break
        return h


@loop(refused="")
class EveryOtherStep(nn.Module):
    """A clockwork: a slow cell runs at every second step."""

    def __init__(self):
        super().__init__()
        self.fast, self.slow = nn.GRUCell(IN, HID), nn.GRUCell(HID, HID)

    def forward(self, x):
        h = s = x.new_zeros(x.shape[0], HID)
        out = []
        for t in range(x.shape[1]):
            h = self.fast(x[:, t], h)
            if t % 2 == 0:
                s = self.slow(h, s)
            out.append(h + s)
        return torch.stack(out, 1)


@loop(lambda b, t: (torch.randn(b, t, IN), torch.tensor([t])), {"x": BATCH_FIRST}, refused="value")
class StepsByData(nn.Module):
    """As many steps as an input says."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(IN, HID)

    def forward(self, x, steps):
        h = x.new_zeros(x.shape[0], HID)
        for t in range(int(steps.max())):
            h = self.cell(x[:, t], h)
        return h


@loop()
class StopsAtAHundred(nn.Module):
    """Never makes more than a hundred steps, which no short trace shows: exported for up to a hundred."""

    def __init__(self):
        super().__init__()
        self.cell, self.most = nn.GRUCell(IN, HID), 100

    def forward(self, x):
        h = x.new_zeros(x.shape[0], HID)
        for t in range(x.shape[1]):
            if t >= self.most:
                break
            h = self.cell(x[:, t], h)
        return h


@loop(refused="steps")
class RowsOfATable(nn.Module):
    """A decoder with a learned row for each step, of which there are a thousand."""

    def __init__(self):
        super().__init__()
        self.table, self.cell = nn.Parameter(torch.randn(1000, HID)), nn.GRUCell(IN + HID, HID)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], HID)
        for t in range(x.shape[1]):
            row = self.table[min(t, 999)].expand(x.shape[0], -1)
            h = self.cell(torch.cat([x[:, t], row], 1), h)
        return h
