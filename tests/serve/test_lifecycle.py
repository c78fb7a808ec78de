"""Start, reload, drain, and end: what the server says of it, and what it does not lose."""

from __future__ import annotations

import contextlib
import json
import os
import signal
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

grpc = pytest.importorskip("grpc", reason="make test-serve brings it")
sockets = pytest.importorskip("websockets.sync.client", reason="make test-serve brings it")
REASON = "make test-serve brings it"
grpcclient = pytest.importorskip("tritonclient.grpc", reason=REASON)
httpclient = pytest.importorskip("tritonclient.http", reason=REASON)

INFER = "/v2/models/lstm/infer"
Push = Callable[[np.ndarray, bool, bool], np.ndarray]
# What a client is told that comes too late: by the server, by one that is gone, or by a connection that is.
REFUSED = ("shutting down", "ConnectionRefused", "ConnectionReset", "UNAVAILABLE", "HTTP 503")


def body(chunk: np.ndarray, key: Any, start: bool = False, end: bool = False) -> dict[str, Any]:
    x = {"name": "input", "datatype": "FP32", "shape": list(chunk.shape), "data": chunk.ravel().tolist()}
    return {"inputs": [x], "parameters": {"sequence_id": key, "sequence_start": start, "sequence_end": end}}


def output(answer: Any) -> np.ndarray:
    return np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])


def export(seed: int, path: Path) -> Any:
    import torch

    import rnn_export

    torch.manual_seed(seed)
    model = torch.nn.LSTM(6, 16, 2, batch_first=True)
    rnn_export.export(model, torch.randn(2, 7, 6), path, formats=["onnx"], overwrite=True)
    return model.double()


def in_eager(model: Any, x: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(x).double())[0].numpy()


def test_a_new_export_is_taken_up_and_open_sequences_end_on_the_old_one(
    start: Callable[..., Any], tmp_path: Path, make_chunks: Callable[..., Any]
) -> None:
    old = export(1, tmp_path / "lstm")
    server = start(tmp_path / "lstm", "--reload-seconds", "0.1")
    x = [np.full((1, n, 6), 0.1 * n, np.float32) for n in (1, 2, 3)]
    outputs = [output(server.request(INFER, body(x[0], "old", start=True))[1])]
    with sockets.connect(f"ws://{server.http}/v2/models/lstm/stream") as connection:
        new = export(2, tmp_path / "lstm")
        assert server.wait_for("reloaded")["version"] == "2"
        assert server.request("/v2/models/lstm")[1]["versions"] == ["1", "2"]
        answer = server.request(INFER, body(x[0], "new", start=True, end=True))[1]
        assert answer["model_version"] == "2"
        assert np.abs(output(answer) - in_eager(new, x[0])).max() < 2e-6
        connection.send(json.dumps({"inputs": body(x[0], 1)["inputs"]}))
        answer = json.loads(connection.recv())
        assert answer["model_version"] == "1"
        assert np.abs(output(answer) - in_eager(old, x[0])).max() < 2e-6
    outputs.append(output(server.request(INFER, body(x[1], "old"))[1]))
    answer = server.request(INFER, body(x[2], "old", end=True))[1]
    assert answer["model_version"] == "1"
    outputs.append(output(answer))
    assert np.abs(np.concatenate(outputs, 1) - in_eager(old, np.concatenate(x, 1))).max() < 2e-6
    until = time.monotonic() + 10  # the WebSocket's end may be seen after the last request
    while server.request("/v2/models/lstm")[1]["versions"] != ["2"]:
        assert time.monotonic() < until


def test_a_damaged_new_bundle_is_said_and_the_old_one_goes_on(start: Callable[..., Any], tmp_path: Path) -> None:
    export(3, tmp_path / "lstm")
    server = start(tmp_path / "lstm", "--reload-seconds", "0.1")
    manifest = tmp_path / "lstm" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole[: len(whole) // 2])
    line = server.wait_for("the new bundle cannot be served; the old one goes on")
    assert line["level"] == "error" and "manifest.json" in line["why"]
    assert server.request(INFER, body(np.zeros((1, 1, 6), np.float32), 1, True, True))[1]["model_version"] == "1"
    manifest.write_text(whole)
    assert server.wait_for("reloaded")["version"] == "2"


def test_on_sigterm_open_sequences_go_on_and_no_new_ones_begin(start: Callable[..., Any], models: Path) -> None:
    server = start(models / "lstm")
    x = np.zeros((1, 1, 6), np.float32)
    client = httpclient.InferenceServerClient(server.http)
    grpc_client = grpcclient.InferenceServerClient(server.grpc)
    assert client.is_server_ready() and grpc_client.is_server_ready()
    assert server.request(INFER, body(x, 1, start=True))[0] == 200
    with sockets.connect(f"ws://{server.http}/v2/models/lstm/stream") as connection:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        assert not client.is_server_ready() and client.is_server_live()
        assert not grpc_client.is_server_ready() and grpc_client.is_server_live()
        status, answer = server.request(INFER, body(x, 2, start=True))
        assert status == 503 and "shutting down" in answer["error"]
        assert server.request(INFER, body(x, 1))[0] == 200
        connection.send(json.dumps({"inputs": body(x, 1)["inputs"]}))
        assert "outputs" in json.loads(connection.recv())
    assert server.request(INFER, body(x, 1, end=True))[0] == 200
    assert server.end() == 0
    assert server.log[-1]["event"] == "stopped" and server.log[-1]["streams_cut"] == 0
    assert server.errors == []


def test_a_sequence_that_never_ends_does_not_hold_the_server_up(start: Callable[..., Any], models: Path) -> None:
    server = start(models / "lstm", "--drain-seconds", "0.5")
    assert server.request(INFER, body(np.zeros((1, 1, 6), np.float32), 1, start=True))[0] == 200
    with sockets.connect(f"ws://{server.http}/v2/models/lstm/stream") as connection:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(Exception, match="the server is shutting down"):
            connection.recv(timeout=20)
    assert server.end() == 0
    assert server.log[-1]["streams_cut"] == 2


def test_a_second_signal_ends_the_drain(start: Callable[..., Any], models: Path) -> None:
    server = start(models / "lstm", "--drain-seconds", "100")
    assert server.request(INFER, body(np.zeros((1, 1, 6), np.float32), 1, start=True))[0] == 200
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("draining")
    assert server.stop(signal.SIGINT) == 0


@contextlib.contextmanager
def over_http(server: Any, key: str) -> Iterator[Push]:
    """What sends one step of a sequence of its own, and gives the output."""
    connection = httpclient.InferenceServerClient(server.http, connection_timeout=20, network_timeout=20)
    yield lambda x, start, end: infer(connection, httpclient, x, key, start, end)


@contextlib.contextmanager
def over_grpc(server: Any, key: str) -> Iterator[Push]:
    with grpcclient.InferenceServerClient(server.grpc) as connection:
        yield lambda x, start, end: infer(connection, grpcclient, x, key, start, end)


@contextlib.contextmanager
def over_websocket(server: Any, key: str) -> Iterator[Push]:
    with sockets.connect(f"ws://{server.http}/v2/models/lstm/stream") as connection:

        def push(x: np.ndarray, start: bool, end: bool) -> np.ndarray:
            connection.send(json.dumps({"inputs": body(x, key)["inputs"]}))
            return output(json.loads(connection.recv(timeout=20)))

        yield push


def infer(client: Any, module: Any, x: np.ndarray, key: str, start: bool, end: bool) -> np.ndarray:
    given = module.InferInput("input", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    flags = {"sequence_id": key, "sequence_start": start, "sequence_end": end}
    return client.infer("lstm", [given], **flags).as_numpy("output")


@pytest.mark.parametrize("over", [over_http, over_grpc, over_websocket])
def test_no_accepted_request_is_lost_on_sigterm_under_load(
    over: Any, start: Callable[..., Any], models: Path, eager: Callable[..., np.ndarray]
) -> None:
    server = start(models / "lstm", "--drain-seconds", "1")
    random = np.random.default_rng(0)
    counts, problems = [0] * 8, []

    def client(k: int) -> None:
        """Sequences of three steps until the server takes no more; each answer has to be right."""
        while True:
            x, n = random.standard_normal((1, 3, 6)).astype(np.float32), 0
            expected = eager(x)
            try:
                with over(server, f"{k} {counts[k]}") as push:
                    for n in range(3):
                        found = push(x[:, n : n + 1], n == 0, n == 2)
                        if np.abs(found - expected[:, n : n + 1]).max() > 2e-6:
                            problems.append("wrong")
            except Exception as error:  # a first step that is refused has begun nothing
                said = f"{n}: {error!r} {error}"
                if n or not any(text in said for text in REFUSED):
                    problems.append(said)
                return
            counts[k] += 1

    threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    assert server.end() == 0
    assert problems == [] and min(counts) > 0
    assert server.log[-1]["streams_cut"] == 0


def test_it_listens_on_this_machine_alone_and_serves_no_grpc_unless_told(
    start: Callable[..., Any], models: Path
) -> None:
    server = start(models / "lstm", "--no-grpc", "--log-requests")
    port = int(server.http.partition(":")[2])
    with pytest.raises(ConnectionRefusedError):  # as one that listens on all addresses would not
        socket.create_connection(("127.0.0.2", port), timeout=10)
    assert server.log[0]["grpc_port"] is None
    x = np.zeros((1, 1, 6), np.float32)
    assert server.request(INFER, body(x, 1, True, True))[0] == 200
    assert server.request(INFER, body(x, 1))[0] == 404
    assert server.stop() == 0
    lines = [line for line in server.log if line["event"] == "request"]
    assert [(line["model"], line["protocol"], line["status"]) for line in lines] == [
        ("lstm", "http", 200), ("lstm", "http", 404)
    ]  # fmt: skip
    assert all(line["ms"] > 0 and line["level"] == "info" and line["time"].endswith("Z") for line in lines)
    assert server.errors == []


def test_requests_that_wait_for_each_other_are_one_batch_and_are_counted(
    start: Callable[..., Any], models: Path
) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    server = start(models / "lstm", "--max-wait-ms", "10000")
    x = np.zeros((1, 1, 6), np.float32)

    def counted() -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(server.request("/metrics")[1].decode())
        return {(m.name, *sorted(m.labels.values())): m.value for family in families for m in family.samples}

    assert server.request(INFER, body(x, 9, start=True))[0] == 200  # alone, it is every open stream
    threads = []
    for key in (1, 2):  # a batch waits for all who are open, and these for the first
        threads.append(threading.Thread(target=server.request, args=(INFER, body(x, key, start=True))))
        threads[-1].start()
        until = time.monotonic() + 8
        while counted()["rnn_queued", "1", "lstm"] < key:
            assert time.monotonic() < until
    assert server.request(INFER, body(x, 9))[0] == 200
    for thread in threads:
        thread.join()
    found = counted()
    assert (found["rnn_chunks_total", "1", "lstm"], found["rnn_batches_total", "1", "lstm"]) == (4, 2)
    assert (found["rnn_streams", "1", "lstm"], found["rnn_queued", "1", "lstm"]) == (3, 0)
    assert found["rnn_requests_total", "200", "http", "lstm"] == found["rnn_request_seconds_count", "http", "lstm"] == 4
    for name in ("rnn_queue_ms", "rnn_step_ms"):
        assert 0 < found[name, "0.5", "1", "lstm"] <= found[name, "0.99", "1", "lstm"]


def test_a_token_is_asked_for_everywhere_but_for_health(
    start: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    server = start(models / "lstm", "--token-file", tmp_path / "token")
    right, wrong = {"Authorization": "Bearer s3cret"}, {"Authorization": "Bearer s3cre"}
    assert server.request("/v2/health/ready")[0] == 200
    for path in ("/v2", "/v2/models/lstm", "/metrics", "/openapi.json", "/v2/models/lstm/ready"):
        statuses = [server.request(path, headers=headers)[0] for headers in ({}, wrong, right)]
        assert statuses == [401, 401, 200], path
    request = body(np.zeros((1, 1, 6), np.float32), 1, True, True)
    assert [server.request(INFER, request, headers)[0] for headers in ({}, wrong, right)] == [401, 401, 200]
    with pytest.raises(Exception, match="401"), sockets.connect(f"ws://{server.http}/v2/models/lstm/stream"):
        pass
    with sockets.connect(f"ws://{server.http}/v2/models/lstm/stream", additional_headers=right):
        pass
    client = grpcclient.InferenceServerClient(server.grpc)
    assert client.is_server_live()
    for headers in (None, {"authorization": "Bearer s3cre"}):
        with pytest.raises(Exception, match="the token is missing or wrong"):
            client.get_model_metadata("lstm", headers=headers)
        found = []
        client.start_stream(lambda result, error, found=found: found.append(error), headers=headers)
        client.stop_stream()
    assert client.get_model_metadata("lstm", headers={"authorization": "Bearer s3cret"}).name == "lstm"


def test_tls_for_both_protocols(start: Callable[..., Any], models: Path, tmp_path: Path) -> None:
    import ssl
    import urllib.request

    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = start(models / "lstm", "--certificate", certificate, "--key", key)
    port = server.http.partition(":")[2]
    context = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(f"https://localhost:{port}/v2", context=context, timeout=20) as answer:
        assert json.loads(answer.read())["name"] == "rnn-export"
    with pytest.raises(OSError):
        server.request("/v2")
    address = f"localhost:{server.grpc.partition(':')[2]}"
    assert grpcclient.InferenceServerClient(address, ssl=True, root_certificates=str(certificate)).is_server_live()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["{models}/nothing"], 2, "there is no "),
        (["{models}/lstm", "{models}/../models0/lstm"], 2, "two bundles have the name 'lstm'"),
        (["{models}/lstm", "--streams", "0"], 2, "streams is 0; expected 1 or more"),
        (["{models}/lstm", "--idle-seconds", "0"], 2, "idle_seconds is 0.0; expected seconds above 0"),
        (["{models}/lstm", "--http-port", "70000"], 2, "http_port is 70000; expected 0 to 65535"),
        (["{models}/lstm", "--certificate", "{models}/lstm/manifest.json"], 2, "both a certificate and its key"),
        (["{models}/lstm", "--http-port", "{taken}"], 2, "HTTP cannot listen on 127.0.0.1:{taken}"),
        (["{models}/lstm", "--http-port", "0", "--grpc-port", "{taken}"], 2, "gRPC cannot listen on 127.0.0.1:{taken}"),
        (
            ["{models}/lstm", "--http-port", "0", "--certificate", "{models}/lstm/manifest.json", "--key",
             "{models}/lstm/manifest.json"], 2, "cannot be used",
        ),
        (["{models}/lstm", "--token-file", "{models}/lstm/model.onnx"], 2, "holds no token"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_message(arguments: list[str], code: int, text: str, models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"models": models, "taken": taken.getsockname()[1]}
        done = rnn_export("serve", *(argument.format(**values) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert text.format(**values) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_one_line_with_its_pip_install(models: Path) -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; from rnn_export.cli import main; main()"
    done = rnn_export("serve", str(models / "lstm"), code=code)
    assert done.returncode == 4
    assert done.stderr.strip().endswith('prometheus_client is not installed: pip install "rnn-export[serve]"')


def test_a_public_address_without_a_token_is_warned_about(models: Path) -> None:
    done = rnn_export("serve", str(models / "nothing"), "--host", "0.0.0.0")
    assert "warning: 0.0.0.0 can be reached from other machines" in done.stderr
    assert "warning" not in rnn_export("serve", str(models / "nothing")).stderr


def rnn_export(*arguments: str, code: str = "from rnn_export.cli import main; main()") -> Any:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=60
    )
