"""The sizes that an export is compared at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rnn_export import export
from rnn_export._reference import grid


@pytest.mark.parametrize(("size", "further"), [(64, set()), (65, {97, 130}), (80, {120, 160})])
def test_an_axis_that_is_long_in_the_example_has_sizes_around_it(size, further):
    shapes = grid({"batch": 2, "samples": size}, {"samples"})
    assert {shape["samples"] for shape in shapes} == {1, 2, 13, 64, size} | further
    assert {shape["batch"] for shape in shapes} == {1, 2, 7}
    assert shapes[-1] == {"batch": 2, "samples": size}


def test_a_model_that_takes_nothing_short_is_exported(tmp_path):
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rnn = nn.Conv1d(1, 4, 70, 10), nn.GRU(4, 3, batch_first=True)

        def forward(self, wave):
            return self.rnn(self.conv(wave.unsqueeze(1)).transpose(1, 2))[0]

    axes = {"wave": {0: "batch", 1: "samples"}}
    bundle = export(Frames(), torch.randn(2, 90), tmp_path / "bundle", axes=axes)
    assert all(sizes["samples"] < 70 for sizes in bundle.refused) and bundle.refused
    assert {135, 180} <= {row.shape["samples"] for row in bundle.report.rows}
