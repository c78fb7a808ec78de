"""A Triton repository: its configuration against the graph, the graph against the bundle, and a real Triton."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra export")
onnx = pytest.importorskip("onnx", reason="needs the extra export")
grpcclient = pytest.importorskip("tritonclient.grpc", reason="make test-serve brings it")

import onnxruntime  # noqa: E402

import rnn_export  # noqa: E402
import rnn_models  # noqa: E402
import rnn_runtime  # noqa: E402
from rnn_export._triton import _config, write  # noqa: E402
from rnn_export._triton._config import Options  # noqa: E402
from rnn_export._triton._plan import plan  # noqa: E402
from rnn_runtime import LengthsSpec, Signature, StateSpec, TensorSpec  # noqa: E402

NAMES = ("hello", "hello-batch-first", "gru", "charlm", "forecaster", "layer-norm-lstm", "tagger")


@pytest.fixture(scope="module")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("built-in")

    def bundle(name: str) -> Path:
        if not (folder / name).exists():
            rnn_export.export(path=folder / name, **{**rnn_models.get(name).export_arguments(), "formats": ["onnx"]})
        return folder / name

    return bundle


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strategy", ["direct", "oldest"])
def test_a_repository_of_each_built_in_model(
    name: str, strategy: str, built_in: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = built_in(name)
    folder = write(bundle, tmp_path / "repository", Options(strategy=strategy))
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) == ["1", "1/model.onnx", "config.pbtxt"]
    made = _config.read(folder / "config.pbtxt")
    signature = rnn_runtime.load(bundle).signature
    assert made.name == name and made.backend == "onnxruntime" and made.max_batch_size == 64
    assert [entry.name for entry in made.input] == [
        spec.name for spec in signature.inputs if spec.name not in {s.input for s in signature.states}
    ]
    if signature.states:
        assert made.sequence_batching.WhichOneof("strategy_choice") == strategy
        assert [s.input_name for s in made.sequence_batching.state] == [
            f"state_{k:03}_in" for k in range(len(signature.states))
        ]
        assert {s.initial_state[0].zero_data for s in made.sequence_batching.state} == {True}
    else:
        assert not made.HasField("sequence_batching")
    assert list(tmp_path.iterdir()) == [tmp_path / "repository"]


def test_rows_of_the_graph_begin_and_pause_each_by_itself(models: Path, tmp_path: Path) -> None:
    folder = write(models / "hello", tmp_path)
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    model = rnn_runtime.load(models / "hello")
    x = np.random.default_rng(0).standard_normal((4, 3, 4)).astype(np.float32)  # (batch, sequence, input)
    garbage = np.full((4, 1, 2), np.nan, np.float32)
    going = np.array([[True], [True], [False], [False]])
    state = np.where(going[:, :, None], garbage, np.float32(0.5))
    output, following = session.run(
        ["output", "state_000_out"],
        {"input": x, "state_000_in": state, "START": going, "READY": np.array([[True], [False], [True], [False]])},
    )
    for row, (h, ready) in enumerate([(0, True), (0, False), (0.5, True), (0.5, False)]):
        expected = model.run(x[row][:, None], state={"h_0": np.full((1, 1, 2), h, np.float32)})
        np.testing.assert_allclose(output[row], expected["output"][:, 0], rtol=0, atol=1e-6)
        kept = expected["h_n"][:, 0] if ready else np.full((1, 2), h, np.float32)
        np.testing.assert_allclose(following[row], kept, rtol=0, atol=1e-6)


WRONG = {
    "a misspelt name": (lambda c: setattr(c.input[0], "name", "inptu"), "has no ('input', 'inptu'"),
    "another type": (lambda c: setattr(c.output[0], "data_type", 12), "has no ('output', 'output', 12"),
    "another size": (lambda c: c.input[0].dims.__setitem__(1, 5), "has no ('input', 'input', 11, [-1, -1, 5])"),
    "an input left out": (lambda c: c.input.pop(), "the configuration has no ('input', 'input'"),
    "a control left out": (lambda c: c.sequence_batching.control_input.pop(), "has no ('input', 'READY'"),
    "a state that begins with what was there": (
        lambda c: c.sequence_batching.state[0].initial_state.pop(), "does not begin with zeros",
    ),
    "states that sort apart": (
        lambda c: c.sequence_batching.state.reverse(), "do not sort alike",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_configuration_that_differs_from_the_graph_is_refused(name: str, models: Path, tmp_path: Path) -> None:
    folder = write(models / "lstm", tmp_path)
    made, graph = _config.read(folder / "config.pbtxt"), onnx.load(folder / "1" / "model.onnx").graph
    _config.agree(made, graph)
    change, said = WRONG[name]
    change(made)
    with pytest.raises(rnn_export.ExportError, match="differ") as caught:
        _config.agree(made, graph)
    assert said in str(caught.value)


def test_a_field_that_triton_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('name: "a"\nmax_batch_sise: 4\n')
    with pytest.raises(rnn_export.ExportError, match="max_batch_sise"):
        _config.read(tmp_path / "config.pbtxt")


def test_a_graph_that_computes_something_else_is_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rnn_export._triton import _graph

    turned = _graph.turned

    def forgetful(*arguments: Any) -> Any:
        made = turned(*arguments)
        for node in made.graph.node:
            if node.op_type == "Where" and node.input[0].startswith("START"):
                node.input[1] = node.input[2]  # zeros are not taken
        return made

    monkeypatch.setattr(_graph, "turned", forgetful)
    with pytest.raises(rnn_runtime.MismatchError, match="rewritten for Triton gives another"):
        write(models / "lstm", tmp_path / "repository")
    assert not list((tmp_path / "repository").iterdir())


def tensor(name: str, *axes: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, axes)


def test_what_triton_cannot_run_is_refused() -> None:
    x, y = tensor("x", "batch", "sequence"), tensor("y", "batch", "sequence")
    h = tensor("h", 1, "batch", 3), tensor("n", 1, "batch", 3)
    states = (StateSpec("h", "n"),)
    assert plan(Signature((x, h[0]), (y, h[1]), states)).axis == "batch"
    for signature, said in (
        (Signature((tensor("x", "sequence"), h[0]), (y, h[1]), states), "needs one batch axis"),
        (Signature((x, h[0]), (h[1],), states), "gives nothing but its state"),
        (Signature((tensor("START", "batch", "sequence"), h[0]), (y, h[1]), states), "tensors named ['START']"),
        (
            Signature((x, tensor("h", "k", "batch")), (y, tensor("n", "k", "batch")), states), "another varying size",
        ),
    ):  # fmt: skip
        with pytest.raises(rnn_runtime.InputError) as caught:
            plan(signature)
        assert said in str(caught.value)


def test_only_requests_whose_answers_do_not_depend_on_each_other_share_a_batch() -> None:
    ids, y = tensor("ids", "batch", "sequence", dtype="int64"), tensor("y", "batch", "sequence")
    lengths = tensor("lengths", "batch", dtype="int64")
    longest = tensor("y", "batch", "max(lengths)")
    assert plan(Signature((ids,), (y,))).gathers
    assert not plan(Signature((ids, lengths), (longest,), lengths=LengthsSpec("lengths", "sequence"))).gathers
    assert plan(Signature((tensor("x", "a"),), (tensor("y", "b"),))).axis is None


def test_steps_are_not_taken_for_rows(tmp_path: Path) -> None:
    for name, axes, size in (("steps", {"x": {0: "steps"}}, 0), ("both", {"x": {0: "steps", 1: "batch"}}, 64)):
        rnn_export.export(Bidirectional(), torch.randn(5, 2, 4), tmp_path / name, axes=axes, formats=["onnx"])
        made = _config.read(write(tmp_path / name, tmp_path / "repository") / "config.pbtxt")
        assert made.max_batch_size == size and made.HasField("dynamic_batching") == bool(size)


def test_sequences_that_would_change_each_other_run_one_by_one(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "lstm", tmp_path / "lstm")
    manifest = json.loads((tmp_path / "lstm" / "manifest.json").read_text())
    manifest["operators"]["DynamicQuantizeLinear"] = 1
    (tmp_path / "lstm" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(rnn_runtime.InputError, match=r"rows of this model change each other.*take --strategy oldest"):
        write(tmp_path / "lstm", tmp_path / "repository", Options(strategy="direct"))
    folder = write(tmp_path / "lstm", tmp_path / "repository", Options(strategy="oldest"))
    assert _config.read(folder / "config.pbtxt").max_batch_size == 1
    folder = write(tmp_path / "lstm", tmp_path / "repository", Options(backend="python"), overwrite=True)
    assert json.loads((folder / "1" / "plan.json").read_text())["gathers"] is False


class Bidirectional(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(4, 3, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def test_a_model_that_is_there_is_replaced_only_when_asked(models: Path, tmp_path: Path) -> None:
    write(models / "hello", tmp_path)
    with pytest.raises(rnn_runtime.InputError, match="is there: give --overwrite"):
        write(models / "hello", tmp_path)
    write(models / "hello", tmp_path, Options(backend="python"), overwrite=True)
    assert (tmp_path / "hello" / "1" / "model.py").is_file() and not (tmp_path / "hello" / "1" / "model.onnx").exists()
    (tmp_path / "lstm").mkdir()
    with pytest.raises(rnn_runtime.InputError, match="is there"):
        write(models / "lstm", tmp_path, overwrite=True)
    with pytest.raises(rnn_runtime.InputError, match="take --strategy oldest"):
        Options(backend="python", strategy="direct")


def test_the_command(models: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = "from rnn_export.cli import main; main()"
    command = [sys.executable, "-c", code, "triton", str(models / "hello"), "-o", str(tmp_path / "r"), "--max-batch"]
    done = subprocess.run([*command, "8"], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout == f"wrote {tmp_path / 'r' / 'hello'}\n", done.stderr
    assert "max_batch_size: 8\n" in (tmp_path / "r" / "hello" / "config.pbtxt").read_text()
    done = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and "have to be 1 or more" in done.stderr


def free_ports(count: int) -> list[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@pytest.fixture(scope="module")
def triton(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gRPC address of a Triton that serves the Python models; nvidia-pytriton brings its programs."""
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        pytest.skip("nvidia-pytriton is not installed: make test-serve brings it")
    package, folder = Path(found.origin).parent, tmp_path_factory.mktemp("triton")
    for name in ("lstm", "hello", "tagger"):
        write(models / name, folder / "repository", Options(backend="python"))
    backend = shutil.copytree(package / "tritonserver" / "backends" / "python", folder / "backends" / "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    http, grpc = free_ports(2)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # where the stub finds its packages
        "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONPATH", None)  # only what the repository has in it
    command = [package / "tritonserver" / "bin" / "tritonserver", "--backend-directory", folder / "backends"]
    command += ["--model-repository", folder / "repository", "--http-port", str(http), "--grpc-port", str(grpc)]
    log = (folder / "log").open("w+")
    process = subprocess.Popen([*command, "--allow-metrics=false"], env=environment, stdout=log, stderr=log)
    client = grpcclient.InferenceServerClient(f"127.0.0.1:{grpc}")
    try:
        until = time.monotonic() + 60
        while True:
            try:
                if client.is_server_ready():
                    break
            except grpcclient.InferenceServerException:
                pass
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()[-4000:]
            time.sleep(0.1)
        yield f"127.0.0.1:{grpc}"
    finally:
        client.close()
        process.terminate()
        process.wait(60)
        log.close()


def given(name: str, array: np.ndarray) -> Any:
    made = grpcclient.InferInput(name, list(array.shape), grpcclient.np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def test_sixteen_sequences_of_a_real_triton_are_each_as_in_eager_pytorch(
    triton: str, eager: Callable[[np.ndarray], np.ndarray], make_chunks: Callable[..., list[np.ndarray]]
) -> None:
    errors: list[float] = []

    def client(k: int) -> None:
        connection, parts = grpcclient.InferenceServerClient(triton), make_chunks(k, most=12)
        outputs = [
            connection.infer(
                "lstm",
                [given("input", chunk)],
                sequence_id=1 + k,
                sequence_start=n == 0,
                sequence_end=n == len(parts) - 1,
            ).as_numpy("output")
            for n, chunk in enumerate(parts)
        ]
        connection.close()
        expected = eager(np.concatenate(parts, axis=1))
        errors.append(float(np.abs(np.concatenate(outputs, axis=1) - expected).max()))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 16 and max(errors) < 2e-6


def test_a_time_major_model_and_one_without_state_on_a_real_triton(triton: str, models: Path) -> None:
    client = grpcclient.InferenceServerClient(triton)
    x = np.eye(4, dtype=np.float32)
    expected = rnn_runtime.load(models / "hello").run(x[:, None])["output"]
    outputs = [
        client.infer("hello", [given("input", x[None, n : n + 1])], sequence_id="a", sequence_start=n == 0)
        for n in range(4)
    ]
    found = np.concatenate([output.as_numpy("output")[0] for output in outputs])
    np.testing.assert_allclose(found, expected[:, 0], rtol=0, atol=1e-6)

    model = rnn_runtime.load(models / "tagger")
    feeds = model.example()
    inputs = [given(name, array.reshape(len(array), -1)) for name, array in feeds.items()]
    result = client.infer("tagger", inputs)
    for name, array in model.run(feeds).items():
        np.testing.assert_allclose(result.as_numpy(name), array, rtol=0, atol=1e-6)
    client.close()


def test_a_chunk_that_does_not_fit_leaves_its_sequence_as_it_was_on_a_real_triton(triton: str, models: Path) -> None:
    client = grpcclient.InferenceServerClient(triton)
    x = np.ones((1, 2, 6), np.float32)
    expected = rnn_runtime.load(models / "lstm").run(np.concatenate([x, x], 1))["output"]
    found = [client.infer("lstm", [given("input", x)], sequence_id=70, sequence_start=True).as_numpy("output")]
    with pytest.raises(grpcclient.InferenceServerException):
        client.infer("lstm", [given("input", np.ones((1, 0, 6), np.float32))], sequence_id=70)
    with pytest.raises(grpcclient.InferenceServerException):
        client.infer("lstm", [given("input", x)], sequence_id=71)  # not begun
    found.append(client.infer("lstm", [given("input", x)], sequence_id=70, sequence_end=True).as_numpy("output"))
    np.testing.assert_allclose(np.concatenate(found, 1), expected, rtol=0, atol=1e-6)
    client.close()
