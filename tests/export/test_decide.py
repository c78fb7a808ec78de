"""Decisions by the value of a tensor: right on both sides of where they turn, or refused with the line."""

import numpy as np
import pytest
import torch
from torch import nn

import rnn_runtime
from rnn_export import ExportError, export
from rnn_export._capture import capture

AXES = {"x": {0: "batch", 1: "sequence"}}
MASKED = {**AXES, "mask": {0: "batch", 1: "sequence"}}
ROWS = {**AXES, "lengths": {0: "batch"}}
IDS = {"ids": {0: "batch", 1: "sequence"}}

torch.manual_seed(0)
X = torch.randn(2, 5, 4)
MASK = torch.tensor([[True, True, True, False, False], [True, True, True, True, False]])
LENGTHS = torch.tensor([5, 3])
TOKENS = torch.tensor([[1, 4, 2, 9, 3], [6, 2, 2, 8, 5]])


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.rnn = nn.GRU(4, 3, batch_first=True)
        self.embed = nn.Embedding(12, 4)
        self.register_buffer("scale", torch.tensor(2.0))


def model(forward):
    return type("Trap", (Base,), {"forward": forward})()


# Refused: no way is right on both sides, or no input is found on the other side.


def clamps_what_is_above_1e5(self, x):
    if x.abs().max() > 1e5:
        x = x.clamp(-1e4, 1e4)
    return self.rnn(torch.log1p(x.abs()))[0]


def zeroes_what_is_below_1e_7(self, x):
    if x.abs().max() < 1e-7:
        x = x + 1
    return self.rnn(x)[0]


def subtracts_a_large_mean(self, x):
    if x.mean() > 30:
        x = x - 30
    return self.rnn(x * 0.01)[0]


def divides_by_a_large_norm(self, x):
    if x.norm() > 700:
        x = x / x.norm() * 350
    return self.rnn(x * 0.001)[0]


def stops_at_a_negative_sum(self, x):
    if x.sum().item() < -1e4:
        return self.rnn(torch.zeros_like(x))[0]
    return self.rnn(x)[0]


def replaces_nan_by_one(self, x):
    if torch.isnan(x).any():
        x = torch.ones_like(x)
    return self.rnn(x)[0]


def treats_equal_rows_alone(self, x):
    if (x[0] == x[-1]).all():
        x = x * 3
    return self.rnn(x)[0]


def treats_a_flat_signal_alone(self, x):
    if x.std() < 1e-4:
        x = x + 5
    return self.rnn(x)[0]


def takes_a_loud_first_step_away(self, x):
    if x[:, 0].abs().max() > 50:
        x = x * torch.tensor(0.5)
    return self.rnn(x)[0]


def sharpens_where_two_are_far_apart(self, x):
    if x.max() - x.min() > 12345:
        x = x.sign()
    return self.rnn(x * 1e-4)[0]


def doubles_where_nothing_is_masked(self, x, mask):
    if mask.all():
        x = x * 2
    return self.rnn(x)[0]


def doubles_where_all_is_masked(self, x, mask):
    if not mask.any():
        x = x + 1
    return self.rnn(x)[0]


def doubles_one_single_step(self, x, mask):
    if mask.sum() == 1:
        x = x * 2
    return self.rnn(x)[0]


def cuts_above_5000_tokens(self, x, mask):
    if mask.sum() > 5000:
        x, mask = x[:, :100], mask[:, :100]
    return self.rnn(x * mask.unsqueeze(-1))[0]


def halves_long_lengths(self, x, lengths):
    if lengths.max() > 300:
        x = x * 0.5
    return self.rnn(x)[0] * (lengths > 0)[:, None, None]


def turns_lengths_of_exactly_three(self, x, lengths):
    if (lengths == 3).all():
        x = x.flip(1)
    return self.rnn(x)[0]


def treats_unsorted_lengths_alone(self, x, lengths):
    if (lengths[:-1] < lengths[1:]).any():
        x = x.flip(0)
    return self.rnn(x)[0]


def ends_at_a_token(self, ids):
    x = self.embed(ids)
    if (ids == 7).any():
        x = x * 0
    return self.rnn(x)[0]


def ends_at_the_last_token(self, ids):
    x = self.embed(ids)
    if (ids[:, -1] == 11).all():
        x = -x
    return self.rnn(x)[0]


def leaves_the_loop_early(self, x):
    h = x.new_zeros(x.size(0), 4)
    for t in range(x.size(1)):
        h = h + x[:, t]
        if h.abs().max() > 1e4:
            break
    return self.rnn(h.unsqueeze(1))[0]


def goes_by_what_never_happens(self, x):
    y = self.rnn(x)[0]
    if y.abs().max() > 1.5:
        y = y * 0
    return y


REFUSED = [
    (clamps_what_is_above_1e5, (X,), AXES),
    (zeroes_what_is_below_1e_7, (X,), AXES),
    (subtracts_a_large_mean, (X,), AXES),
    (divides_by_a_large_norm, (X,), AXES),
    (stops_at_a_negative_sum, (X,), AXES),
    (replaces_nan_by_one, (X,), AXES),
    (treats_equal_rows_alone, (X,), AXES),
    (treats_a_flat_signal_alone, (X,), AXES),
    (takes_a_loud_first_step_away, (X,), AXES),
    (sharpens_where_two_are_far_apart, (X,), AXES),
    (doubles_where_nothing_is_masked, (X, MASK), MASKED),
    (doubles_where_all_is_masked, (X, MASK), MASKED),
    (doubles_one_single_step, (X, MASK), MASKED),
    (cuts_above_5000_tokens, (X, MASK), MASKED),
    (halves_long_lengths, (X, LENGTHS), ROWS),
    (turns_lengths_of_exactly_three, (X, LENGTHS), ROWS),
    (treats_unsorted_lengths_alone, (X, LENGTHS), ROWS),
    (ends_at_a_token, (TOKENS,), IDS),
    (ends_at_the_last_token, (TOKENS,), IDS),
    (leaves_the_loop_early, (X,), AXES),
]


@pytest.mark.parametrize(("forward", "inputs", "axes"), REFUSED, ids=lambda part: getattr(part, "__name__", ""))
def test_a_decision_whose_ways_differ_is_refused_with_its_line(forward, inputs, axes):
    with pytest.raises(ExportError, match=r"decides by the value of a tensor \(`if .*test_decide.py:\d+\)") as caught:
        capture(model(forward), inputs, axes=axes)
    assert "inputs go either way, and neither way gives what eager" in str(caught.value)


def test_a_decision_that_no_input_turns_is_refused_with_its_line():
    with pytest.raises(
        ExportError, match=r"`if y.abs\(\).max\(\) > 1.5:` .* no inputs were found that go the other way"
    ):
        capture(model(goes_by_what_never_happens), (X,), axes=AXES)


# Right: one way is right on both sides.


def clamps_where_that_is_needed(self, x):
    if x.abs().max() > 100:
        x = x.clamp(-100, 100)
    return self.rnn(x)[0]


def guards_against_infinities(self, x):
    if torch.isinf(x).any():
        x = x.clamp(-1e4, 1e4) if x.abs().max() > 1e4 else x
    return self.rnn(x)[0]


def limits_a_norm(self, x):
    if x.norm() > 50:
        x = x * (50 / x.norm().clamp(min=50))
    return self.rnn(x)[0]


def masks_where_there_is_a_mask(self, x, mask):
    if not mask.all():
        x = x * mask.unsqueeze(-1)
    return self.rnn(x)[0]


def skips_rows_where_some_are_empty(self, x, mask):
    if (~mask.any(1)).any():
        x = torch.where(mask.any(1)[:, None, None], x, torch.zeros_like(x))
    return self.rnn(x)[0]


def clips_ids_where_one_is_large(self, ids):
    if ids.max() > 9:
        ids = ids.clamp(max=9)
    return self.rnn(self.embed(ids))[0]


def cuts_to_a_budget_by_a_mask(self, x, mask):
    if mask.sum() > 40:
        mask = mask & (mask.flatten().long().cumsum(0) <= 40).view_as(mask)
    return self.rnn(x * mask.unsqueeze(-1))[0]


def loop_that_could_end_early(self, x):
    if (x == 0).all():
        return self.rnn(torch.zeros_like(x))[0]
    return self.rnn(x)[0]


def goes_by_a_constant_of_the_model(self, x):
    if self.scale > 1:
        x = x * self.scale
    return self.rnn(x)[0]


def checks_its_input(self, x):
    if x.abs().max() > 1e6:
        raise ValueError("too large")
    assert not torch.isnan(x).any(), "not a number"
    return self.rnn(x)[0]


RIGHT = [
    (clamps_where_that_is_needed, (X,), AXES, [True]),
    (limits_a_norm, (X,), AXES, [True]),
    (masks_where_there_is_a_mask, (X, MASK), MASKED, [False]),
    (skips_rows_where_some_are_empty, (X, MASK), MASKED, [True]),
    (clips_ids_where_one_is_large, (TOKENS,), IDS, [True]),
    (cuts_to_a_budget_by_a_mask, (X, MASK), MASKED, [True]),
    (loop_that_could_end_early, (X,), AXES, [False]),
    (goes_by_a_constant_of_the_model, (X,), AXES, [True]),
    (checks_its_input, (X,), AXES, [False, False]),
]


def further(tensor):
    """Inputs of another size and of other values: near and far, none and all."""
    larger = torch.cat([tensor, tensor.flip(0), tensor])[:, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 2]]
    if tensor.dtype is torch.bool:
        return [larger, torch.zeros_like(larger), torch.ones_like(larger), larger.flip(1)]
    if not tensor.is_floating_point():
        return [larger, torch.zeros_like(larger), torch.full_like(larger, 11), larger.flip(1)]
    return [larger, larger * 0, larger * 300, larger * 30]


@pytest.mark.parametrize(
    ("forward", "inputs", "axes", "answers"), RIGHT, ids=lambda part: getattr(part, "__name__", "")
)
def test_a_way_that_is_right_for_both_is_taken(tmp_path, forward, inputs, axes, answers):
    made = model(forward).eval()
    bundle = export(made, inputs, tmp_path / "bundle", axes=axes, formats=["onnx"])
    runtime = rnn_runtime.load(bundle)
    for values in zip(*map(further, inputs), strict=True):
        with torch.no_grad():
            want = made(*values)
        got = runtime.run(dict(zip(axes, (value.numpy() for value in values), strict=True)))[0]
        np.testing.assert_allclose(got, want, atol=1e-5)
    decisions = capture(made, inputs, axes=axes).decisions
    assert [decision.answer for decision in decisions] == answers
    for decision in decisions:
        (note,) = decision.assumptions
        assert note.text == decision.place.text and "test_decide.py:" in note.place
        assert note.kind == ("constant" if "constant" in forward.__name__ else "value")
        assert note.settled == ("proven" if "constant" in forward.__name__ else "tried") and note.how


def test_inputs_beside_the_boundary_are_compared_on_every_artifact():
    captured = capture(model(clamps_where_that_is_needed), (X,), axes=AXES)
    sizes = sorted(abs(float(sample.inputs[0].abs().max()) - 100) for sample in captured.witnesses)
    assert sizes[0] < 1e-2 and {float(s.inputs[0].abs().max()) > 100 for s in captured.witnesses} == {True, False}


@pytest.mark.parametrize("formats", [["onnx"], ["torchscript"], ["pt2"]], ids=str)
def test_a_model_may_write_into_its_inputs(tmp_path, formats):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 3, batch_first=True)

        def forward(self, x, h):
            y, last = self.gru(x, h)
            h.copy_(last)
            x[:, 0] = 0
            return y + x.sum(), h

    inputs = (X.clone(), torch.zeros(1, 2, 3))
    bundle = export(
        Writes(), inputs, tmp_path / "bundle", axes=AXES, formats=formats, output_names=["y", "h_n"], state={"h": "h_n"}
    )
    assert bundle.report.passed
    assert torch.equal(inputs[0], X) and not inputs[1].any()
