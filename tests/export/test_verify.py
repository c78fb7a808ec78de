"""verify(): a bundle that exists against a live model."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import rnn_models
from rnn_export import BundleError, DeviceError, ExportError, InputError, export, verify


@pytest.mark.parametrize("name", [n for n in rnn_models.names() if rnn_models.get(n).formats is None])
def test_a_bundle_verifies_against_its_own_model(bundles, name):
    report = verify(rnn_models.get(name).model(), bundles[name], level="quick")
    assert report.passed, str(report)
    assert {row.backend for row in report.rows} >= {"eager", "torchscript", "onnxruntime-cpu", "onnxruntime-cpu-none"}
    assert len({tuple(row.shape.items()) for row in report.rows}) >= 12


def test_other_weights_fail_on_every_backend_and_the_eager_row_stays(bundles):
    torch.manual_seed(1)
    report = verify(nn.RNN(4, 2), bundles["hello"], level="quick")
    assert not report.passed
    assert {row.backend for row in report.failures} == {row.backend for row in report.rows} - {"eager"}
    assert "FAILED" in str(report)


def test_a_tolerance_of_ones_own_is_used(bundles, monkeypatch):
    monkeypatch.setattr("rnn_export._compare.EAGER_FACTOR", 0)
    assert not verify(rnn_models.hello(), bundles["hello"], tolerance=1e-12, level="quick").passed
    assert verify(rnn_models.hello(), bundles["hello"], tolerance=1e-5, level="quick").passed


def test_another_model_is_an_error(bundles):
    with pytest.raises(ExportError, match=r"GRU.forward\(input, hx=None\) does not take the example inputs"):
        verify(nn.GRU(6, 10), bundles["lstm"])
    with pytest.raises(InputError, match=r"Is this the model that .*hello was exported from\?"):
        tagger = rnn_models.get("tagger")
        verify(tagger.model(), bundles["hello"], example_inputs=tagger.example_inputs())


def test_nested_arguments_are_given_as_they_were_exported(tmp_path):
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4)

        def forward(self, x, state):
            return self.lstm(x, state)

    example = (torch.randn(5, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    model = Nested()
    axes = {"x": {0: "sequence", 1: "batch"}, "h_0": {1: "batch"}, "c_0": {1: "batch"}}
    bundle = export(model, example, tmp_path / "bundle", axes=axes)
    assert verify(model, bundle, example_inputs=example, level="quick").passed
    with pytest.raises(ExportError, match="does not take the example inputs"):
        verify(model, bundle)


def test_a_damaged_file_is_found_before_it_is_run(bundles, tmp_path):
    shutil.copytree(bundles["hello"].path, tmp_path / "copy")
    (tmp_path / "copy" / "model.pt").write_bytes(b"not what was sealed")
    with pytest.raises(BundleError, match=r"model\.pt has 19 bytes"):
        verify(rnn_models.hello(), tmp_path / "copy")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_cannot_be_had_is_an_error(bundles):
    with pytest.raises(DeviceError):
        verify(rnn_models.hello(), bundles["hello"], device="cuda")
