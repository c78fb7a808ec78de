"""An export makes its own environment, and ends in an error where a native library would end the process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import rnn_runtime
from rnn_export import ExportError, export
from rnn_export._first import FirstRun

AXES = {"x": {0: "batch", 1: "sequence"}}


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(self.lstm(x)[0])


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result + 1 if torch.is_tensor(result) and result.is_floating_point() else result


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: default_dtype(torch.float64),
        Functions,
        Operators,
        torch.inference_mode,
        torch.enable_grad,
        lambda: torch.autograd.set_detect_anomaly(True),
    ],
    ids=["autocast", "device", "dtype", "function mode", "dispatch mode", "inference", "grad", "anomaly"],
)
def test_what_is_set_around_an_export_changes_nothing_and_is_there_again(tmp_path, around):
    torch.manual_seed(0)
    model, x = Tagger(), torch.randn(2, 5, 4)
    with torch.no_grad():
        want = model(x).numpy()
    with contextlib.suppress(RuntimeWarning), around():
        before = torch.zeros(2) @ torch.zeros(2)
        export(model, x, tmp_path / "bundle", axes=AXES, formats=["onnx"])
        after = torch.zeros(2) @ torch.zeros(2)
    assert (before.dtype, before.device, before.is_inference()) == (after.dtype, after.device, after.is_inference())
    got = rnn_runtime.load(tmp_path / "bundle").run(x.numpy())["output"]
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-5


class Autocast(Tagger):
    enabled = True

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
            return super().forward(x).float()


def test_an_autocast_in_the_model_is_refused_with_its_line_and_one_that_is_off_is_passed_over(tmp_path):
    model, x = Autocast(), torch.randn(2, 5, 4)
    with pytest.raises(
        ExportError, match=r"autocast to torch.bfloat16 \(`with torch.autocast.*test_environment.py:\d+"
    ):
        export(model, x, tmp_path / "bundle", axes=AXES)
    model.enabled = False
    export(model, x, tmp_path / "bundle", axes=AXES, formats=["onnx"])


@pytest.mark.parametrize("how", ["input", "layer"])
def test_bfloat16_is_refused_by_name(tmp_path, how):
    model, x = (Tagger().bfloat16(), torch.randn(2, 5, 4))
    x = x.bfloat16() if how == "input" else x
    what = "the example input 'x'" if how == "input" else r"'lstm' \(LSTM\)"
    with pytest.raises(ExportError, match=rf"{what} is bfloat16.*precision='float16'"):
        export(model, x, tmp_path / "bundle", axes=AXES)


def test_a_result_in_bfloat16_is_refused_by_name(tmp_path):
    class Ends(Tagger):
        def forward(self, x):
            return super().forward(x).bfloat16()

    with pytest.raises(ExportError, match="the output 'output' is bfloat16"):
        export(Ends(), torch.randn(2, 5, 4), tmp_path / "bundle", axes=AXES, formats=["onnx"])


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_half_model_is_exported_or_refused_and_never_ends_the_process(tmp_path, batch_first):
    """ONNX Runtime crashes as it loads some graphs in float16 and takes others."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 8, batch_first=batch_first)
            self.linear = nn.Linear(8, 3)

        def forward(self, x):
            return self.linear(self.lstm(x)[0])

    try:
        export(Half().half(), torch.randn(2, 5, 4).half(), tmp_path / "bundle", axes=AXES, formats=["onnx"])
    except ExportError as error:
        assert "precision='float16'" in str(error)
    assert not list(tmp_path.glob(".*"))


def test_a_window_that_is_never_whole_is_an_error_of_the_graph_itself(tmp_path):
    """The windows are the LSTM's batch; bare ONNX Runtime would end the process where there are none."""

    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 6, batch_first=True)

        def forward(self, mel):
            return self.lstm(mel.unfold(1, 10, 5).permute(1, 2, 0))[0][:, -1].sum(0)

    export(Windows(), torch.randn(8, 30), tmp_path / "bundle", axes={"mel": {1: "time"}}, formats=["onnx"])
    code = textwrap.dedent("""
        import sys, numpy, onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(sys.argv[1], options)
        for steps in (9, 1):
            try:
                print(session.run(None, {"mel": numpy.zeros((8, steps), "float32")}))
            except Exception as error:
                print("refused")
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bundle" / "model.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["refused", "refused"]), done.stderr


@pytest.mark.parametrize("formats", [["onnx"], ["torchscript"]])
def test_a_caught_error_of_an_operator_is_no_end_of_the_process(tmp_path, formats):
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 8, batch_first=True)

        def forward(self, x):
            try:
                y = x.view(x.size(0), -1, 5, 4).mean(2)
            except RuntimeError:
                y = x
            return self.gru(y)[0]

    with pytest.raises(rnn_runtime.Error):
        export(Tries(), torch.randn(2, 7, 4), tmp_path / "bundle", axes=AXES, formats=formats)


def test_a_transformation_of_torch_func_is_named_with_its_line(tmp_path):
    class Ensemble(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 8, batch_first=True)
            self.weight = nn.Parameter(torch.randn(3, 8, 2))

        def forward(self, x):
            y = self.gru(x)[0]
            return torch.func.vmap(lambda weight: y @ weight)(self.weight).mean(0)

    with pytest.raises(ExportError, match=r"torch.func \(vmap, grad\) \(`return torch.func.vmap.*test_environment.py"):
        export(Ensemble(), torch.randn(2, 5, 4), tmp_path / "bundle", axes=AXES)


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, NotImplementedError, ZeroDivisionError])
def test_whatever_a_model_raises_at_a_size_counts_as_a_refusal_of_that_size(tmp_path, error):
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 8, batch_first=True)

        def forward(self, x):
            if not torch.compiler.is_exporting() and x.shape[1] == 13:
                raise error("no")
            return self.gru(x)[0]

    bundle = export(Picky(), torch.randn(2, 5, 4), tmp_path / "bundle", axes=AXES, formats=["onnx"])
    assert {sizes["sequence"] for sizes in bundle.refused} == {13}


def _graph(path: Path) -> Path:
    """A graph of an LSTM whose batch is an input's own axis."""
    export(Tagger(), torch.randn(2, 5, 4), path / "bundle", axes=AXES, formats=["onnx"])
    return path / "bundle" / "model.onnx"


def test_a_graph_that_ends_the_process_is_an_error_with_the_sizes_and_the_signal(tmp_path, own_child):
    graph = _graph(tmp_path)
    dies = ({"batch": 0, "sequence": 5}, {"x": np.zeros((0, 5, 4), np.float32)})
    lives = ({"batch": 2, "sequence": 5}, {"x": np.zeros((2, 5, 4), np.float32)})
    wrong = ({"batch": 2, "sequence": 5}, {"x": np.zeros((2, 5, 3), np.float32)})
    with FirstRun() as first:
        first.require(graph, [lives, wrong])
        first.require(graph, [lives])
        with pytest.raises(
            ExportError, match=r"ends the process \(SIG\w+\) when it runs model.onnx at batch=0 sequence=5"
        ):
            first.require(graph, [lives, dies])
        with pytest.raises(ExportError, match=r"ends the process|did not start"):
            first.require(graph, [lives])  # the child is gone: nothing passes from now on


def test_a_child_that_dies_leaves_nothing_behind(tmp_path, own_child, monkeypatch):
    """Killed before it has loaded anything, in place of a crash of the library."""
    start = FirstRun._started

    def killed(self):
        child, folder = start(self)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        return child, folder

    monkeypatch.setattr(FirstRun, "_started", killed)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(ExportError, match="SIGKILL"):
        export(Tagger(), torch.randn(2, 5, 4), tmp_path / "bundle", axes=AXES, formats=["onnx"])
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert not list((tmp_path / "temporary").iterdir())


def test_the_child_needs_neither_pytorch_nor_onnx():
    code = "import sys, rnn_runtime._first; print(sorted({'torch', 'onnx', 'click'} & set(sys.modules)))"
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.strip() == "[]"
