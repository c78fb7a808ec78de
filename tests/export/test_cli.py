"""The command, run as `main` with its arguments: what it prints, and the code it ends with."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import rnn_models
from rnn_export import _versions, export
from rnn_export.cli import main

FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.linear = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(self.gru(x)[0])

class Loop(Net):
    def forward(self, x):
        return torch.stack([self.gru(x[:, : t + 1])[0][:, t] for t in range(x.shape[1])], 1)

def bare():
    return nn.LSTM(3, 4)

def whole(model=Net):
    return {"model": model(), "example_inputs": torch.randn(2, 5, 3), "axes": {"x": {0: "batch", 1: "sequence"}}}

def loop():
    return whole(Loop)

def module():
    return Net()

def keyless():
    return {"model": Net(), "axes": {"x": {0: "batch"}}}

def modelless():
    return {"model": "net", "example_inputs": torch.randn(2, 5, 3)}

def number():
    return 5

def raises():
    raise ValueError("no data here")

def needs(argument):
    return bare()

def typo():
    return {"model": Net(), "example_input": torch.randn(2, 5, 3), "example_inputs": torch.randn(2, 5, 3)}

class Table(Net):
    def forward(self, x):
        if x.shape[1] > 20:
            raise ValueError("a table of 20 steps")
        return super().forward(x)

def table():
    return whole(Table)

constant = 5
"""


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "factories.py").write_text(FACTORIES)
    (tmp_path / "broken.py").write_text("def f(:")
    monkeypatch.delitem(sys.modules, "factories", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnn-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return exit.value.code or 0, out, err

    return run


def test_export_prints_the_table_and_the_next_command_which_works(command):
    code, out, err = command("export", "hello", "-o", "build/hello")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("passed")] == ["eager", "torchscript", "onnxruntime-cpu"]
    assert lines[-1] == "wrote build/hello. Next: rnn-export run build/hello"
    code, out, _ = command(*lines[-1].partition("rnn-export ")[2].split())
    assert code == 0
    numbers = out.replace("[", " ").replace("]", " ").split()
    assert "output: float32[3, 5, 2]" in out
    assert numbers[numbers.index("-0.7497") :][:4] == ["-0.7497", "-0.6135", "-0.5282", "-0.2473"]


def test_run_reads_and_writes_npy_and_npz(command, bundles, tmp_path):
    words = rnn_models.hello_input().numpy()
    np.save(tmp_path / "x.npy", words)
    np.savez(tmp_path / "x.npz", input=words, h_0=np.ones((1, 5, 2), np.float32))
    code, out, _ = command("run", bundles["hello"].path, "--input", "x.npy", "--output", "y.npy")
    assert code == 0 and out.startswith("wrote y.npy")
    with torch.no_grad():
        want, last = rnn_models.hello()(torch.from_numpy(words))
        from_ones, _ = rnn_models.hello()(torch.from_numpy(words), torch.ones(1, 5, 2))
    np.testing.assert_allclose(np.load("y.npy"), want, atol=1e-6)
    assert command("run", bundles["hello"].path, "--input", "x.npy", "--output", "y.npz")[0] == 0
    np.testing.assert_allclose(np.load("y.npz")["h_n"], last, atol=1e-6)
    assert command("run", bundles["hello"].path, "-i", "x.npz", "-o", "z.npy")[0] == 0
    np.testing.assert_allclose(np.load("z.npy"), from_ones, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--input", "missing.npy"], "missing.npy cannot be read"),
        (["--input", "factories.py"], "factories.py cannot be read"),
        (["--input", "objects.npy"], "objects.npy cannot be read"),
        (["--input", "double.npy"], "has dtype float64; the model takes float32"),
        (["--output", "y.txt"], "y.txt is neither .npy nor .npz"),
        (["--output", "no/folder/y.npy"], "cannot be written"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_run_refuses_what_it_cannot_read_or_write(command, bundles, tmp_path, arguments, text):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "double.npy", rnn_models.hello_input().double().numpy())
    code, _, err = command("run", bundles["hello"].path, *arguments)
    assert code == 2 and text in err


def test_a_device_that_cannot_be_had_ends_with_4(command, bundles):
    code, _, err = command("run", bundles["hello"].path, "--device", "cuda")
    assert code == 4 and 'device "cuda" cannot be had' in err


def test_inspect_shows_the_bundle_and_its_manifest(command, bundles):
    code, out, _ = command("inspect", bundles["tagger"].path)
    assert code == 0
    for line in (
        "  ids: int64[batch, sequence]  ids 0 to 49",
        "  lengths: int64[batch]  lengths along sequence",
        "  logits: float32[batch, max(lengths), 9]",
        "  lstm: LSTM, hidden_size 16, 2 layers, bidirectional, packed",
    ):
        assert line in out.splitlines()
    _, out, _ = command("inspect", bundles["charlm"].path)
    assert f"  h: float32[1, batch, {rnn_models.charlm().gru.hidden_size}]  state, next in h_n" in out.splitlines()
    code, out, _ = command("inspect", "--json", bundles["tagger"].path)
    assert code == 0 and json.loads(out)["format_version"] == 1


def test_verify_replays_and_compares(command, bundles):
    code, out, _ = command("verify", bundles["charlm"].path)
    assert code == 0 and "onnxruntime-cpu  2 " in out
    code, out, _ = command("verify", bundles["charlm"].path, "charlm")
    assert code == 0 and "torchscript" in out
    code, out, _ = command("verify", "--json", bundles["charlm"].path)
    assert code == 0 and json.loads(out)["passed"] is True


def test_verify_ends_with_1_where_the_model_has_other_weights(command, bundles, tmp_path):
    torch.manual_seed(1)
    torch.save(nn.RNN(4, 2).state_dict(), tmp_path / "other.pt")
    code, out, err = command("verify", bundles["hello"].path, "hello", "--weights", "other.pt")
    assert code == 1
    assert "FAILED" in out and "does not match" in err


def test_verify_ends_with_2_for_another_model_a_damaged_or_missing_bundle(command, bundles, tmp_path):
    assert command("verify", bundles["hello"].path, "tagger")[0] == 2
    assert command("verify", tmp_path / "nothing")[0] == 2
    code, _, err = command("verify", bundles["hello"].path, "--weights", "factories.py")
    assert code == 2 and "name the target too" in err
    shutil.copytree(bundles["hello"].path, tmp_path / "damaged")
    for name in ("model.onnx", "model.pt"):
        data = bytearray((bundles["hello"].path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "damaged" / name).write_bytes(data)
        code, _, err = command("verify", tmp_path / "damaged", "hello")
        assert code == 2 and "SHA-256" in err
        (tmp_path / "damaged" / name).write_bytes((bundles["hello"].path / name).read_bytes())


@pytest.mark.parametrize("factory", ["bare", "whole"])
def test_a_factory_of_ones_own_is_exported(command, factory):
    code, out, _ = command("export", f"factories:{factory}", "-o", "bundle", "--format", "onnx")
    assert code == 0 and "torchscript" not in out
    assert command("verify", "bundle")[0] == 0


@pytest.mark.parametrize(
    ("target", "code", "text"),
    [
        ("helo", 2, "no built-in model is named 'helo'"),
        ("nowhere:f", 2, "'nowhere' cannot be imported"),
        ("factories:missing", 2, "factories has no function 'missing'"),
        ("factories:constant", 2, "factories has no function 'constant'"),
        ("factories:number", 2, "returns int"),
        ("factories:keyless", 2, "returns a dict without 'example_inputs': give what rnn_export.export takes"),
        ("factories:modelless", 2, "returns a dict whose 'model' is a str: give the module"),
        ("factories:raises", 2, "factories:raises fails: ValueError: no data here"),
        ("factories:needs", 2, "It is called without arguments"),
        ("factories:typo", 2, "returns a dict with ['example_input'], which rnn_export.export does not take"),
        ("broken:f", 2, "'broken' cannot be imported: SyntaxError"),
        (":f", 2, "'' cannot be imported"),
        ("factories:module", 2, "returns a Net, of which only PyTorch knows the inputs"),
        ("factories:loop", 3, "fixes an axis to the traced size"),
    ],
)
def test_targets_that_cannot_be_exported_are_named(command, tmp_path, target, code, text):
    got, _, err = command("export", target, "-o", "bundle")
    assert got == code and text in err
    assert not (tmp_path / "bundle").exists()


def test_export_refuses_to_replace_unless_told(command):
    assert command("export", "hello", "-o", "bundle")[0] == 0
    code, _, err = command("export", "hello", "-o", "bundle")
    assert code == 2 and "--overwrite" in err
    assert command("export", "hello", "-o", "bundle", "--overwrite")[0] == 0


def test_a_tolerance_that_no_backend_keeps_ends_with_1_and_no_bundle(command, tmp_path, monkeypatch):
    monkeypatch.setattr("rnn_export._compare.EAGER_FACTOR", 0)
    code, _, err = command("export", "hello", "-o", "bundle", "--tolerance", "1e-12")
    assert code == 1 and "FAILED" in err
    assert not (tmp_path / "bundle").exists()


def test_weights_are_loaded_as_data(command, tmp_path):
    torch.manual_seed(1)
    state = nn.LSTM(3, 4).state_dict()
    torch.save(state, tmp_path / "w.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pt")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pt", "checkpoint.pt", "w.safetensors"):
        code, _, err = command("export", "factories:bare", "--weights", name, "-o", f"bundle-{name}")
        assert (code, err) == (0, "")
    np.save(tmp_path / "x.npy", np.ones((2, 3, 3), np.float32))
    command("run", "bundle-w.pt", "-i", "x.npy", "-o", "y.npy")
    with torch.no_grad():
        model = nn.LSTM(3, 4)
        model.load_state_dict(state)
        np.testing.assert_allclose(np.load("y.npy"), model(torch.ones(2, 3, 3))[0], atol=1e-6)


class Hostile:
    def __reduce__(self):
        return exec, ("open('owned', 'w').close()",)


def test_weights_that_hold_code_or_do_not_fit_are_refused(command, tmp_path):
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps(Hostile()))
    torch.save({"weight": Hostile()}, tmp_path / "hostile2.pt")
    (tmp_path / "random.pt").write_bytes(b"\x00random")
    (tmp_path / "random.safetensors").write_bytes(b"\x00random")
    torch.save(nn.GRU(3, 4).state_dict(), tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("hostile.pt", "hostile2.pt", "random.pt", "random.safetensors", "other.pt", "list.pt"):
        code, _, err = command("export", "factories:bare", "--weights", name, "-o", "bundle")
        assert code == 2, name
        assert ("cannot be read as weights" in err) or ("do not fit the model" in err)
    assert not (tmp_path / "owned").exists()


def test_a_file_for_a_target_that_knows_less(command, tmp_path):
    arguments = ["--size", "sequence=7", "--size", "batch=1", "--lowering", "decomposed", "--format", "onnx"]
    code, _, err = command("export", "factories:bare", "-o", "chip", *arguments)
    assert code == 0, err
    manifest = json.loads((tmp_path / "chip" / "manifest.json").read_text())
    assert manifest["signature"]["inputs"][0]["axes"] == [7, 1, 3]
    assert not {"LSTM", "Scan"} & set(manifest["operators"])
    code, _, err = command("export", "factories:bare", "-o", "forward", "--split-directions", "--size", "sequence")
    assert code == 2 and "'sequence' is no size: give AXIS=N, as in sequence=16" in err
    assert not (tmp_path / "forward").exists()


def test_doctor_notes_a_version_that_is_right_and_slower(command, monkeypatch):
    monkeypatch.setattr("rnn_export._versions.versions", lambda: {"onnxruntime": "1.21.1"})
    code, out, _ = command("doctor")
    assert code == 0 and "note: onnxruntime 1.21.1 has a GRU kernel" in out


def test_doctor_tells_versions_and_why_cuda_does_not_work(command):
    code, out, _ = command("doctor")
    assert code == 0
    assert f"  torch {torch.__version__}" in out.splitlines()
    assert "no version here is known to be bad" in out
    if not torch.cuda.is_available():
        assert "run on CUDA\n  no: " in out


def test_doctor_and_export_refuse_a_version_known_to_be_bad(command, monkeypatch, tmp_path):
    monkeypatch.setattr(_versions, "versions", lambda: {"onnxscript": "0.7.0"})
    monkeypatch.setattr("rnn_export._versions.versions", lambda: {"onnxscript": "0.7.0"})
    for arguments in (["doctor"], ["export", "hello", "-o", "bundle"]):
        code, _, err = command(*arguments)
        assert code == 4 and "onnxscript 0.7.0 exports GRU with the other reset gate" in err
    assert not (tmp_path / "bundle").exists()


def test_both_runtimes_installed_together_is_a_problem():
    (problem,) = _versions.problems({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    assert "loses CUDA" in problem
    assert _versions.problems({"onnxruntime": "1.32.0"}) == []


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript"])
def test_without_pytorch_export_says_what_to_install_and_the_rest_works(command, monkeypatch, bundles, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else found(name, *a))
    code, _, err = command("export", "hello", "-o", "bundle")
    assert code == 4
    assert (
        err.count("\n") == 1 and f"{package} is not installed" in err and 'pip install "rnn-export[cpu,export]"' in err
    )
    code, out, _ = command("doctor")
    assert code == 0 and f"no: {package} missing" in out
    assert command("verify", bundles["hello"].path)[0] == 0


def test_help_imports_nothing_heavy_and_lists_every_command():
    code = "import sys; from rnn_export.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    help, modules = ran.stdout.rsplit("\n", 2)[0], set(ran.stdout.rsplit("\n", 2)[1].split())
    assert not modules & {"torch", "onnx", "onnxscript", "onnxruntime", "rich", "rnn_models"}
    for name in ("doctor", "export", "inspect", "run", "verify"):
        assert f"\n  {name} " in help


def test_inspect_shows_a_bare_file_and_refuses_a_damaged_manifest(command, bundles, tmp_path):
    code, out, _ = command("inspect", bundles["tagger"].path / "model.onnx")
    assert code == 0 and "  lengths: int64[batch]  lengths along sequence" in out.splitlines()
    shutil.copytree(bundles["hello"].path, tmp_path / "damaged")
    manifest = json.loads((tmp_path / "damaged" / "manifest.json").read_text())
    for part in ({"layers": [{}]}, {"verified": {}}):
        (tmp_path / "damaged" / "manifest.json").write_text(json.dumps(manifest | part))
        code, _, err = command("inspect", "damaged")
        assert code == 2 and "the manifest of damaged is damaged" in err


def test_run_of_a_bare_file_asks_for_input_and_writes_outputs_of_any_name(command, bundles, tmp_path):
    code, _, err = command("run", bundles["hello"].path / "model.onnx")
    assert code == 2 and "holds no example: give --input" in err
    torch.manual_seed(0)
    names = ["file", "allow_pickle"]
    export(torch.nn.GRU(3, 4), torch.randn(5, 2, 3), tmp_path / "odd", output_names=names)
    assert command("run", "odd", "-o", "y.npz")[0] == 0
    assert np.load("y.npz").files == names


def test_sizes_that_eager_refuses_are_told(command):
    code, out, _ = command("export", "factories:table", "-o", "bundle")
    assert code == 0
    assert "sequence: 1 to 20" in out and "x.shape[1] > 20" in out


def test_an_interrupt_ends_as_a_shell_says_it(command, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rnn_export._export.seal", interrupt)
    code, _, err = command("export", "hello", "-o", "bundle")
    assert code == 130 and err.strip() == "interrupted"
    assert not (tmp_path / "bundle").exists()


def test_custom_cells_are_exported_by_name(command):
    code, out, _ = command("export", "min-gru", "-o", "bundle")
    assert code == 0 and out.startswith("min-gru: Scan\n")


def test_wrong_usage_ends_with_2(command):
    for arguments in (["explode"], ["export", "hello"], ["run"], ["export", "hello", "-o", "b", "--format", "tflite"]):
        assert command(*arguments)[0] == 2
