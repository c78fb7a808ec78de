"""The sizes that an export is compared at."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from rnn_export import export, verify
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
    assert bundle.signature.limit("samples").min == 70 and not bundle.refused
    assert {135, 180} <= {row.shape["samples"] for row in bundle.report.rows}


class Branches(nn.Module):
    """Twenty steps, and they alone, are multiplied by `factor`."""

    def __init__(self):
        super().__init__()
        self.gru, self.factor = nn.GRU(4, 3, batch_first=True), 1.0

    def forward(self, x):
        h = self.gru(x)[0]
        return h * self.factor if x.size(1) == 20 else h


def test_verify_compares_where_the_export_did(tmp_path):
    model = Branches()
    bundle = export(model, torch.randn(2, 5, 4), tmp_path / "bundle", axes={"x": {0: "batch", 1: "sequence"}})
    assert {row.shape["sequence"] for row in bundle.report.rows} >= {1, 2, 5, 13, 20, 64}
    assert verify(model, bundle, level="quick").passed
    model.factor = 2.0
    report = verify(model, bundle, level="quick")
    assert {row.shape["sequence"] for row in report.failures} == {20}
    assert not report.passed


@pytest.mark.parametrize("shapes", [None, [], [{"batch": 2, "time": 20}]])
def test_a_bundle_that_records_no_such_sizes_is_compared_at_the_grid(tmp_path, shapes):
    model = Branches()
    bundle = export(model, torch.randn(2, 5, 4), tmp_path / "bundle", axes={"x": {0: "batch", 1: "sequence"}})
    manifest = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    if shapes is None:
        del manifest["verified"]["shapes"]
    else:
        manifest["verified"]["shapes"] = shapes
    (bundle.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    model.factor = 2.0
    assert {row.shape["sequence"] for row in verify(model, bundle, level="quick").rows} == {1, 2, 5, 13, 64}
