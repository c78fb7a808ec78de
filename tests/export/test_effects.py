"""What a model keeps between calls: paired, refused by name, or seen to be no state; never dropped in silence."""

import collections
import random

import numpy as np
import pytest
import torch
from torch import nn

import rnn_runtime
from rnn_export import ExportError, export
from rnn_export._capture import capture

AXES = {"x": {0: "batch", 1: "sequence"}}
torch.manual_seed(0)
X = torch.randn(2, 5, 4)
TOTAL = [0.0]


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.rnn = nn.GRU(4, 3, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.embed = nn.Embedding(9, 4, max_norm=1.0)
        self.register_buffer("peak", torch.zeros(()))
        self.register_buffer("line", torch.zeros(5, 4))
        self.register_buffer("ones", torch.ones(4))
        self.queue = collections.deque([torch.zeros(4)] * 3, maxlen=3)
        self.two = [torch.zeros(4), torch.zeros(4)]
        self.named = {"fast": torch.zeros(4), "slow": torch.zeros(4)}
        self.chain = [torch.zeros(4) for _ in range(12)]
        self._hidden = None
        self.calls, self.at, self.ready, self.last = 0, 0, False, None
        self.seen, self.table = [], torch.zeros(0, 4)
        self.box = type("Box", (), {})()
        self.box.mean = torch.zeros(4)
        self.array = np.zeros(4, np.float32)


def model(forward):
    return type("Keeps", (Base,), {"forward": forward})()


# Paired: what is kept are tensors of floats that start from zeros.


def keeps_a_peak_that_only_loud_inputs_move(self, x):
    self.peak = torch.maximum(self.peak, x.abs().max())
    return self.rnn(x / self.peak.clamp(min=100.0) * 100)[0]


def keeps_a_line_of_five_calls(self, x):
    old = self.line[0]
    self.line = torch.cat([self.line[1:], x.mean((0, 1)).unsqueeze(0)])
    return self.rnn(x + old)[0]


def keeps_a_deque(self, x):
    old = self.queue[0]
    self.queue.append(x.mean((0, 1)))
    return self.rnn(x + old)[0]


def keeps_a_list(self, x):
    old = self.two.pop(0)
    self.two.append(x.mean((0, 1)))
    return self.rnn(x + old)[0]


def keeps_twelve_calls(self, x):
    old = self.chain.pop(0)
    self.chain.append(x.mean((0, 1)))
    return self.rnn(x + old)[0]


def keeps_a_dict(self, x):
    y = self.rnn(x + self.named["fast"] - self.named["slow"])[0]
    self.named["fast"] = 0.5 * self.named["fast"] + x.mean((0, 1))
    self.named["slow"] = 0.9 * self.named["slow"] + x.mean((0, 1))
    return y


def keeps_a_private_attribute(self, x):
    y, self._hidden = self.rnn(x, self._hidden)
    return y


PAIRED = [
    (keeps_a_peak_that_only_loud_inputs_move, ["peak"]),
    (keeps_a_line_of_five_calls, ["line"]),
    (keeps_a_deque, ["queue_0", "queue_1", "queue_2"]),
    (keeps_a_list, ["two_0", "two_1"]),
    (keeps_a_dict, ["named_fast", "named_slow"]),
    (keeps_a_private_attribute, ["_hidden"]),
]


@pytest.mark.parametrize(("forward", "names"), PAIRED, ids=lambda part: getattr(part, "__name__", ""))
def test_tensors_that_a_model_keeps_become_pairs_and_are_right_over_many_calls(tmp_path, forward, names):
    made = model(forward).eval()
    bundle = export(made, X, tmp_path / "bundle", axes=AXES, formats=["onnx"])
    assert [state.input for state in bundle.signature.states] == names
    runtime, state = rnn_runtime.load(bundle), None
    for factor in (1, 1000, -1, 0, 1, 3, 1, 1):
        x = X.roll(factor % 4, 1) * factor
        with torch.no_grad():
            want = made(x)
        result = runtime.run(x.numpy(), state=state)
        state = result.state
        np.testing.assert_allclose(result[0], want, atol=1e-5)


def test_each_thing_kept_is_an_assumption():
    found = capture(model(keeps_a_line_of_five_calls), (X,), axes=AXES).assumptions
    (note,) = (assumption for assumption in found if assumption.kind == "state")
    assert (note.kind, note.text, note.settled) == ("state", "line is kept between calls", "tried") and note.how


def test_a_chain_of_many_calls_is_followed_to_its_end():
    captured = capture(model(keeps_twelve_calls), (X,), axes=AXES)
    assert [state.input for state in captured.signature.states] == [f"chain_{k}" for k in range(12)]


# Refused by name.


def counts_its_calls(self, x):
    self.calls += 1
    return self.rnn(x * 2 if self.calls > 10 else x)[0]


def does_something_every_fourth_call(self, x):
    self.calls += 1
    return self.rnn(x if self.calls % 4 else -x)[0]


def points_into_a_ring(self, x):
    y = self.rnn(x + self.line[self.at])[0]
    self.line[self.at] = x.mean((0, 1))
    self.at = (self.at + 1) % 5
    return y


def is_made_ready_by_the_first_call(self, x):
    if not self.ready:
        self.ready = True
        return self.rnn(x * 0.5)[0]
    return self.rnn(x)[0]


def starts_from_ones(self, x):
    y = self.rnn(x * self.ones)[0]
    self.ones = 0.9 * self.ones + 0.1 * x.abs().mean((0, 1))
    return y


def keeps_a_list_that_grows(self, x):
    self.seen.append(x.mean((0, 1)))
    return self.rnn(x - sum(self.seen))[0]


def keeps_a_mean_in_an_object(self, x):
    y = self.rnn(x - self.box.mean)[0]
    self.box.mean = 0.9 * self.box.mean + x.mean((0, 1))
    return y


def keeps_an_array(self, x):
    y = self.rnn(x + torch.from_numpy(self.array.copy()))[0]
    self.array = x.mean((0, 1)).numpy()
    return y


def keeps_a_number(self, x):
    self.last, old = float(x.mean()), self.last or 0.0
    return self.rnn(x + old)[0]


def trains_its_norm(self, x):
    self.norm.train()
    return self.rnn(self.norm(x.transpose(1, 2)).transpose(1, 2))[0]


def trains_its_norm_and_puts_it_back(self, x):
    self.norm.train()
    y = self.norm(x.transpose(1, 2)).transpose(1, 2)
    self.norm.eval()
    return self.rnn(y)[0]


def drops_at_random(self, x):
    return self.rnn(nn.functional.dropout(x, 0.5, training=True))[0]


def draws_from_python(self, x):
    return self.rnn(x * random.random())[0]


def keeps_a_global(self, x):
    TOTAL[0] += 1
    return self.rnn(x * TOTAL[0])[0]


def keeps_what_leads_to_state(self, x):
    y = self.rnn(x + (self.two[1] if self.calls > 3 else 0))[0]
    self.two[1] = 0.5 * self.two[1] + x.mean((0, 1))
    self.calls += 1
    return y


REFUSED = [
    (counts_its_calls, "it keeps calls between calls, .* but a number"),
    (does_something_every_fourth_call, "it keeps calls between calls, .* but a number"),
    (points_into_a_ring, r"it keeps at \(of .*at.*\) between calls, .* but a number"),
    (is_made_ready_by_the_first_call, r"it keeps ready between calls, .* but a number \(bool\)"),
    (starts_from_ones, "it keeps ones between calls, and starts from something else than zeros"),
    (keeps_a_list_that_grows, "it keeps seen between calls, .* a list that grows"),
    (keeps_a_mean_in_an_object, "it keeps box between calls, .* but a Box"),
    (keeps_an_array, "it keeps array between calls, .* but a ndarray"),
    (keeps_a_number, "it keeps last between calls, .* but a number"),
    (trains_its_norm, r"forward puts 'norm' \(BatchNorm1d\) into training mode"),
    (trains_its_norm_and_puts_it_back, r"forward puts 'norm' \(BatchNorm1d\) into training mode"),
    (drops_at_random, "it draws random numbers"),
    (draws_from_python, "it draws random numbers"),
    (keeps_a_global, "it keeps something between calls that no attribute of it holds"),
    (keeps_what_leads_to_state, "it keeps calls .*between calls, .* but a number"),
]


@pytest.mark.parametrize(("forward", "text"), REFUSED, ids=lambda part: getattr(part, "__name__", ""))
def test_what_is_kept_and_cannot_be_a_state_is_refused_by_name(forward, text):
    made = model(forward)
    before = random.getstate()
    with pytest.raises(ExportError, match=text):
        capture(made, (X,), axes=AXES)
    assert made.calls == 0 and made.seen == []
    assert random.getstate() == before


def hooked(hook):
    made = model(lambda self, x: self.rnn(x)[0])
    made.rnn.register_forward_hook(hook)
    return made


def test_a_variable_of_a_hook_is_state_where_the_next_call_reads_it():
    kept = {}

    def hook(module, inputs, output):
        old, kept["mean"] = kept.get("mean", 0.0), output[0].mean()
        return output[0] + old, output[1]

    with pytest.raises(ExportError, match=r"it keeps kept \(in a hook of rnn\) between calls"):
        capture(hooked(hook), (X,), axes=AXES)
    assert kept == {}


# No state.


def stores_what_it_last_gave(self, x):
    self.last = self.rnn(x)[0]
    return self.last


def counts_and_does_not_read(self, x):
    self.calls += 1
    self.seen.append(self.calls)
    return self.rnn(x)[0]


def sets_a_variable_anew(self, x):
    self._hidden = x.new_zeros(1, x.size(0), 3)
    y, self._hidden = self.rnn(x, self._hidden)
    return y


def makes_a_table_once(self, x):
    if not len(self.table):
        self.table = torch.arange(4.0).unsqueeze(0)
    return self.rnn(x + self.table)[0]


NONE = [stores_what_it_last_gave, counts_and_does_not_read, sets_a_variable_anew, makes_a_table_once]


@pytest.mark.parametrize("forward", NONE, ids=lambda forward: forward.__name__)
def test_what_no_later_call_reads_is_no_state(tmp_path, forward):
    made = model(forward).eval()
    bundle = export(made, X, tmp_path / "bundle", axes=AXES, formats=["onnx"])
    assert bundle.signature.states == () and made.calls == 0 and made.seen == []
    with torch.no_grad():
        np.testing.assert_allclose(rnn_runtime.load(bundle).run(X.numpy())[0], made(X), atol=1e-6)


def test_what_a_hook_collects_is_no_state_and_stays_the_users():
    collected = []
    captured = capture(hooked(lambda module, inputs, output: collected.append(output[0])), (X,), axes=AXES)
    assert captured.signature.states == () and collected == []


class Words(nn.Module):
    def __init__(self, tied):
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(9, 4, max_norm=1.0)
        self.embed.weight.data *= 3
        self.rnn, self.out = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 9, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0])


IDS = torch.tensor([[1, 4, 2, 0, 3], [3, 2, 2, 1, 0]])


def test_an_embedding_that_rewrites_its_rows_is_right_where_nothing_else_reads_them(tmp_path):
    made = Words(tied=False)
    bundle = export(made, IDS, tmp_path / "bundle", axes={"ids": AXES["x"]}, formats=["onnx"])
    ids = torch.arange(9).reshape(1, 9)
    with torch.no_grad():
        np.testing.assert_allclose(rnn_runtime.load(bundle).run(ids.numpy())[0], made(ids), atol=1e-5)


def test_an_embedding_that_rewrites_its_rows_is_refused_where_another_layer_reads_them():
    with pytest.raises(ExportError, match=r"'embed' \(max_norm\) rewrites the rows of its weight .* set max_norm=None"):
        capture(Words(tied=True), (IDS,), axes={"ids": AXES["x"]})
