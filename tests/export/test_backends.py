"""Further backends: each gives what eager PyTorch gives, or says why it is left out."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

import rnn_models
import rnn_runtime
from rnn_export import _backends, verify
from rnn_export._backends import onnx_reference, openvino
from rnn_runtime._bundle import ONNX, Bundle

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs openvino: pip install openvino"
)


@pytest.mark.parametrize("name", ["hello", "lstm", "gru", "charlm"])
@pytest.mark.parametrize(
    "backend",
    [
        "onnxruntime-cpu-none",
        "onnxruntime-cpu-basic",
        "onnxruntime-cpu-extended",
        "onnx-reference",
        pytest.param("openvino", marks=needs_openvino),
    ],
)
def test_a_second_opinion_agrees(bundles, name, backend):
    report = verify(rnn_models.get(name).model(), bundles[name], level="quick", backend=backend, only="values")
    assert report.passed, str(report)
    assert [check.backend for check in report.checks] == [backend]


def test_what_is_left_out_says_why(bundles):
    have, reasons = _backends.others(Bundle.open(bundles["tagger"].path))
    assert {backend.name for backend in have} >= {"onnxruntime-cpu-none"}
    assert reasons["onnx-reference"] == "its RNN, LSTM and GRU ignore sequence_lens, which this graph gives them"
    assert "onnxruntime-cuda" in reasons or any(backend.name == "onnxruntime-cuda" for backend in have)


def test_openvino_is_left_out_where_it_is_missing(bundles, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(_backends.LeftOut, match="it is not installed: pip install openvino"):
        openvino.backends(Bundle.open(bundles["hello"].path))


def test_the_reference_evaluator_still_ignores_lengths(bundles):
    """When this fails, the fault is gone, and so may be the reason to leave it out."""
    path = bundles["tagger"].path
    model = rnn_runtime.load(path)
    inputs = {"input": np.array([[3, 1, 4, 1], [5, 9, 2, 6]]), "lengths": np.array([4, 2])}
    inputs = {spec.name: inputs["lengths" if "lengths" in spec.name else "input"] for spec in model.signature.inputs}
    assert onnx_reference.takes_lengths(path / ONNX)
    got = onnx_reference.OnnxReference(path / ONNX).run(inputs)
    assert not np.allclose(got["logits"], model.run(inputs)["logits"], atol=1e-3)
