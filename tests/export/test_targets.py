"""Targets: what each takes is written, what it does not is refused; and the runtimes that are at hand run it.

`make test-targets` puts ONNX Runtime 1.15 and onnxruntime-web into build/targets, and OpenVINO into its environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import ExportError, InputError, _targets, export
from rnn_export.cli import main

X = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(0))
TOOLS = Path(__file__).parent.parent.parent / "build" / "targets"


class Packed(nn.Module):
    def __init__(self, bidirectional=False):
        super().__init__()
        self.gru = nn.GRU(6, 4, batch_first=True, bidirectional=bidirectional)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


class Attends(nn.Module):
    """A loop that looks at a memory from outside in each step."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 6)

    def forward(self, x, memory):
        h, outputs = x.new_zeros(x.shape[1], 6), []
        for x_t in x:
            weights = torch.softmax(torch.einsum("btd,bd->bt", memory, h), 1)
            h = self.cell(x_t + torch.einsum("bt,btd->bd", weights, memory), h)
            outputs.append(h)
        return torch.stack(outputs)


class Own(nn.Module):
    """A loop of one's own, whose step needs nothing from outside but weights."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 4)

    def forward(self, x):
        h, outputs = x.new_zeros(x.shape[1], 4), []
        for x_t in x:
            h = torch.tanh(self.linear(torch.cat([x_t, h], 1)))
            outputs.append(h)
        return torch.stack(outputs)


def packed(bidirectional=False):
    axes = {"x": {0: "batch", 1: "sequence"}}
    return {
        "model": Packed(bidirectional),
        "example_inputs": (X.transpose(0, 1).contiguous(), torch.tensor([5, 2, 4])),
        "axes": axes,
    }


def bare(layer, **more):
    return {"model": layer, "example_inputs": X, **more}


def loop(model, *more):
    axes = {"x": {0: "sequence", 1: "batch"}, **({"memory": {0: "batch", 1: "text"}} if more else {})}
    return {"model": model, "example_inputs": (X, *more), "axes": axes}


MEMORY = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(1))
TAKEN = {
    "rnn": lambda: bare(nn.RNN(6, 64)),
    "lstm": lambda: bare(nn.LSTM(6, 4, 2, bidirectional=True)),
    "gru": lambda: bare(nn.GRU(6, 4)),
}
EVERYWHERE = [(name, case) for name in _targets.TARGETS for case in TAKEN]
MORE = [
    ("onnxruntime-1.15", "projection"),
    ("onnxruntime-1.15", "packed"),
    ("onnxruntime-1.15", "float64"),
    ("onnxruntime-1.15", "int8"),
    ("onnxruntime-web", "projection"),
    ("onnxruntime-web", "packed"),
    ("onnxruntime-web", "int8"),
    ("openvino", "own"),
    ("openvino", "projection"),
    ("openvino", "packed"),
    ("openvino", "int8"),
]
TAKEN |= {
    "projection": lambda: bare(nn.LSTM(6, 4, proj_size=3)),
    "packed": lambda: packed(bidirectional=True),
    "float64": lambda: {"model": nn.LSTM(6, 4).double(), "example_inputs": X.double()},
    "int8": lambda: bare(nn.LSTM(6, 16), precision="int8"),
    "own": lambda: loop(Own()),
}


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """taken(target, case): the bundle, exported once."""
    made = {}

    def one(target, case):
        if (target, case) not in made:
            torch.manual_seed(0)
            path = tmp_path_factory.mktemp("target") / "b"
            made[target, case] = export(path=path, **{"formats": ["onnx"], **TAKEN[case]()}, target=target)
        return made[target, case]

    return one


@pytest.mark.parametrize(("target", "case"), EVERYWHERE)
def test_what_a_target_takes_is_written_within_its_bounds(taken, target, case):
    bundle, facts = taken(target, case), _targets.TARGETS[target]
    model = onnx.load(bundle.path / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert model.ir_version == facts.ir_version and model.opset_import[0].version == 18 <= facts.opset
    assert not kinds & facts.without
    # A Scan is taken where it is faster, and only by ONNX Runtime.
    assert ("Scan" in kinds) == (case == "rnn" and target.startswith("onnxruntime"))
    assert json.loads((bundle.path / "manifest.json").read_text())["options"]["target"] == target
    assert bundle.report.passed and rnn_runtime.load(bundle).check().passed


@pytest.mark.parametrize(
    ("target", "arguments", "text"),
    [
        (
            "openvino",
            packed() | {"lowering": "fused"},
            r"the GRU 'node_\w+' takes lengths, which it ignores: .*lowering='scan'",
        ),
        (
            "openvino",
            loop(Attends(), MEMORY),
            "body of the Scan .* reads values that are computed outside: .*decomposed",
        ),
        ("openvino", bare(nn.LSTM(6, 4).double()) | {"example_inputs": X.double()}, r"float64: export model.float\(\)"),
        ("tensorrt", packed(True) | {"split_directions": True}, r"ReverseSequence .* has dynamic sizes: fix them all"),
        (
            "tensorrt",
            bare(nn.LSTM(6, 16), precision="int8"),
            "DynamicQuantizeLSTM is one of ONNX Runtime's own operators",
        ),
        ("tensorrt", bare(nn.LSTM(6, 4).double()) | {"example_inputs": X.double()}, "float64"),
    ],
)
def test_what_it_does_not_take_is_refused_with_the_way_out(tmp_path, target, arguments, text):
    with pytest.raises(ExportError, match=rf"{target} does not take this model \(.*{text}"):
        export(path=tmp_path / "b", **{"formats": ["onnx"], **arguments}, target=target)
    assert list(tmp_path.iterdir()) == []


def test_the_way_out_leads_out(tmp_path):
    sizes = {"sequence": 9}
    arguments = loop(Attends(), MEMORY) | {"lowering": "decomposed", "sizes": sizes}
    assert export(path=tmp_path / "a", **arguments, target="openvino").report.passed
    arguments = packed(True) | {"split_directions": True, "sizes": {"batch": 2, "sequence": 9}}
    assert export(path=tmp_path / "b", **arguments, target="tensorrt").report.passed


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"target": "onnx"},
            "there is no target 'onnx': the targets are onnxruntime-1.15, onnxruntime-web, openvino, ten",
        ),
        ({"target": "onnxruntime-1.15", "opset": 20}, "opset 20 was asked for, and onnxruntime-1.15 takes 19 at most"),
        ({"target": "tensorrt", "formats": ["torchscript"]}, r"formats is \['torchscript'\]: add 'onnx'"),
    ],
)
def test_what_fits_no_target_is_refused(tmp_path, more, text):
    with pytest.raises(InputError, match=text):
        export(nn.GRU(6, 4), X, tmp_path / "b", **more)
    assert list(tmp_path.iterdir()) == []


def test_the_table_names_operators_that_there_are():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    for target in _targets.TARGETS.values():
        assert target.without <= known and not target.without & {"RNN", "LSTM", "GRU", "Scan", "MatMul"}
        assert target.opset >= 18 and target.source


def test_an_operator_that_a_target_has_not_is_named():
    node = onnx.helper.make_node("Unique", ["x"], ["y"])
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]), opset_imports=opset, ir_version=11)
    found = list(_targets._problems(_targets.TARGETS["tensorrt"], model))
    assert found == [
        "it has opset 21 and IR version 11",
        "it has no Unique: have the model do without, or compute that part outside",
    ]


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["rnn-export", "export", "hello", "-o", str(tmp_path / "b"), "--target", "openvino"]
    )
    main()
    assert onnx.load(tmp_path / "b" / "model.onnx").ir_version == 10


def test_the_guide_has_every_target():
    text = (Path(__file__).parent.parent.parent / "docs" / "targets.md").read_text(encoding="utf-8")
    for name, target in _targets.TARGETS.items():
        assert f"`{name}`" in text
        assert f"opset {target.opset}, IR {target.ir_version}" in text


def feeds_of(bundle, batch=2, sequence=7):
    """Inputs and what rnn_runtime makes of them."""
    model, random = rnn_runtime.load(bundle), np.random.default_rng(0)
    feeds = {}
    for spec in model.signature.inputs:
        shape = [{"batch": batch, "sequence": sequence}.get(axis, axis) for axis in spec.axes]
        feeds[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        if spec.name == "lengths":
            feeds[spec.name] = np.array([sequence, *[max(1, sequence - 4)] * (batch - 1)])
    return feeds, dict(model.run(feeds))


@pytest.mark.parametrize(("target", "case"), [pair for pair in [*EVERYWHERE, *MORE] if pair[0] == "openvino"])
def test_openvino_runs_it(taken, target, case):
    openvino = pytest.importorskip("openvino")
    bundle = taken(target, case)
    core = openvino.Core()
    path = str(bundle.path / "model.onnx")
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch, sequence in ((1, 1), (2, 7), (5, 19)):
        feeds, want = feeds_of(bundle, batch, sequence)
        got = compiled(feeds)
        for k, array in enumerate(want.values()):
            np.testing.assert_allclose(got[k], array, rtol=0, atol=2e-2 if case == "int8" else 1e-5)


OLD = """
import sys, numpy as np, onnxruntime
assert onnxruntime.__version__.startswith("1.15."), onnxruntime.__version__
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
np.savez(sys.argv[3], *session.run(None, dict(np.load(sys.argv[2]))))
"""


@pytest.mark.parametrize(("target", "case"), [pair for pair in [*EVERYWHERE, *MORE] if pair[0] == "onnxruntime-1.15"])
def test_onnxruntime_1_15_runs_it(taken, tmp_path, target, case):
    tools = TOOLS / "onnxruntime-1.15"
    if not tools.exists():
        pytest.skip("needs make test-targets")
    bundle = taken(target, case)
    feeds, want = feeds_of(bundle)
    np.savez(tmp_path / "in.npz", **feeds)
    command = [sys.executable, "-c", OLD, bundle.path / "model.onnx", tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(tools)})
    got = np.load(tmp_path / "out.npz")
    for k, array in enumerate(want.values()):
        np.testing.assert_allclose(got[f"arr_{k}"], array, rtol=0, atol=2e-2 if case == "int8" else 1e-5)


WEB = """
import * as ort from "onnxruntime-web";
import { readFileSync } from "node:fs";
ort.env.wasm.numThreads = 1;
const [model, given] = process.argv.slice(2);
const session = await ort.InferenceSession.create(readFileSync(model));
const feeds = {};
for (const [name, { dtype, data, dims }] of Object.entries(JSON.parse(readFileSync(given))))
  feeds[name] = new ort.Tensor(dtype, dtype === "int64" ? BigInt64Array.from(data.map(BigInt)) : data, dims);
const results = await session.run(feeds);
const plain = (name) => ({ dims: results[name].dims, data: Array.from(results[name].data) });
console.log(JSON.stringify(session.outputNames.map(plain)));
"""


@pytest.mark.parametrize(("target", "case"), [pair for pair in [*EVERYWHERE, *MORE] if pair[0] == "onnxruntime-web"])
def test_onnxruntime_web_runs_it(taken, tmp_path, target, case):
    if not (TOOLS / "node_modules" / "onnxruntime-web").exists() or shutil.which("node") is None:
        pytest.skip("needs Node.js and make test-targets")
    bundle = taken(target, case)
    feeds, want = feeds_of(bundle)
    script = TOOLS / "run.mjs"  # node looks for packages beside it
    script.write_text(WEB)
    given = {
        name: {"dtype": str(array.dtype), "data": array.ravel().tolist(), "dims": array.shape}
        for name, array in feeds.items()
    }
    (tmp_path / "in.json").write_text(json.dumps(given))
    command = ["node", script, bundle.path / "model.onnx", tmp_path / "in.json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    got = json.loads(done.stdout.splitlines()[-1])
    for found, array in zip(got, want.values(), strict=True):
        values = np.array(found["data"], np.float64).reshape(found["dims"])
        np.testing.assert_allclose(values, array, rtol=0, atol=2e-2 if case == "int8" else 1e-5)
