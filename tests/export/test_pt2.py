"""The .pt2 format: a program that loads without this project, right at any size."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import rnn_models
from rnn_export import export, verify

CODE = """
import sys, numpy, torch
program = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    inputs = numpy.load(sys.argv[2])
    results = program(*(torch.from_numpy(inputs[name]) for name in inputs.files))
numpy.savez(sys.argv[3], *(result.numpy() for result in results))
assert not any(name.startswith("rnn_") for name in sys.modules)
"""


@pytest.mark.parametrize("name", ["lstm", "tagger"])
def test_it_loads_and_runs_in_a_process_without_this_project(tmp_path, eager64, name):
    built_in = rnn_models.get(name)
    bundle = export(path=tmp_path / "bundle", formats=["pt2"], **built_in.export_arguments())
    model = built_in.model()
    if name == "lstm":
        x, h, c = torch.randn(11, 4, 6), torch.randn(1, 4, 10), torch.randn(1, 4, 10)
        example = built_in.example_inputs()
        x = torch.randn(11, 4, example.shape[2])
        h, c = (torch.randn(1, 4, model.hidden_size) for _ in range(2))
        inputs, want = {"a": x, "b": h, "c": c}, eager64(model, x, (h, c))
    else:
        ids, lengths = torch.randint(50, (4, 11)), torch.tensor([3, 9, 1, 9])
        inputs, want = {"a": ids, "b": lengths}, eager64(model, ids, lengths)
    np.savez(tmp_path / "in.npz", **{key: tensor.numpy() for key, tensor in inputs.items()})
    arguments = [bundle.path / "model.pt2", tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", CODE, *map(str, arguments)], check=True)
    with np.load(tmp_path / "out.npz") as out:
        for key, expected in zip(out.files, want, strict=True):
            assert out[key].shape == expected.shape
            np.testing.assert_allclose(out[key], expected, rtol=0, atol=1e-6)


def test_a_bundle_with_it_verifies(tmp_path):
    built_in = rnn_models.get("charlm")
    bundle = export(path=tmp_path / "bundle", formats=["onnx", "pt2"], **built_in.export_arguments())
    report = verify(built_in.model(), bundle)
    assert report.passed
    assert {"eager", "torch.export", "onnxruntime-cpu"} <= {row.backend for row in report.rows}
