"""Python loops over time: a slice of the corpus, exported and run at sizes that were never traced."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rnn_runtime
from rnn_export import ExportError, export

_spec = importlib.util.spec_from_file_location("loops_corpus", Path(__file__).with_name("corpus.py"))
corpus = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(corpus)
LOOPS = corpus.LOOPS

REFUSED = [name for name, case in LOOPS.items() if case.refused is not None]
ROLLED = [name for name in LOOPS if name not in REFUSED]
SLICE = random.Random(int(os.environ.get("RNN_EXPORT_SEED", "0"))).sample(ROLLED, 6)


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in (value.values() if isinstance(value, dict) else value) for tensor in flat(item)]


def test_the_corpus_is_large_enough():
    assert len(LOOPS) >= 40 and len(ROLLED) >= 36


@pytest.mark.parametrize("name", SLICE)
def test_a_loop_is_rolled_and_right_at_any_length(tmp_path, name):
    torch.manual_seed(0)
    case = LOOPS[name]
    model = case.model().eval()
    bundle = export(model, case.inputs(2, 4), tmp_path / "bundle", axes=case.axes)
    assert bundle.report.passed
    runtime, scripted = rnn_runtime.load(bundle), torch.jit.load(bundle.path / "model.pt")
    for batch, sequence in ((1, 1), (3, 17), (2, 100)):
        inputs = case.inputs(batch, sequence)
        with torch.no_grad():
            want = flat(model(*inputs))
            torchscript = scripted(*inputs)
        names = [spec.name for spec in bundle.signature.inputs]
        onnx = runtime.run({key: tensor.numpy() for key, tensor in zip(names, inputs, strict=True)})
        for a, b, c in zip(want, onnx.values(), torchscript, strict=True):
            np.testing.assert_allclose(b, a.numpy(), rtol=0, atol=1e-4)
            np.testing.assert_allclose(c.numpy(), a.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_scan_is_refused_with_its_line_and_reason(tmp_path, name):
    case = LOOPS[name]
    with pytest.raises(ExportError) as caught:
        export(case.model(), case.inputs(2, 4), tmp_path / "bundle", axes=case.axes)
    assert case.refused in str(caught.value) and "corpus.py" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
