"""A slice of the conformance matrix that changes with the seed; `make conformance` runs all of it."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path

import pytest
import torch

import rnn_runtime
from rnn_export import export

_spec = importlib.util.spec_from_file_location("conformance_matrix", Path(__file__).with_name("matrix.py"))
matrix = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(matrix)

SLICE = random.Random(os.environ["RNN_EXPORT_SEED"]).sample(list(matrix.configs()), 30)


def test_the_matrix_is_whole():
    assert len(set(matrix.configs())) == 5 * 3 * 2 * 2 * 2 * 2 * 3 * 2


@pytest.mark.parametrize("config", SLICE, ids=str)
def test_an_export_with_these_options_is_right(tmp_path, config):
    bundle = export(path=tmp_path / "bundle", formats=["onnx", "torchscript", "pt2"], **matrix.arguments(config))
    model = matrix.build(config)
    runtime = rnn_runtime.load(bundle)
    script = torch.jit.load(bundle.path / "model.pt")
    program = torch.export.load(bundle.path / "model.pt2").module()

    def on_torch(module):
        return lambda arrays: [t.detach().numpy() for t in module(*map(torch.from_numpy, arrays.values()))]

    assert matrix.problem(config, model, lambda arrays: list(runtime.run(arrays).values())) is None
    assert matrix.problem(config, model, on_torch(script)) is None
    assert matrix.problem(config, model, on_torch(program)) is None
    states = [(state.input, state.output) for state in bundle.signature.states]
    assert states == (
        [(f"{k}_0", f"{k}_n") for k in "hc"[: 1 + config.cell.startswith("LSTM")]] if config.state else []
    )


@pytest.mark.parametrize("broken", ["value", "shape", "raises"])
def test_the_check_finds_what_is_wrong(broken):
    config = matrix.Config("GRU", 1, False, True, True, False, "none", "float32")
    model = matrix.build(config)

    def run(arrays):
        with torch.no_grad():
            y, h = (tensor.numpy() for tensor in model(torch.from_numpy(arrays["x"])))
        if len(arrays["x"]) < 7:  # right up to the last batch size
            return [y, h]
        match broken:
            case "value":
                return [y, h + 2e-6]
            case "shape":
                return [y[:, :5], h]
        raise ValueError("no")

    assert "batch 7" in matrix.problem(config, model, run)
