"""Each fault has its documented status, over HTTP and gRPC, and leaves every other sequence as it was."""

from __future__ import annotations

import contextlib
import json
import re
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
from hypothesis import given, settings
from hypothesis import strategies as st

grpc = pytest.importorskip("grpc", reason="make test-serve brings it")
sockets = pytest.importorskip("websockets.sync.client", reason="make test-serve brings it")

from rnn_runtime.serve._faults import GRPC  # noqa: E402
from rnn_runtime.serve._messages import messages  # noqa: E402

INFER = "/v2/models/lstm/infer"
ZEROS = np.zeros((1, 1, 6), np.float32)


def tensor(chunk: np.ndarray = ZEROS, **changes: Any) -> dict[str, Any]:
    fields = {"name": "input", "datatype": "FP32", "shape": list(chunk.shape), "data": chunk.ravel().tolist()}
    return {key: value for key, value in (fields | changes).items() if value is not ...}


def body(key: Any, start: Any = False, end: Any = False, *tensors: Any) -> dict[str, Any]:
    parameters = {"sequence_id": key, "sequence_start": start, "sequence_end": end}
    return {"inputs": list(tensors) or [tensor()], "parameters": parameters}


def over_grpc(server: Any, request: dict[str, Any], model: str = "lstm", token: str | None = None) -> Any:
    """The same request over gRPC: the response, or the error's code and text."""
    made = messages()
    message = made["ModelInferRequest"](model_name=model)
    for given_tensor in request["inputs"]:
        item = message.inputs.add(name=given_tensor["name"], datatype=given_tensor["datatype"])
        item.shape.extend(given_tensor["shape"])
        item.contents.fp32_contents.extend(given_tensor["data"])
    kinds = {int: "int64_param", str: "string_param", bool: "bool_param"}
    for name, value in request.get("parameters", {}).items():
        if value is not None:
            setattr(message.parameters[name], kinds[type(value)], value)
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            made["ModelInferRequest"].SerializeToString,
            made["ModelInferResponse"].FromString,
        )
        try:
            return call(message, timeout=60, metadata=[("authorization", f"Bearer {token}")] if token else None)
        except grpc.RpcError as error:
            return error.code().name, error.details()


@contextlib.contextmanager
def bystander(server: Any, eager: Callable[..., np.ndarray], make_chunks: Callable[..., Any]) -> Iterator[None]:
    """A sequence that is open while something goes wrong elsewhere, and is as eager PyTorch says at its end."""
    parts, key = make_chunks(99, 6), f"bystander {time.monotonic_ns()}"
    while len(parts) < 2:
        parts.append(parts[0])
    outputs = []

    def push(n: int) -> None:
        request = body(key, n == 0, n == len(parts) - 1, tensor(parts[n]))
        status, answer = server.request(INFER, request)
        assert status == 200, answer
        outputs.append(np.array(answer["outputs"][0]["data"]).reshape(1, -1, 16))

    push(0)
    yield
    for n in range(1, len(parts)):
        push(n)
    assert np.abs(np.concatenate(outputs, axis=1) - eager(np.concatenate(parts, axis=1))).max() < 2e-6


WRONG = {
    "no start": (body(901), 404, "no sequence 901 is open: begin it with sequence_start"),
    "no id": ({"inputs": [tensor()]}, 400, "carries state: give sequence_id"),
    "wrong shape": (body(902, True, False, tensor(np.zeros((1, 1, 5), np.float32))), 400, "6"),
    "two rows": (body(903, True, False, tensor(np.zeros((2, 1, 6), np.float32))), 400, "1"),
    "no steps": (body(904, True, False, tensor(np.zeros((1, 0, 6), np.float32))), 400, "sequence"),
    "other name": (body(905, True, False, tensor(name="y")), 400, "there is no input 'y'"),
    "name twice": (body(906, True, False, tensor(), tensor()), 400, "given twice"),
    "no such type": (body(907, True, False, tensor(datatype="FP31")), 400, "datatype 'FP31'"),
    "texts": (body(909, True, False, tensor(datatype="BYTES")), 400, "datatype 'BYTES'"),
    "fewer values": (body(910, True, False, tensor(shape=[1, 2, 6])), 400, "has 6 values, but its shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_over_both_protocols(
    name: str, serving: Any, eager: Callable[..., np.ndarray], make_chunks: Callable[..., Any]
) -> None:
    request, status, text = WRONG[name]
    with bystander(serving, eager, make_chunks):
        found, answer = serving.request(INFER, request)
        assert (found, text in answer["error"]) == (status, True), answer
        code, details = over_grpc(serving, request)
        assert (code, text in details) == (GRPC[status], True), details
        if request.get("parameters", {}).get("sequence_start"):  # it has begun nothing
            key = request["parameters"]["sequence_id"]
            assert serving.request(INFER, body(key))[0] == 404
    assert serving.request("/metrics")[1].count(b'rnn_streams{model="lstm",version="1"} 0.0') == 1


JSON_ONLY = {
    "not json": (b"{", {}, 400, "is not JSON"),
    "not utf-8": (b"\xff\xfe{}", {}, 400, "is not JSON"),
    "too deep": (b"[" * 200000, {}, 400, "is not JSON"),
    "a list": ([], {}, 400, "the request is no JSON object"),
    "no inputs": ({}, {}, 400, "inputs is no list"),
    "an id that is a flag": (body(True, True), {}, 400, "sequence_id is True"),
    "an id below 0": (body(-1, True), {}, 400, "sequence_id is -1"),
    "an id too large": (body(2**64, True), {}, 400, "sequence_id is"),
    "an id too long": (body("x" * 129, True), {}, 400, "sequence_id is"),
    "a start that is a number": (body(1, 1), {}, 400, "sequence_start is 1"),
    "no data": (body(1, True, False, tensor(data=...)), {}, 400, "neither data nor binary_data_size"),
    "text for data": (body(1, True, False, tensor(data="123456")), {}, 400, "is no list of float32 values"),
    "texts in data": (body(1, True, False, tensor(data=["1"] * 6)), {}, 400, "is no list of float32 values"),
    "null in data": (body(1, True, False, tensor(data=[None] * 6)), {}, 400, "is no list of float32 values"),
    "flags in data": (body(1, True, False, tensor(data=[True] * 6)), {}, 400, "is no list of float32 values"),
    "ragged data": (body(1, True, False, tensor(data=[[1], [2, 3]])), {}, 400, "is no list of float32 values"),
    "a size below 0": (body(1, True, False, tensor(shape=[1, -1, 6])), {}, 400, "expected a list of sizes"),
    "no shape": (body(1, True, False, tensor(shape=...)), {}, 400, "expected a list of sizes"),
    "unknown output": (body(1, True) | {"outputs": [{"name": "z"}]}, {}, 400, "has no output 'z'"),
    "raw too short": (
        body(1, True, False, tensor(data=..., parameters={"binary_data_size": 24})), {}, 400, "0 raw bytes are left",
    ),
    "a wrong JSON length": (b"{}", {"Inference-Header-Content-Length": "3"}, 400, "of a body that has 2"),
    "no JSON length": (b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "expected a number of bytes"),
    "raw bytes left": (
        b'{"inputs": []}123', {"Inference-Header-Content-Length": "14"}, 400, "3 bytes are left",
    ),
    "compressed": (b"{}", {"Content-Encoding": "gzip"}, 415, "compressed requests are not taken"),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_ONLY)
def test_a_wrong_http_request(name: str, serving: Any) -> None:
    request, headers, status, text = JSON_ONLY[name]
    found, answer = serving.request(INFER, request, headers)
    assert (found, text in answer["error"]) == (status, True), answer


def test_the_largest_and_smallest_of_a_whole_type(serving: Any) -> None:
    ids = {"name": "ids", "datatype": "INT64", "shape": [1, 2]}
    tagger = "/v2/models/tagger/infer"
    assert serving.request(tagger, {"inputs": [ids | {"data": [1, 2]}]})[0] == 200
    for data in ([1.5, 2], [2**63, 1], [2**64, 1], [True, False]):
        status, answer = serving.request(tagger, {"inputs": [ids | {"data": data}]})
        assert status == 400 and "of 'ids'" in answer["error"]
    for unknown in (2**62, -1):
        status, answer = serving.request(tagger, {"inputs": [ids | {"data": [1, unknown]}]})
        assert status == 422 and "the model fails on these values" in answer["error"]
        assert f"ids[0, 1] is {unknown}; the model has the ids 0 to " in answer["error"]


def test_paths_methods_models_and_versions(serving: Any) -> None:
    assert serving.request("/v2/models/nobody")[0] == 404
    assert serving.request("/v2/models/nobody/infer", {})[0] == 404
    assert serving.request("/v2/models/lstm/versions/1")[0] == 200
    assert serving.request("/v2/models/lstm/versions/2")[0] == 404
    assert serving.request("/v2/models/lstm/versions/2/infer", body(1, True))[0] == 404
    assert serving.request("/nowhere") == (404, {"error": "there is no such path: GET /openapi.json lists them"})
    assert serving.request(INFER)[0] == 405
    assert serving.request(f"{INFER}/", body(1, True, True))[0] == 200
    assert over_grpc(serving, body(1, True), model="nobody")[0] == "NOT_FOUND"


def test_a_repeated_start(serving: Any, eager: Callable[..., np.ndarray], make_chunks: Callable[..., Any]) -> None:
    parts = [np.full((1, 2, 6), 0.1, np.float32), np.full((1, 1, 6), -0.3, np.float32)]
    with bystander(serving, eager, make_chunks):
        first = serving.request(INFER, body(920, True, False, tensor(parts[0])))[1]
        status, answer = serving.request(INFER, body(920, True))
        assert status == 409 and "the sequence 920 is open already" in answer["error"]
        assert over_grpc(serving, body(920, True))[0] == "ALREADY_EXISTS"
        last = serving.request(INFER, body(920, False, True, tensor(parts[1])))[1]
    outputs = [np.array(answer["outputs"][0]["data"]).reshape(1, -1, 16) for answer in (first, last)]
    assert np.abs(np.concatenate(outputs, axis=1) - eager(np.concatenate(parts, axis=1))).max() < 2e-6
    assert serving.request(INFER, body(920))[0] == 404


def test_an_end_that_does_not_fit_leaves_its_sequence_open(serving: Any) -> None:
    assert serving.request(INFER, body(921, True))[0] == 200
    assert serving.request(INFER, body(921, False, True, tensor(shape=[1, 2, 6])))[0] == 400
    assert serving.request(INFER, body(921, False, True, tensor(np.zeros((1, 1, 5), np.float32))))[0] == 400
    assert serving.request(INFER, body(921, False, True))[0] == 200
    assert serving.request(INFER, body(921, False, True))[0] == 404


@pytest.fixture(scope="module")
def strict(start: Callable[..., Any], models: Path) -> Any:
    """A server whose every limit is small."""
    options = "--streams 3 --streams-per-client 2 --max-body 2000 --request-seconds 1 --idle-seconds 1.5"
    return start(models / "lstm", *options.split())


def test_an_expired_sequence(strict: Any) -> None:
    assert strict.request(INFER, body(1, True))[0] == 200
    strict.wait_for("expired")
    status, answer = strict.request(INFER, body(1))
    assert status == 410 and "it was idle for 1.5 s" in answer["error"]
    assert over_grpc(strict, body(1))[0] == "FAILED_PRECONDITION"
    assert strict.request(INFER, body(1, True, True))[0] == 200
    assert strict.request(INFER, body(1))[0] == 404


def test_streams_per_client(strict: Any) -> None:
    assert [strict.request(INFER, body(key, True))[0] for key in (11, 12, 13)] == [200, 200, 429]
    assert over_grpc(strict, body(13, True))[0] == "RESOURCE_EXHAUSTED"
    with pytest.raises(Exception, match="429"), sockets.connect(f"ws://{strict.http}/v2/models/lstm/stream"):
        pass
    assert [strict.request(INFER, body(key, False, True))[0] for key in (11, 12)] == [200, 200]
    assert strict.request(INFER, body(13, True, True))[0] == 200


def test_a_body_of_the_largest_size_and_one_byte_more(strict: Any) -> None:
    text = json.dumps(body(21, True, True)).encode()
    assert strict.request(INFER, text + b" " * (2000 - len(text)))[0] == 200
    status, answer = strict.request(INFER, text + b" " * (2001 - len(text)))
    assert status == 413 and "at most 2000" in answer["error"]
    large = tensor(np.zeros((1, 200, 6), np.float32))
    assert over_grpc(strict, body(22, True, True, large))[0] == "RESOURCE_EXHAUSTED"


def raw(server: Any, *parts: bytes, pause: float = 0.0) -> bytes:
    """What comes back for these bytes, until the server closes the connection."""
    host, _, port = server.http.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while data := connection.recv(65536):
            answer += data
            if answer.endswith(b"}"):
                break
        return answer


def test_a_body_in_chunks_that_is_too_large(strict: Any) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    assert raw(strict, head, chunk * 3).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),  # half open: nothing is sent
        (b"GET /v2 HT", b""),  # half a head
        (f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{{".encode(), b"HTTP/1.1 408"),
        (b"\x00\x01\x02\r\n\r\n", b"HTTP/1.1 400"),  # no HTTP at all
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70000, b""),  # a head without end
    ],
)
def test_a_client_that_keeps_the_server_waiting_is_dropped(sent: bytes, status: bytes, strict: Any) -> None:
    began = time.monotonic()
    try:
        answer = raw(strict, sent)
    except ConnectionError:
        answer = b""
    assert answer[: len(status)] == status and (status or not answer)
    assert time.monotonic() - began < 10
    assert strict.request("/v2/health/live")[0] == 200


def test_a_client_that_does_not_read_its_answers_is_dropped(start: Callable[..., Any], models: Path) -> None:
    server = start(models / "lstm", "--request-seconds", "1")
    request = json.dumps(body(5, True, True, tensor(np.zeros((1, 4000, 6), np.float32)))).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(request)}\r\n\r\n".encode()
    host, _, port = server.http.partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect((host, int(port)))
        with pytest.raises(OSError):  # reset by the server, and not timed out
            for _ in range(400):
                connection.sendall(head + request)
            raise AssertionError
    assert server.request(INFER, body(5, True, True))[0] == 200


def test_a_websocket_client_that_does_not_read_is_dropped_and_its_stream_freed(
    start: Callable[..., Any], models: Path
) -> None:
    server = start(models / "lstm", "--request-seconds", "1")
    text = json.dumps({"inputs": [tensor(np.zeros((1, 4000, 6), np.float32))]}).encode()
    message = b"\x81\xff" + len(text).to_bytes(8, "big") + bytes(4) + text  # one frame of text, masked with zeros
    head = f"GET /v2/models/lstm/stream HTTP/1.1\r\nHost: {server.http}\r\nUpgrade: websocket\r\n"
    head += "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    host, _, port = server.http.partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect((host, int(port)))
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        with pytest.raises(OSError):  # reset by the server, and not timed out
            for _ in range(400):
                connection.sendall(message)
            raise AssertionError
        until = time.monotonic() + 10
        while b'rnn_streams{model="lstm",version="1"} 0.0' not in server.request("/metrics")[1]:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert server.request(INFER, body(5, True, True))[0] == 200
    assert not [line for line in server.log if line["level"] == "error"]


def test_from_a_grpc_stream_that_is_not_read_no_more_is_read(start: Callable[..., Any], models: Path) -> None:
    server, made, sent = start(models / "lstm"), messages(), 0

    def requests() -> Iterator[Any]:
        nonlocal sent
        x = np.ones((1, 400, 6), np.float32)
        for n in range(4000):
            message = made["ModelInferRequest"](model_name="lstm", raw_input_contents=[x.tobytes()])
            message.inputs.add(name="input", datatype="FP32", shape=x.shape)
            message.parameters["sequence_id"].int64_param = 1
            message.parameters["sequence_start"].bool_param = n == 0
            sent = n
            yield message

    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            made["ModelInferRequest"].SerializeToString,
            made["ModelStreamInferResponse"].FromString,
        )(requests())
        before = -1
        while before < sent:  # until nothing moves
            before = sent
            time.sleep(1)
        assert 64 < before < 3000
        assert {next(call).error_message for _ in range(before)} == {""}  # and it goes on
        call.cancel()
    assert server.request(INFER, body(2, True, True))[0] == 200
    assert server.errors == [] and not [line for line in server.log if line["level"] == "error"]


def test_an_idle_websocket_is_closed_and_its_stream_freed(strict: Any) -> None:
    idle = pytest.raises(Exception, match=r"idle for 1\.5 s")
    with sockets.connect(f"ws://{strict.http}/v2/models/lstm/stream") as connection, idle:
        connection.recv(timeout=20)
    assert [strict.request(INFER, body(key, True, True))[0] for key in (41, 42)] == [200, 200]


def test_a_websocket_client_that_is_killed_frees_its_stream(strict: Any) -> None:
    for _ in range(5):
        with sockets.connect(f"ws://{strict.http}/v2/models/lstm/stream") as connection:
            connection.send(json.dumps({"inputs": [tensor()]}))
            connection.socket.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + 10
        while b'rnn_streams{model="lstm",version="1"} 0.0' not in strict.request("/metrics")[1]:
            assert time.monotonic() < until
            time.sleep(0.02)


CLIENT = """
import json, sys, threading, urllib.request
import numpy as np
import tritonclient.grpc as grpcclient
from websockets.sync.client import connect

http, grpc = sys.argv[1:]
chunk = {"name": "input", "datatype": "FP32", "shape": [1, 1, 6], "data": [0.5] * 6}
going = threading.Barrier(4)

def steps(push):
    push(True)
    going.wait()
    while True:
        push(False)

def over_http(start):
    body = json.dumps({"inputs": [chunk], "parameters": {"sequence_id": "http", "sequence_start": start}}).encode()
    urllib.request.urlopen(f"http://{http}/v2/models/lstm/infer", body).read()

client = grpcclient.InferenceServerClient(grpc)
x = grpcclient.InferInput("input", [1, 1, 6], "FP32")
x.set_data_from_numpy(np.full((1, 1, 6), 0.5, np.float32))

def over_grpc(start):
    client.infer("lstm", [x], sequence_id="grpc", sequence_start=start)

socket = connect(f"ws://{http}/v2/models/lstm/stream")

def over_websocket(start):
    socket.send(json.dumps({"inputs": [chunk]}))
    socket.recv()

for push in (over_http, over_grpc, over_websocket):
    threading.Thread(target=steps, args=(push,), daemon=True).start()
going.wait()
print("going", flush=True)
threading.Event().wait()
"""


def test_a_client_that_is_killed_in_mid_sequence_frees_what_it_had(
    start: Callable[..., Any], models: Path, eager: Callable[..., np.ndarray], make_chunks: Callable[..., Any]
) -> None:
    server = start(models / "lstm", "--idle-seconds", "2")
    for _ in range(2):
        with bystander(server, eager, make_chunks):
            client = subprocess.Popen(
                [sys.executable, "-c", CLIENT, server.http, server.grpc], stdout=subprocess.PIPE, text=True
            )
            assert client.stdout is not None
            with client.stdout:
                assert client.stdout.readline() == "going\n"
                client.kill()
                client.wait(10)
        until = time.monotonic() + 20
        while b'rnn_streams{model="lstm",version="1"} 0.0' not in server.request("/metrics")[1]:
            assert time.monotonic() < until, "a stream of the client that was killed is held"
            time.sleep(0.05)
        assert server.request(INFER, body("http"))[0] in (410, 404)
    assert not [line for line in server.log if line["level"] == "error"]


def test_a_grpc_client_that_cancels_ends_its_sequence(start: Callable[..., Any], models: Path) -> None:
    # A batch waits ten seconds for the stream that is open and does not push.
    server = start(models / "lstm", "--max-wait-ms", "10000")
    assert server.request(INFER, body("other", True))[0] == 200
    made = messages()
    message = made["ModelInferRequest"](model_name="lstm")
    given_tensor = message.inputs.add(name="input", datatype="FP32", shape=[1, 1, 6])
    given_tensor.contents.fp32_contents.extend([0.0] * 6)
    message.parameters["sequence_id"].string_param = "mine"
    message.parameters["sequence_start"].bool_param = True
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", made["ModelInferRequest"].SerializeToString
        ).future(message)
        until = time.monotonic() + 10
        while b'rnn_queued{model="lstm",version="1"} 1.0' not in server.request("/metrics")[1]:
            assert time.monotonic() < until
        call.cancel()
        while (status := server.request(INFER, body("mine"))[0]) == 503:  # its chunk waits still
            assert time.monotonic() < until
    assert status == 410
    assert server.request(INFER, body("other", False, True))[0] == 200  # it is the one open stream again


def test_a_full_queue_and_a_full_server(start: Callable[..., Any], models: Path) -> None:
    # A batch never starts by itself for ten seconds, so what waits, waits.
    options = "--streams 3 --max-queue 2 --max-wait-ms 10000 --request-seconds 3"
    server = start(models / "lstm", *options.split())
    found: dict[str, list[Any]] = {"a": [], "b": []}

    def push(name: str) -> None:
        found[name].append(server.request(INFER, body(name, True)))

    assert server.request(INFER, body("c", True))[0] == 200  # alone, it is every open stream
    with sockets.connect(f"ws://{server.http}/v2/models/lstm/stream"):
        thread = threading.Thread(target=push, args=("a",))
        thread.start()
        until = time.monotonic() + 10
        while b'rnn_queued{model="lstm",version="1"} 1.0' not in server.request("/metrics")[1]:
            assert time.monotonic() < until
        status, answer = server.request(INFER, body("b", True))
        assert status == 503 and "as many sequences are open as may be" in answer["error"]
        assert over_grpc(server, body("b", True))[0] == "UNAVAILABLE"
        # One stream may have its share of the queue and no more, here a single chunk.
        assert server.request(INFER, body("a"))[0] == 503
        assert over_grpc(server, body("a"))[0] == "UNAVAILABLE"
        thread.join()
    status, answer = found["a"][0]
    assert status == 504 and "took too long, and its sequence was ended" in answer["error"]
    assert server.request(INFER, body("a"))[0] == 410
    text = server.request("/metrics")[1].decode()
    assert re.search(r'rnn_rejected_total\{model="lstm",version="1"\} 2.0', text)
    assert re.search(r'rnn_requests_total\{model="lstm",protocol="http",status="504"\} 1.0', text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(field=st.sampled_from(["inputs", "outputs", "parameters", "id"]), value=JSON)
def test_any_value_in_any_field_of_a_request(field: str, value: Any, serving: Any) -> None:
    status, answer = serving.request(INFER, {"inputs": [tensor()]} | {field: value})
    assert status == 400 and answer["error"]


@settings(max_examples=60)
@given(field=st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), value=JSON)
def test_any_value_in_any_field_of_a_tensor(field: str, value: Any, serving: Any) -> None:
    status, answer = serving.request(INFER, body("any", True, True, tensor(**{field: value})))
    if not (field == "parameters" and status == 200):
        assert status == 400 and answer["error"]


@settings(max_examples=60)
@given(junk=st.binary(max_size=60), method=st.sampled_from(["ModelInfer", "ModelMetadata", "ServerLive", "Nothing"]))
def test_any_bytes_for_a_protobuf(junk: bytes, method: str, serving: Any) -> None:
    with grpc.insecure_channel(serving.grpc) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            answer = call(junk, timeout=20)
        except grpc.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")
        else:  # unknown fields are let pass
            assert method == "ServerLive" and answer == messages()["ServerLiveResponse"](live=True).SerializeToString()
    assert not [line for line in serving.log if line["level"] == "error"]
