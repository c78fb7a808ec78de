"""R: running with ONNX Runtime."""

from __future__ import annotations

import copy
import gc
import os
import threading
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from settle import Case, Lengths, params, right
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import ExportError, InputError, export
from rnn_export._bench import _baseline, bench
from rnn_export._versions import notes

X = ("sequence", "batch", 6)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)

    def forward(self, x, lengths):
        y, _ = self.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0]


CASES = [
    Case(("R1",), lambda: nn.LSTM(6, 4), {"input": X}, dtype=torch.float64, options={"state": "none"}),
    Case(("R9",), lambda: nn.LSTM(6, 4), {"input": X}, dtype=torch.float16, options={"state": "none"}),
    Case(("R7",), Packed, {"x": ("batch", "sequence", 6), "lengths": Lengths(short_by=2)}),
]


@pytest.mark.parametrize("case", params(CASES))
def test_one_file_is_right_where_it_runs(tmp_path, case):
    right(case, tmp_path)


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    return export(nn.LSTM(6, 4), torch.randn(5, 3, 6), tmp_path_factory.mktemp("lstm") / "b", formats=["onnx"])


@pytest.mark.reported("R2", "W")
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_r2_what_int8_changes_is_reported_with_its_error(tmp_path, cell):
    """Not the LSTM alone is in 8 bits; the report's signal to noise is not below what a run of the file shows."""
    torch.manual_seed(0)
    model, x = cell(6, 16), torch.randn(37, 11, 6)
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", precision="int8", state="none")
    assert bundle.quantized.layers == (cell.__name__,) and bundle.quantized.kept == ()
    assert f"signal to noise {bundle.quantized.snr:.1f} dB" in str(bundle.quantized)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())[0].numpy()
    error = rnn_runtime.load(bundle).run(x.numpy())["output"] - want
    assert 0 < np.sum(error**2) < np.sum(want**2) / 10**3  # 30 dB, which int8 is held to
    assert bundle.quantized.snr >= 30


@pytest.mark.reported("R3", "X")
@pytest.mark.parametrize("child", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_r3_a_layer_that_torch_quantised_is_refused_with_the_way_round(tmp_path, child):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(6, 4)

        def forward(self, input):
            return self.lstm(input)[0]

    model = Net() if child else nn.Sequential(nn.LSTM(6, 4))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM}, dtype=torch.qint8)
    name = "lstm" if child else "0"
    with pytest.raises(
        ExportError, match=rf"'{name}' \(.*LSTM\) was quantised by PyTorch.*export the float model first"
    ):
        export(quantised, torch.randn(5, 3, 6), tmp_path / "b", axes={"input": {0: "sequence", 1: "batch"}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("R4", "F")
def test_r4_a_small_model_has_one_thread_and_none_spins(lstm):
    options = rnn_runtime.load(lstm)._session.get_session_options()
    assert options.intra_op_num_threads == 1 and options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.full
@pytest.mark.reported("R4", "F")
def test_r4_processor_time_of_a_stream_at_6_hz(lstm, record_property):
    """A figure for the report: which share of a core 3 s of a stream at 6 Hz take. No bound on it."""
    stream = rnn_runtime.load(lstm, threads=2).stream()
    x = np.zeros((1, 1, 6), np.float32)
    stream.push(x), stream.push(x)
    start, used = time.monotonic(), time.process_time()
    for _ in range(18):
        stream.push(x)
        time.sleep(1 / 6)
    share = (time.process_time() - used) / (time.monotonic() - start)
    record_property("figure", f"a stream at 6 Hz takes {100 * share:.2f} % of a core with two threads")
    np.testing.assert_array_equal(stream.push(x)["output"].shape, (1, 1, 4))


def resident():
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.full
@pytest.mark.reported("R6", "W")
@pytest.mark.parametrize("how", ["one shape", "3000 lengths"])
def test_r6_memory_does_not_grow(lstm, how, record_property):
    """Four thousand runs, the first thousand to settle; a leak as it was reported would be 33 GB."""
    model = rnn_runtime.load(lstm)
    stream = model.stream()
    lengths = np.random.default_rng(0).integers(1, 600, 4000)
    x = np.random.default_rng(0).standard_normal((600, 1, 6)).astype(np.float32)
    for k, length in enumerate(lengths):
        if k == 1000:
            before = resident()
        chunk = x[: 50 if how == "one shape" else length] + np.float32(k)
        model.run(chunk)
        stream.push(chunk)
    grown = (resident() - before) / 2**20
    record_property("figure", f"3000 runs and pushes over {how} grow the process by {grown:.1f} MB")
    assert grown < 32


@pytest.mark.reported("R8", "X")
@pytest.mark.parametrize("lengths", [[3, 8], [0, 7], [-1, 7]])
def test_r8_lengths_that_are_none_are_refused_before_anything_runs(tmp_path, lengths):
    bundle = export(path=tmp_path / "b", **{**CASES[2].arguments(), "formats": ["onnx"]})
    model = rnn_runtime.load(bundle)
    with pytest.raises(InputError, match="lengths"):
        model.run(np.zeros((2, 7, 6), np.float32), lengths=lengths)
    assert model.run(np.zeros((2, 7, 6), np.float32), lengths=[3, 7])["output"].shape == (2, 7, 8)


@pytest.mark.reported("R10", "W")
def test_r10_versions_whose_kernels_are_slower_are_known(monkeypatch):
    (note,) = notes({"onnxruntime": "1.21.0"})
    assert "GRU" in note and "slower" in note
    assert notes({"onnxruntime": "1.32.0", "onnx": "1.23.2"}) == []


@pytest.mark.reported("R10", "F")
def test_r10_a_slower_kernel_shows_against_a_saved_benchmark(tmp_path):
    """One step of a GRU, as in the thread; a baseline of a tenth of its time stands for the faster version."""
    path = export(nn.GRU(6, 4), torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"]).path
    found = bench(path, sizes={"sequence": [1], "batch": [1]}, rounds=2, seconds=0.01)
    (tmp_path / "base.json").write_text(found.to_json())
    before = _baseline.load(tmp_path / "base.json")
    assert before == found
    _baseline.compare(found, before, 1.2).require()
    (row,) = before.timings
    faster = replace(row, p50=row.p50 / 10, spread=(row.spread[0] / 10, row.spread[1] / 10))
    with pytest.raises(_baseline.SlowerError, match="onnxruntime at sequence=1 batch=1"):
        _baseline.compare(found, replace(before, timings=(faster,)), 1.2).require()


@pytest.mark.reported("R11", "R")
def test_r11_many_threads_share_a_model_and_each_has_its_own_stream(lstm):
    model = rnn_runtime.load(lstm)
    x = np.random.default_rng(0).standard_normal((4, 300, 1, 1, 6)).astype(np.float32)
    got = [None] * 4

    def work(k):
        stream = model.stream()
        got[k] = np.concatenate([stream.push(chunk)["output"] for chunk in x[k]])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_array_equal(got[k], model.run(x[k][:, 0])["output"])


@pytest.mark.reported("R12", "W")
def test_r12_the_graph_asks_for_little(tmp_path):
    """Opset 18, IR 8, the default domain alone, and no empty names at the end of a node's inputs."""
    for k, layer in enumerate((nn.RNN(6, 4), nn.LSTM(6, 4, 2, bidirectional=True), nn.GRU(6, 4))):
        options = {"formats": ["onnx"], "state": "none", "target": "onnxruntime-web"}
        bundle = export(layer, torch.randn(5, 3, 6), tmp_path / str(k), **options)
        model = onnx.load(bundle.path / "model.onnx")
        assert {(entry.domain, entry.version) for entry in model.opset_import if entry.domain == ""} == {("", 18)}
        assert model.ir_version == 8
        assert {node.domain for node in model.graph.node} == {""}
        assert all(node.input[-1] for node in model.graph.node if node.input)


@pytest.mark.reported("R13", "R")
def test_r13_axes_have_names_on_inputs_and_outputs(lstm):
    graph = onnx.load(lstm.path / "model.onnx").graph
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    state = [1, "batch", 4]
    assert dims == {
        "input": ["sequence", "batch", 6],
        "output": ["sequence", "batch", 4],
        **dict.fromkeys(("h_0", "c_0", "h_n", "c_n"), state),
    }
