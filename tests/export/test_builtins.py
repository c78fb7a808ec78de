"""Every built-in model, exported and run at sizes that were never traced."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

import rnn_models
import rnn_runtime

SIZES = [(1, 1), (13, 7), (200, 64)]  # (sequence, batch)
NAMES = [name for name in rnn_models.names() if rnn_models.get(name).formats is None]  # test_scan.py has the others
STATEFUL = {
    "hello": [("h_0", "h_n")],
    "hello-batch-first": [("h_0", "h_n")],
    "lstm": [("h_0", "h_n"), ("c_0", "c_n")],
    "gru": [("h_0", "h_n")],
    "tagger": [],
    "charlm": [("h", "h_n")],
    "forecaster": [],
}


def random_inputs(name: str, sequence: int, batch: int) -> dict[str, np.ndarray]:
    """Inputs for a built-in model, non-zero states among them."""
    rng = np.random.default_rng(sequence * 1000 + batch)
    example = rnn_models.get(name).example_inputs()
    if name == "tagger":
        lengths = rng.integers(1, sequence + 1, batch)
        return {"ids": rng.integers(0, 50, (batch, sequence)), "lengths": lengths}
    if name == "charlm":
        h = rng.standard_normal((1, batch, example["h"].shape[2])).astype(np.float32)
        return {"ids": rng.integers(0, 20, (batch, sequence)), "h": h}
    if name == "forecaster":
        return {"history": rng.standard_normal((batch, sequence, example["history"].shape[2])).astype(np.float32)}
    model = rnn_models.get(name).model()
    leading = (batch, sequence) if model.batch_first else (sequence, batch)
    arrays = {"input": rng.standard_normal((*leading, model.input_size)).astype(np.float32)}
    count = model.num_layers * (2 if model.bidirectional else 1)
    for state, _ in STATEFUL[name]:
        arrays[state] = rng.standard_normal((count, batch, model.hidden_size)).astype(np.float32)
    return arrays


@pytest.fixture
def eager(eager64):
    return lambda name, inputs: _eager(eager64, name, inputs)


def _eager(eager64, name, inputs):
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    model = rnn_models.get(name).model()
    if isinstance(model, torch.nn.LSTM):
        return eager64(model, tensors[0], tuple(tensors[1:]))
    return eager64(model, *tensors)


@pytest.mark.parametrize(("sequence", "batch"), SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_equals_eager_at_sizes_never_traced(bundles, eager, name, sequence, batch):
    inputs = random_inputs(name, sequence, batch)
    result = rnn_runtime.load(bundles[name]).run(inputs)
    for (output, got), want in zip(result.items(), eager(name, inputs), strict=True):
        assert got.shape == want.shape, output
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6, err_msg=output)


@pytest.mark.parametrize(("sequence", "batch"), SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_torchscript_equals_eager_at_sizes_never_traced(bundles, eager, name, sequence, batch):
    inputs = random_inputs(name, sequence, batch)
    module = torch.jit.load(bundles[name].path / "model.pt")
    results = module(*map(torch.from_numpy, inputs.values()))
    for got, want in zip(results, eager(name, inputs), strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_declared_axis_is_symbolic_in_the_graph(bundles, name):
    graph = onnx.load(bundles[name].path / "model.onnx").graph
    declared = {"ids": 2, "history": 2, "input": 2, "lengths": 1, "h": 1, "h_0": 1, "c_0": 1}
    for value in graph.input:
        names = [dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param]
        assert len(names) == declared[value.name], value.name
        assert set(names) <= {"batch", "sequence"}
    for value in graph.output:
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert "batch" in dims, value.name
        if not value.name.endswith("_n"):
            assert ("max(lengths)" if name == "tagger" else "sequence") in dims, value.name


@pytest.mark.parametrize("name", NAMES)
def test_states_and_lengths_are_found(bundles, name):
    signature = bundles[name].signature
    assert [(state.input, state.output) for state in signature.states] == STATEFUL[name]
    assert (signature.lengths and signature.lengths.input) == ("lengths" if name == "tagger" else None)


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_in_the_manifest_the_graph_and_the_torchscript_file(bundles, name):
    bundle = bundles[name]
    expected = bundle.signature.to_dict()
    assert json.loads((bundle.path / "manifest.json").read_text())["signature"] == expected
    metadata = {p.key: p.value for p in onnx.load(bundle.path / "model.onnx").metadata_props}
    assert json.loads(metadata["rnn_export.signature"]) == expected
    extra = {"rnn_export.signature": ""}
    torch.jit.load(bundle.path / "model.pt", _extra_files=extra)
    assert json.loads(extra["rnn_export.signature"]) == expected


def test_the_graph_alone_runs_with_its_signature(bundles):
    alone = rnn_runtime.load(bundles["charlm"].path / "model.onnx")
    assert alone.signature == bundles["charlm"].signature


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_passes_its_own_check_and_its_golden_example_is_the_users(bundles, name):
    model = rnn_runtime.load(bundles[name])
    assert model.check().passed
    example = rnn_models.get(name).example_inputs()
    tensors = example if isinstance(example, dict) else {"input": example}
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(model.example()[key], tensor.numpy())


COURSE = [
    *([-0.7497, -0.6135], [-0.5282, -0.2473], [-0.9136, -0.4269], [-0.9136, -0.4269], [-0.9028, 0.1180]),
    *([-0.5753, -0.0070], [-0.9052, 0.2597], [-0.9173, -0.1989], [-0.9173, -0.1989], [-0.8996, -0.2725]),
    *([-0.9077, -0.3205], [-0.8944, -0.2902], [-0.5134, -0.0288], [-0.5134, -0.0288], [-0.9127, -0.2222]),
]


def test_the_numbers_of_the_course_come_out_of_every_backend(bundles):
    words = rnn_models.hello_input()
    want = np.array(COURSE).reshape(3, 5, 2)
    with torch.no_grad():
        outputs = {
            "eager": rnn_models.hello()(words)[0].numpy(),
            "onnxruntime": rnn_runtime.load(bundles["hello"]).run(words.numpy())["output"],
            "torchscript": torch.jit.load(bundles["hello"].path / "model.pt")(words, torch.zeros(1, 5, 2))[0].numpy(),
        }
    for backend, got in outputs.items():
        np.testing.assert_array_equal(np.round(got.astype(np.float64), 4), want, err_msg=backend)


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_operators_are_used_and_no_weight_is_reordered_at_run_time(bundles, name):
    (layer,) = bundles[name].layers
    graph = onnx.load(bundles[name].path / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count(layer.operator) == layer.num_layers
    weights = {initializer.name for initializer in graph.initializer}
    for node in graph.node:
        if node.op_type == layer.operator:
            assert set(node.input[1:3]) <= weights
