"""Graphs for single steps, and graphs without a node too many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import rnn_models
import rnn_runtime
from rnn_export import MismatchError, export
from rnn_export._lower import single
from rnn_runtime._bundle import Bundle

TIME_FIRST, BATCH_FIRST = {0: "sequence", 1: "batch"}, {0: "batch", 1: "sequence"}


class Packed(nn.Module):
    """A projected LSTM over packed sequences, its state given."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, proj_size=3, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, (h, c) = self.lstm(packed, (h, c))
        return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], h, c


class Reflected(nn.Module):
    """Eager PyTorch takes no single step: a reflection needs a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(4, 4, 3), nn.RNN(4, 64, batch_first=True)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> Any:
        padded = nn.functional.pad(x.transpose(1, 2), (1, 1), mode="reflect")
        return self.rnn(self.conv(padded).transpose(1, 2), h)


class Inner(nn.Module):
    """One layer whose state is not the model's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)[0]


def _rnn() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"model": nn.RNN(9, 64), "example_inputs": torch.randn(5, 3, 9)}


def _both() -> dict[str, Any]:
    torch.manual_seed(0)
    layer = nn.RNN(7, 64, num_layers=2, bidirectional=True, batch_first=True)
    return {"model": layer, "example_inputs": torch.randn(3, 5, 7)}


def _double() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"model": nn.GRU(7, 5, num_layers=2).double(), "example_inputs": torch.randn(5, 3, 7).double()}


def _packed() -> dict[str, Any]:
    torch.manual_seed(0)
    inputs = (torch.randn(3, 5, 5), torch.tensor([5, 2, 3]), torch.zeros(2, 3, 3), torch.zeros(2, 3, 6))
    axes = {"x": BATCH_FIRST, "h": {1: "batch"}, "c": {1: "batch"}}
    return {"model": Packed(), "example_inputs": inputs, "axes": axes}


def _custom() -> dict[str, Any]:
    return dict(rnn_models.get("layer-norm-lstm").export_arguments())


def _nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def _inputs(signature: Any, sequence: int, batch: int) -> dict[str, Any]:
    """Random values for all inputs of these sizes; lengths that fill the sequence."""
    rng = np.random.default_rng(0)
    sizes = {"sequence": sequence, "batch": batch}
    shapes = {spec: [sizes.get(str(axis), axis) for axis in spec.axes] for spec in signature.inputs}
    values = {spec.name: rng.standard_normal(shape).astype(spec.dtype) for spec, shape in shapes.items()}
    return values | ({signature.lengths.input: np.full(batch, sequence)} if signature.lengths else {})


@pytest.mark.parametrize("make", [_rnn, _both, _double, _packed, _custom], ids=lambda make: make.__name__[1:])
def test_a_scan_for_sequences_is_its_body_for_single_steps(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    export(path=tmp_path / "b", **{**make(), "formats": ("onnx",)})
    assert Bundle.open(tmp_path / "b").step == "sequence"
    assert "Scan" in _nodes(tmp_path / "b/model.onnx")
    assert not {"Scan", "RNN", "LSTM", "GRU"} & set(_nodes(tmp_path / "b/step.onnx"))


@pytest.mark.parametrize("make", [_rnn, _double, _packed, _custom], ids=lambda make: make.__name__[1:])
def test_single_steps_are_the_sequence(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    signature = export(path=tmp_path / "b", **{**make(), "formats": ("onnx",)}).signature
    model, inputs = rnn_runtime.load(tmp_path / "b"), _inputs(signature, sequence=6, batch=2)
    stream = model.stream(batch=2, initial={state.input: inputs[state.input] for state in signature.states})
    whole = model.run(inputs)
    (data,), output = signature.data_inputs, signature.outputs[0]
    chunks = np.split(inputs[data.name], 6, data.axes.index("sequence"))
    got = np.concatenate([stream.push(chunk)[0] for chunk in chunks], output.axes.index("batch") ^ 1)
    np.testing.assert_allclose(got, whole[0], atol=2e-6)
    for name, value in stream.state.items():
        np.testing.assert_allclose(value, whole.state[name], atol=2e-6)


@pytest.mark.parametrize("make", [_rnn, _both, _packed], ids=lambda make: make.__name__[1:])
def test_single_steps_of_a_batch_equal_eager_float64(
    make: Callable[[], dict[str, Any]], tmp_path: Path, eager64: Callable[..., Any]
) -> None:
    arguments = make()
    signature = export(path=tmp_path / "b", formats=("onnx",), **arguments).signature
    inputs = _inputs(signature, sequence=1, batch=4)
    got = rnn_runtime.load(tmp_path / "b").run(inputs)
    want = eager64(arguments["model"], *map(torch.from_numpy, inputs.values()))
    for one, other in zip(got.values(), want, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_large_weights_lie_in_the_bundle_once(tmp_path: Path) -> None:
    export(path=tmp_path / "b", formats=("onnx",), **_rnn())
    weights = 4 * (64 * 64 + 64 * 9 + 64)
    assert weights < (tmp_path / "b/model.onnx").stat().st_size < weights + 4000
    assert (tmp_path / "b/step.onnx").stat().st_size < 4000
    assert len(rnn_runtime.load(tmp_path / "b/model.onnx").run(np.zeros((2, 1, 9), np.float32))) == 2  # it stands alone


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (_rnn, {"state": "none"}),  # no stream, no single steps
        (_rnn, {"lowering": "fused"}),  # nothing to take out
        (_rnn, {"sizes": {"sequence": 1}}),
        (lambda: {"model": nn.RNN(4, 1100), "example_inputs": torch.randn(5, 3, 4)}, {"formats": ("onnx",)}),  # 4.8 MB
        (_rnn, {"formats": ("torchscript",)}),
        (_rnn, {"precision": "float16", "formats": ("onnx",)}),
        (lambda: {"model": nn.GRU(4, 8), "example_inputs": torch.randn(5, 3, 4)}, {}),
    ],
)
def test_where_there_is_nothing_to_gain_there_is_one_graph(
    make: Callable[[], dict[str, Any]], options: dict[str, Any], tmp_path: Path
) -> None:
    export(path=tmp_path / "b", **make(), **options)
    assert not (tmp_path / "b/step.onnx").exists()
    assert Bundle.open(tmp_path / "b").step is None


def test_a_graph_that_eager_pytorch_says_nothing_about_is_not_written(tmp_path: Path) -> None:
    inputs = (torch.randn(3, 5, 4), torch.zeros(1, 3, 64))
    axes = {"x": BATCH_FIRST, "h": {1: "batch"}}
    made = export(Reflected(), inputs, tmp_path / "b", axes=axes, formats=("onnx",))
    assert made.signature.limit("sequence").min == 2  # nothing can be reflected in one step
    assert not (tmp_path / "b/step.onnx").exists()
    assert "Scan" in _nodes(tmp_path / "b/model.onnx")


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_single_steps_in_8_bits_are_those_of_the_sequences_graph(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = export(kind(32, 64), torch.randn(5, 3, 32), tmp_path / "b", precision="int8")
    assert Bundle.open(tmp_path / "b").step == "sequence"
    assert "Scan" in _nodes(tmp_path / "b/model.onnx")
    assert "Scan" not in (nodes := _nodes(tmp_path / "b/step.onnx"))
    assert nodes.count("MatMulInteger") == 2  # for the input and for the state
    inputs = _inputs(made.signature, sequence=1, batch=2)
    got, want = (rnn_runtime.load(tmp_path / name).run(inputs) for name in ("b", "b/model.onnx"))
    for one, other in zip(got.values(), want.values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_wrong_graph_for_single_steps_is_found(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = single.write

    def wrong(captured: Any, scans: Any, axis: str, source: Path, path: Path) -> None:
        right(captured, scans, axis, source, path)
        model = onnx.load(path, load_external_data=False)
        (tanh,) = (node for node in model.graph.node if node.op_type == "Tanh")
        tanh.op_type = "Sigmoid"
        path.write_bytes(model.SerializeToString())

    monkeypatch.setattr(single, "write", wrong)
    with pytest.raises(MismatchError) as caught:
        export(path=tmp_path / "b", formats=("onnx",), precision=precision, **_rnn())
    failures = caught.value.report.failures
    assert failures if precision == "int8" else {row.shape["sequence"] for row in failures} == {1}
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("model", "batch_first", "operators"),
    [
        (nn.RNN(4, 2), False, ["RNN", "Squeeze"]),
        (nn.LSTM(4, 3), False, ["LSTM", "Squeeze"]),
        (nn.GRU(4, 3, batch_first=True), True, ["Transpose", "GRU", "Squeeze", "Transpose"]),
        (Inner(nn.LSTM(4, 3, batch_first=True)), True, ["Transpose", "LSTM", "Squeeze", "Transpose"]),
        (nn.GRU(4, 3, num_layers=2), False, ["Split", "GRU", "Squeeze", "GRU", "Squeeze", "Concat"]),
        (Inner(nn.GRU(4, 3, bidirectional=True)), False, ["GRU", "Transpose", "Reshape"]),
        (
            Inner(nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)),
            True,
            ["Transpose", "LSTM", "Transpose", "Reshape", "LSTM", "Transpose", "Reshape"],
        ),
        (nn.RNN(4, 64), False, ["MatMul", "Add", "Squeeze", "Scan", "Unsqueeze"]),
    ],
    ids=str,
)
def test_a_plain_layer_has_these_nodes_and_no_other(
    model: nn.Module, batch_first: bool, operators: list[str], tmp_path: Path
) -> None:
    axes = {"x": BATCH_FIRST if batch_first else TIME_FIRST} if isinstance(model, Inner) else None
    export(model, torch.randn(3, 5, 4), tmp_path / "b", axes=axes, formats=("onnx",))
    assert sorted(_nodes(tmp_path / "b/model.onnx")) == sorted(operators)


def test_a_graph_names_no_folder_of_the_machine_that_wrote_it(tmp_path: Path) -> None:
    for make in (_rnn, _custom):
        export(path=tmp_path / "b", overwrite=True, **{**make(), "formats": ("onnx",)})
        for name in ("model.onnx", "step.onnx"):
            assert b"/site-packages/" not in (tmp_path / "b" / name).read_bytes()
            assert b".py" not in (tmp_path / "b" / name).read_bytes()


class Tied(nn.Module):
    """A language model whose output layer has the weight of its embedding."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding, self.lstm, self.out = (
            nn.Embedding(1100, 32),
            nn.LSTM(32, 32, batch_first=True),
            nn.Linear(32, 1100),
        )
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embedding(ids))[0])


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_weight_lies_in_the_bundle_once(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    arguments = {"example_inputs": torch.randint(1100, (3, 5)), "axes": {"ids": BATCH_FIRST}, "formats": ("onnx",)}
    export(Tied(tied), path=tmp_path / "b", **arguments)
    rest = 4 * (2 * 4 * 32 * 32 + 8 * 32 + 1100)
    table = 4 * 1100 * 32
    assert 0 < (tmp_path / "b/model.onnx").stat().st_size - rest - (1 if tied else 2) * table < 6000


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_a_tied_weight_has_scales_of_its_own_in_each_layer(tmp_path: Path, precision: str) -> None:
    torch.manual_seed(0)
    arguments = {"example_inputs": torch.randint(1100, (3, 5)), "axes": {"ids": BATCH_FIRST}, "precision": precision}
    bundle = export(Tied(), path=tmp_path / "b", **arguments)
    assert bundle.quantized is not None
    assert bundle.quantized.layers == ("Embedding embedding", "LSTM lstm", "Linear out")
    assert bundle.quantized.others == ()
    lstm, table = 2 * 4 * 32 * 32, 1100 * 32
    weights = lstm + 2 * table if precision == "int8" else 2 * (lstm + table)
    rest = 4 * (8 * 32 + 1100) + (2 * 4 * 4 * 32 + 5 * 1100 if precision == "int8" else 0)
    assert 0 < (tmp_path / "b/model.onnx").stat().st_size - weights - rest < 6000


class Swapped(nn.Module):
    """A model that gives the weight of its embedding with its axes swapped, after a product with it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(700, 32), nn.LSTM(32, 32, batch_first=True)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        swapped = self.embedding.weight.t()
        return self.lstm(self.embedding(ids))[0] @ swapped, swapped * 1


def test_a_tied_weight_that_is_an_output_too(tmp_path: Path, eager64: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = Swapped()
    export(model, torch.randint(700, (3, 5)), tmp_path / "b", axes={"ids": BATCH_FIRST}, formats=("onnx",))
    ids = torch.randint(700, (2, 9))
    for got, want in zip(rnn_runtime.load(tmp_path / "b").run(ids.numpy()).values(), eager64(model, ids), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


class Looped(nn.Module):
    """A loop whose step has a product with the weight of an embedding around it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(700, 32), nn.Linear(32, 32)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        h, outputs = x.new_zeros(len(ids), 32), []
        for t in range(x.shape[1]):
            h = torch.tanh(
                self.inner(x[:, t]) + h / 2 + torch.tanh(h @ self.embedding.weight.t()) @ self.embedding.weight / 700
            )
            outputs.append(h)
        return torch.stack(outputs, 1)


def test_a_tied_weight_in_a_step_stays_a_constant(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {"example_inputs": torch.randint(700, (3, 5)), "axes": {"ids": BATCH_FIRST}, "formats": ("onnx",)}
    export(Looped(), path=tmp_path / "b", target="openvino", **arguments)  # refuses what is computed around a Scan
    assert "Scan" in _nodes(tmp_path / "b/model.onnx")


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x)[0])[0]


def test_a_layer_that_is_called_twice_lies_in_the_bundle_once(tmp_path: Path) -> None:
    export(Twice(), torch.randn(5, 3, 32), tmp_path / "b", axes={"x": TIME_FIRST}, formats=("onnx",))
    weights = 4 * (2 * 3 * 32 * 32 + 2 * 3 * 32)
    assert 0 < (tmp_path / "b/model.onnx").stat().st_size - weights < 4000
