"""The properties that need the live model, each seen to fail; and the suite around them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rnn_models
import rnn_runtime
from rnn_export import InputError, _backends, export, verify
from rnn_export._backends import Backend
from rnn_export._properties import everything
from rnn_export._properties.nonfinite import documented
from rnn_runtime._properties.empties import Empties

_spec = importlib.util.spec_from_file_location("broken_bundles", Path(__file__).parent / "broken.py")
broken = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(broken)

NAMES = [prop.name for prop in everything(1)]


class Faulty(Backend):
    """A backend of the bundle with something done to its inputs or outputs."""

    name = "faulty"

    def __init__(self, path, before=None, after=None):
        self._model = rnn_runtime.load(path)
        self._before = before or (lambda inputs: inputs)
        self._after = after or (lambda outputs, inputs: outputs)

    def run(self, inputs):
        return self._after(dict(self._model.run(self._before(dict(inputs)))), inputs)


@pytest.fixture
def check(bundles, monkeypatch):
    """check("hello", "drift", before=..., after=...): the check of one property on a faulty backend."""

    def one(name, prop, level="quick", **faults):
        bundle = bundles[name]
        monkeypatch.setattr(_backends, "sealed", lambda sealed, device: [Faulty(sealed.path, **faults)])
        report = verify(rnn_models.get(name).model(), bundle, level=level, only=prop, backend="faulty")
        assert report.passed == all(check.verdict != "failed" for check in report.checks)
        (found,) = report.checks
        assert (found.property, found.backend) == (prop, "faulty")
        return found

    return one


@pytest.mark.parametrize("prop", [name for name in NAMES if name not in ("padding", "empties")])
def test_a_backend_that_is_right_has_every_property(check, prop):
    found = check("hello", prop)
    assert (found.verdict, found.note) == ("passed", "")
    assert found.trials


def test_values_are_wrong_at_some_sizes_alone(check):
    def after(outputs, inputs):
        sequence, batch, _ = inputs["input"].shape
        return {**outputs, "output": outputs["output"] + np.float32(1e-3 * (sequence >= 11 and batch >= 5))}

    found = check("hello", "values", level="default", after=after)
    assert found.verdict == "failed"
    assert found.trial == {"sequence": 11, "batch": 5, "values": 0, "seed": 0}
    assert found.error == pytest.approx(1e-3, rel=0.01)
    assert found.command.endswith("--property values --backend faulty --trial sequence=11,batch=5,values=0,seed=0")


def test_an_initial_state_that_is_not_honoured_is_a_wrong_value_and_a_wrong_state(check):
    def zeros(inputs):
        return {**inputs, "h_0": np.zeros_like(inputs["h_0"])}

    assert check("hello", "values", before=zeros).verdict == "failed"
    found = check("hello", "state", before=zeros)
    assert found.verdict == "failed"
    assert (found.trial["sequence"], found.trial["batch"]) == (1, 1)


def test_a_state_that_starts_from_something_else_is_seen(check):
    def shifted(inputs):
        return {**inputs, "h_0": inputs["h_0"] + np.float32(0.5)}

    found = check("hello", "state", before=shifted)
    assert found.verdict == "failed"
    assert "from zeros" in found.where


def test_an_error_that_adds_up_is_seen_over_many_steps(check):
    def after(outputs, inputs):
        steps = np.arange(len(outputs["output"]), dtype=np.float32)[:, None, None]
        return {**outputs, "output": outputs["output"] + 2e-8 * steps}

    assert check("hello", "values", after=after).verdict == "passed"  # at forty steps nothing shows
    found = check("hello", "drift", level="quick", after=after)
    assert found.verdict == "failed"
    assert 450 <= found.trial["sequence"] <= 550  # where 2e-8 a step comes to 1e-5
    assert found.trial["batch"] == 1


def test_the_drift_is_over_as_many_steps_as_it_says(bundles):
    report = verify(rnn_models.hello(), bundles["hello"], only="drift", backend="onnxruntime-cpu")
    (series,) = report.series
    assert (series.backend, series.output) == ("onnxruntime-cpu", "output")
    assert (series.steps[0], len(series.steps), series.steps[-1]) == (0, 100, 9900)
    assert max(series.errors) < 1e-6
    assert "10,000" in report.checks[0].promise


@pytest.mark.parametrize(
    ("before", "scale"),
    [
        (lambda x: np.clip(x, -50, 50), 1e2),  # a kernel that clips
        (lambda x: np.where(np.abs(x) > 1e5, np.float32(0), x), 1e6),
        (
            lambda x: np.where((x != 0) & (np.abs(x) < 1e-38), np.float32(1), x),
            1e-40,
        ),  # denormals read as something else
    ],
)
def test_inputs_of_another_size_are_seen(check, before, scale):
    found = check("lstm", "magnitudes", before=lambda inputs: {**inputs, "input": before(inputs["input"])})
    assert found.verdict == "failed"
    from rnn_export._properties.magnitudes import SCALES

    assert SCALES[found.trial["scale"]] == scale


def test_flushing_denormals_to_zero_is_no_failure(check):
    def flush(inputs):
        x = inputs["input"]
        return {**inputs, "input": np.where(np.abs(x) < 1.2e-38, np.float32(0), x)}

    assert check("lstm", "magnitudes", before=flush).verdict == "passed"


def test_nan_that_is_swallowed_without_being_documented_is_seen(check):
    found = check("hello", "nonfinite", before=lambda inputs: {**inputs, "input": np.nan_to_num(inputs["input"])})
    assert found.verdict == "failed"
    assert "are numbers that are NaN or infinite in eager PyTorch" in found.note


def test_nan_that_spreads_to_other_rows_is_seen(check):
    def after(outputs, inputs):
        bad = np.isnan(outputs["output"]).any()
        return {**outputs, "output": outputs["output"] + np.float32(np.nan if bad else 0)}

    found = check("hello", "nonfinite", after=after)
    assert found.verdict == "failed"
    assert "of eager PyTorch's are not finite" in found.note
    assert found.trial["kind"] == 0


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_onnxruntime_swallows_nan_as_documented(bundles, name):
    report = verify(rnn_models.get(name).model(), bundles[name], level="quick", only="nonfinite")
    found = {check.backend: check for check in report.checks}
    assert report.passed
    text = "NaN is swallowed, as documented of ONNX Runtime's LSTM and GRU operators"
    assert found["onnxruntime-cpu"].note == text
    assert found["torchscript"].note == ""
    # What is documented of one operator or backend is not of another.
    assert documented("onnxruntime-cpu", {"RNN": 1}) is None
    assert documented("torchscript", {"LSTM": 1}) is None
    page = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
    assert "ONNX Runtime's LSTM and GRU operators make numbers of NaN" in page


def test_wrong_padding_is_seen(bundles, tmp_path):
    def edit(graph):
        node = broken.nodes(graph, "LSTM")[0]
        node.input[4] = ""  # the first layer runs over the padding

    path = broken.broken(bundles["tagger"], tmp_path, edit)
    tagger = rnn_models.get("tagger")
    report = verify(tagger.model(), path, level="quick", only="padding", backend="onnxruntime-cpu")
    (found,) = report.checks
    assert found.verdict == "failed"
    # The same is seen where there is no PyTorch.
    alone = rnn_runtime.verify(path, level="quick", only="padding")
    assert [check.verdict for check in alone.checks] == ["failed"]


def test_a_raw_session_really_ends_the_process_on_an_empty_batch(bundles):
    class Raw(Empties):
        """Without rnn_runtime's guard."""

        code = """
import json, sys, numpy as np, onnxruntime
request = json.load(sys.stdin)
session = onnxruntime.InferenceSession(request["path"] + "/model.onnx")
state = np.zeros((1, 0, 16), "f4")
session.run(None, {"input": np.zeros((3, 0, 8), "f4"), "h_0": state, "c_0": state})
"""

    from rnn_runtime._properties import Effort, examine
    from rnn_runtime._verify import _subject

    subject = _subject(rnn_runtime.load(bundles["lstm"].path))
    check = examine(Raw(), subject, Effort(0, 1.0), only={"axis": subject.signature.axis_names.index("batch")})
    assert check.verdict == "failed"
    assert "takes the process down (SIGABRT)" in check.note
    assert examine(Empties(), subject, Effort(0, 1.0)).verdict == "passed"


class Mixing(nn.Module):
    """Its rows know of each other."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.gru(x - x.mean(0, keepdim=True))[0]


def test_what_the_model_itself_lacks_is_recorded_and_not_asked_for(tmp_path):
    torch.manual_seed(0)
    model = Mixing()
    bundle = export(model, torch.randn(3, 5, 3), tmp_path / "mixing", axes={"x": {0: "batch", 1: "sequence"}})
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert list(manifest["verified"]["lacking"]) == ["rows"]
    for report in (verify(model, bundle, level="quick", only="rows"), rnn_runtime.verify(bundle.path, only="rows")):
        assert {check.verdict for check in report.checks} == {"skipped"}
        assert all(check.note.startswith("eager PyTorch itself does not have it: ") for check in report.checks)
    manifest["verified"]["lacking"] = {}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    assert not rnn_runtime.verify(bundle.path, only="rows").passed


def test_the_bundles_of_ordinary_models_lack_nothing(bundles):
    for name in ("hello", "lstm", "tagger", "charlm"):
        manifest = json.loads((bundles[name].path / "manifest.json").read_text())
        assert manifest["verified"]["lacking"] == {}


def test_low_precision_is_held_to_its_noise_and_to_what_is_decided(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    torch.manual_seed(0)
    model = nn.LSTM(8, 48)
    bundle = export(model, torch.randn(6, 3, 8), tmp_path / "float32", formats=["onnx"])
    path = tmp_path / "int8"
    shutil.copytree(bundle.path, path)
    quantize_dynamic(
        bundle.path / "model.onnx",
        path / "model.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": 1},
    )
    broken.reseal(path)
    assert not verify(model, path, level="quick", backend="onnxruntime-cpu").passed  # as float32 it is far off
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["precision"] = "int8"
    (path / "manifest.json").write_text(json.dumps(manifest))

    def rows():
        report = verify(model, path, level="quick", backend="onnxruntime-cpu")
        return [row for row in report.rows if row.backend == "onnxruntime-cpu"], report

    good, report = rows()
    assert all(row.passed for row in good), str(report)
    assert all(row.statistics.snr >= 30 and row.error > 1e-5 for row in good)

    def coarse(array):  # a few bits are lost
        return (array // 32 * 32).astype(array.dtype)

    import onnx

    graph = onnx.load(path / "model.onnx")
    for tensor in list(graph.graph.initializer):
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 3:
            broken.change(graph.graph, tensor.name, coarse)
    onnx.save(graph, path / "model.onnx")
    broken.reseal(path)
    bad, _ = rows()
    assert not all(row.passed for row in bad)


class Growing(nn.Module):
    """A recurrence that amplifies what it is given: over a thousand steps eager PyTorch's own float32 is far off."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 4)

    def forward(self, input):
        h, outputs = input.new_zeros(input.shape[1], 4), []
        for x in input:
            h = h + torch.tanh(self.linear(torch.cat([x, h], 1)))
            outputs.append(h)
        return torch.stack(outputs)


def test_errors_that_eager_pytorch_lets_grow_are_no_drift(tmp_path):
    torch.manual_seed(39)
    model = Growing()
    with torch.no_grad():
        model.linear.weight *= 2
        model.linear.bias *= 2
    bundle = export(
        model, torch.randn(5, 3, 6), tmp_path / "b", axes={"input": {0: "sequence", 1: "batch"}}, formats=["onnx"]
    )
    report = verify(model, bundle, level="quick")
    assert report.passed, str(report)
    (drift,) = (check for check in report.checks if check.property == "drift")
    assert "eager PyTorch's own error grows to" in drift.note


def test_drift_is_held_to_the_tolerance_that_is_given(bundles):
    model = rnn_models.get("gru").model()
    report = verify(model, bundles["gru"], level="quick", only="drift", tolerance=1e-9)
    verdicts = {check.backend: check.verdict for check in report.checks if check.property == "drift"}
    assert verdicts["onnxruntime-cpu"] == "failed"


def test_the_command_that_a_failure_shows_makes_it_again(bundles, tmp_path):
    def edit(graph):
        (node,) = broken.nodes(graph, "GRU")
        broken.attribute(node, "linear_before_reset").i = 0

    path = broken.broken(bundles["gru"], tmp_path, edit)
    gru = rnn_models.get("gru").model()
    check = next(c for c in verify(gru, path, level="quick").checks if c.verdict == "failed" and c.trial is not None)
    again = verify(gru, path, only=check.property, backend=check.backend, trial=check.trial)
    (found,) = again.checks
    assert (found.verdict, found.trials, found.error) == ("failed", 1, check.error)
    # The sound bundle passes the same trial.
    assert verify(gru, bundles["gru"], only=check.property, backend=check.backend, trial=check.trial).passed


def test_levels_differ_in_how_much_they_try(bundles):
    def trials(level):
        report = verify(rnn_models.hello(), bundles["hello"], level=level, only="rows", backend="onnxruntime-cpu")
        return sum(check.trials for check in report.checks)

    assert trials("quick") < trials("default") < trials("full")


def test_second_opinions_are_asked_about_values_and_at_full_about_the_rest(bundles):
    def asked(level):
        report = verify(rnn_models.hello(), bundles["hello"], level=level, backend="onnxruntime-cpu-none")
        return {check.property for check in report.checks}

    assert asked("quick") == {"values"}


def test_what_there_is_not_is_an_error(bundles):
    hello = rnn_models.hello()
    with pytest.raises(InputError, match="there is no property 'speed': values, rows, split"):
        verify(hello, bundles["hello"], only="speed")
    with pytest.raises(InputError, match="there is no backend 'tpu' here: torchscript, onnxruntime-cpu"):
        verify(hello, bundles["hello"], backend="tpu")
    with pytest.raises(InputError, match="level is 'slow'"):
        verify(hello, bundles["hello"], level="slow")
    with pytest.raises(InputError, match="a trial is one of a property"):
        verify(hello, bundles["hello"], trial={"batch": 1})


def test_a_long_run_says_how_long(bundles, monkeypatch):
    told = []
    monkeypatch.setattr("rnn_export._suite.LONG", 0.0)
    verify(rnn_models.hello(), bundles["hello"], level="quick", progress=lambda *now: told.append(now))
    assert any(what.startswith("about ") and what.endswith(" s") for what, _, _ in told)
    totals = {total for what, _, total in told if " on " in what}
    assert len(totals) == 1
    assert [done for what, done, _ in told if " on " in what] == list(range(totals.pop()))


def test_a_drift_that_would_take_too_long_is_left_out(bundles, monkeypatch):
    monkeypatch.setattr("rnn_export._properties.drift.SECONDS", 0.0)
    report = verify(rnn_models.hello(), bundles["hello"], level="quick", only="drift")
    assert {check.verdict for check in report.checks} == {"skipped"}
    assert "eager PyTorch would take about" in report.checks[0].note


def test_the_guide_names_every_property_and_backend(bundles):
    page = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
    for prop in everything(10_000):
        assert f"| `{prop.name}` | " in page
        if prop.name not in ("determinism", "empties", "magnitudes"):  # said there at greater length
            assert prop.promise in page, prop.name
    for name in ("openvino", "onnx-reference", "onnxruntime-cuda", "torchscript", "torch.export", "eager"):
        assert f"`{name}`" in page
