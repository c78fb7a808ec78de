"""Triton's own client, unchanged: every answer is what eager PyTorch says of that sequence alone."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REASON = "make test-serve brings it"
grpcclient = pytest.importorskip("tritonclient.grpc", reason=REASON)
httpclient = pytest.importorskip("tritonclient.http", reason=REASON)
sockets = pytest.importorskip("websockets.sync.client", reason=REASON)

TOLERANCE = 2e-6
Chunks = Callable[..., list[np.ndarray]]
Eager = Callable[[np.ndarray], np.ndarray]


def http_push(server: Any, concurrency: int = 1, binary: bool = True) -> Callable[..., Any]:
    client = httpclient.InferenceServerClient(server.http, concurrency=concurrency)

    def push(chunk: np.ndarray, **sequence: Any) -> np.ndarray:
        x = httpclient.InferInput("input", list(chunk.shape), "FP32")
        x.set_data_from_numpy(chunk, binary_data=binary)
        wanted = [httpclient.InferRequestedOutput("output", binary_data=binary)]
        return client.infer("lstm", [x], outputs=wanted, **sequence).as_numpy("output")

    return push


def grpc_push(server: Any) -> Callable[..., Any]:
    client = grpcclient.InferenceServerClient(server.grpc)

    def push(chunk: np.ndarray, **sequence: Any) -> np.ndarray:
        x = grpcclient.InferInput("input", list(chunk.shape), "FP32")
        x.set_data_from_numpy(chunk)
        return client.infer("lstm", [x], **sequence).as_numpy("output")

    return push


PUSHES = {
    "http binary": http_push,
    "http json": lambda server: http_push(server, binary=False),
    "grpc": grpc_push,
}


@pytest.mark.parametrize("protocol", PUSHES)
@pytest.mark.parametrize("text", [False, True])
def test_sixteen_sequences_at_once_are_each_as_in_eager_pytorch(
    protocol: str, text: bool, serving: Any, eager: Eager, make_chunks: Chunks
) -> None:
    errors: list[float] = []

    def client(k: int) -> None:
        push, parts = PUSHES[protocol](serving), make_chunks(k)
        key = f"{protocol} {k}" if text else 1 + k + 100 * list(PUSHES).index(protocol)
        outputs = [
            push(chunk, sequence_id=key, sequence_start=n == 0, sequence_end=n == len(parts) - 1)
            for n, chunk in enumerate(parts)
        ]
        expected = eager(np.concatenate(parts, axis=1))
        errors.append(float(np.abs(np.concatenate(outputs, axis=1) - expected).max()))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 16
    assert max(errors) < TOLERANCE


def test_many_sequences_over_one_grpc_stream(serving: Any, eager: Eager, make_chunks: Chunks) -> None:
    client, answers = grpcclient.InferenceServerClient(serving.grpc), queue.Queue[Any]()
    client.start_stream(lambda result, error: answers.put((result, error)))
    sequences = {k: make_chunks(k, most=20) for k in range(20, 30)}
    for n in range(max(map(len, sequences.values()))):
        for k, parts in sequences.items():
            if n < len(parts):
                x = grpcclient.InferInput("input", list(parts[n].shape), "FP32")
                x.set_data_from_numpy(parts[n])
                last = n == len(parts) - 1
                flags = {"sequence_id": 7000 + k, "sequence_start": n == 0, "sequence_end": last}
                client.async_stream_infer("lstm", [x], request_id=f"{k} {n}", **flags)
    outputs: dict[str, np.ndarray] = {}
    for _ in range(sum(map(len, sequences.values()))):
        result, error = answers.get(timeout=30)
        assert error is None
        outputs[result.get_response().id] = result.as_numpy("output")
    client.stop_stream()
    for k, parts in sequences.items():
        whole = np.concatenate([outputs[f"{k} {n}"] for n in range(len(parts))], axis=1)
        assert np.abs(whole - eager(np.concatenate(parts, axis=1))).max() < TOLERANCE


def test_an_error_in_a_grpc_stream_leaves_the_stream_alive(serving: Any) -> None:
    client, answers = grpcclient.InferenceServerClient(serving.grpc), queue.Queue[Any]()
    client.start_stream(lambda result, error: answers.put((result, error)))
    x = grpcclient.InferInput("input", [1, 1, 6], "FP32")
    x.set_data_from_numpy(np.zeros((1, 1, 6), np.float32))
    client.async_stream_infer("lstm", [x], request_id="a", sequence_id=8000)
    _, error = answers.get(timeout=30)
    assert "no sequence 8000 is open" in str(error)
    client.async_stream_infer("lstm", [x], sequence_id=8000, sequence_start=True, sequence_end=True)
    result, error = answers.get(timeout=30)
    client.stop_stream()
    assert error is None and result.as_numpy("output").shape == (1, 1, 16)


@pytest.mark.parametrize("binary", [False, True])
def test_a_websocket_is_a_stream(binary: bool, serving: Any, eager: Eager, make_chunks: Chunks) -> None:
    parts, outputs = make_chunks(50), []
    with sockets.connect(f"ws://{serving.http}/v2/models/lstm/stream", max_size=None) as socket:
        for chunk in parts:
            tensor: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": list(chunk.shape)}
            if binary:
                tensor["parameters"] = {"binary_data_size": chunk.nbytes}
                head = json.dumps({"inputs": [tensor]}).encode()
                socket.send(len(head).to_bytes(4, "little") + head + chunk.tobytes())
                message = socket.recv()
                size = int.from_bytes(message[:4], "little")
                output = json.loads(message[4 : 4 + size])["outputs"][0]
                data = np.frombuffer(message[4 + size :], np.float32)
            else:
                socket.send(json.dumps({"inputs": [tensor | {"data": chunk.tolist()}]}))
                output = json.loads(socket.recv())["outputs"][0]
                data = np.array(output["data"], np.float32)
            assert output["name"] == "output"
            outputs.append(data.reshape(output["shape"]))
    assert np.abs(np.concatenate(outputs, axis=1) - eager(np.concatenate(parts, axis=1))).max() < TOLERANCE


def test_a_message_that_does_not_fit_leaves_a_websocket_and_its_state_as_they_were(
    serving: Any, eager: Eager, make_chunks: Chunks
) -> None:
    parts, outputs = make_chunks(51), []
    with sockets.connect(f"ws://{serving.http}/v2/models/lstm/stream") as socket:
        for chunk in parts:
            for wrong in ("no json", b"\xff", b"\xff\xff\xff\xff{}", '{"inputs": []}', '{"inputs": 3}'):
                socket.send(wrong)
                assert json.loads(socket.recv())["status"] == 400
            tensor = {"name": "input", "datatype": "FP32", "shape": list(chunk.shape), "data": chunk.ravel().tolist()}
            socket.send(json.dumps({"inputs": [tensor], "parameters": {"sequence_id": 4}}))
            assert "the connection is the sequence" in json.loads(socket.recv())["error"]
            socket.send(json.dumps({"inputs": [tensor]}))
            outputs.append(np.array(json.loads(socket.recv())["outputs"][0]["data"]).reshape(1, -1, 16))
    assert np.abs(np.concatenate(outputs, axis=1) - eager(np.concatenate(parts, axis=1))).max() < TOLERANCE


def test_a_model_without_state_takes_whole_sequences(serving: Any, models: Path) -> None:
    import rnn_runtime

    model = rnn_runtime.load(models / "tagger")
    feeds = model.example()
    expected = model.run(feeds)
    for module, address in ((httpclient, serving.http), (grpcclient, serving.grpc)):
        client = module.InferenceServerClient(address)
        inputs = []
        for name, array in feeds.items():
            inputs.append(module.InferInput(name, list(array.shape), module.np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        result = client.infer("tagger", inputs)
        for name in expected:
            np.testing.assert_array_equal(result.as_numpy(name), expected[name])
        with pytest.raises(Exception, match="has no state, so it has no sequences"):
            client.infer("tagger", inputs, sequence_id=3, sequence_start=True)


def test_states_stay_on_the_server_unless_they_are_asked_for(serving: Any, models: Path) -> None:
    import rnn_runtime

    x = np.eye(4, dtype=np.float32)[:, None]
    expected = rnn_runtime.load(models / "hello").run(x)
    client = httpclient.InferenceServerClient(serving.http)
    given = httpclient.InferInput("input", [4, 1, 4], "FP32")
    given.set_data_from_numpy(x)
    flags = {"sequence_id": 60, "sequence_start": True, "sequence_end": True}
    result = client.infer("hello", [given], **flags)
    np.testing.assert_array_equal(result.as_numpy("output"), expected["output"])
    assert result.as_numpy("h_n") is None
    wanted = [httpclient.InferRequestedOutput("h_n"), httpclient.InferRequestedOutput("output", binary_data=False)]
    result = client.infer("hello", [given], outputs=wanted, request_id="mine", **flags)
    np.testing.assert_array_equal(result.as_numpy("h_n"), expected["h_n"])
    np.testing.assert_array_equal(result.as_numpy("output"), expected["output"])
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["parameters"]["sequence_id"] == 60


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "1e-45", "0.1", "-0.0"])
def test_numbers_as_json_that_json_has_no_name_for(serving: Any, models: Path, value: str) -> None:
    import rnn_runtime

    x = np.zeros((1, 1, 4), np.float32)
    x[0, 0, 1] = float(value)
    expected = rnn_runtime.load(models / "hello").run(x)["output"]
    data = f'"inputs": [{{"name": "input", "datatype": "FP32", "shape": [1, 1, 4], "data": [0, {value}, 0, 0]}}]'
    flags = '"parameters": {"sequence_id": 61, "sequence_start": true, "sequence_end": true}'
    status, answer = serving.request("/v2/models/hello/infer", f"{{{data}, {flags}}}".encode())
    assert status == 200, answer
    got = np.array(answer["outputs"][0]["data"], np.float32)
    np.testing.assert_array_equal(got, expected.ravel())
    assert np.isnan(got).any() == (value == "NaN")


def test_an_id_that_is_no_unicode_comes_back_as_it_was_sent(serving: Any) -> None:
    flags = {"sequence_id": "\ud800", "sequence_start": True, "sequence_end": True}
    x = {"name": "input", "datatype": "FP32", "shape": [1, 1, 6], "data": [0.0] * 6}
    for _ in range(2):  # the first has ended its sequence
        request = {"id": "half a pair: \udfff", "inputs": [x], "parameters": flags}
        status, answer = serving.request("/v2/models/lstm/infer", request)
        assert status == 200, answer
        assert (answer["id"], answer["parameters"]) == (request["id"], flags)


def test_health_and_metadata_as_the_protocol_has_them(serving: Any) -> None:
    for module, address, plain in ((httpclient, serving.http, {}), (grpcclient, serving.grpc, {"as_json": True})):
        client = module.InferenceServerClient(address)
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("hello")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata(**plain)["extensions"] == ["sequence", "binary_tensor_data"]
        found = client.get_model_metadata("hello", **plain)
        assert found["name"] == "hello" and found["versions"] == ["1"]
        tensors = [
            [(t["name"], t["datatype"], list(map(int, t["shape"]))) for t in found[key]]
            for key in ("inputs", "outputs")
        ]
        assert tensors == [[("input", "FP32", [-1, 1, 4])], [("output", "FP32", [-1, 1, 2])]]
        assert [t["name"] for t in client.get_model_metadata("tagger", **plain)["inputs"]] == ["ids", "lengths"]


def test_the_messages_are_those_of_tritons_client() -> None:
    from tritonclient.grpc import service_pb2

    from rnn_runtime.serve._messages import messages

    def fields(descriptor: Any) -> list[tuple[Any, ...]]:
        return [
            (
                f.number,
                f.name,
                f.type,
                f.is_repeated,
                f.message_type and f.message_type.name,
                f.containing_oneof is None,
            )
            for f in descriptor.fields
        ]

    assert "ModelInferRequest.InferInputTensor" in messages()
    for name, ours in messages().items():
        theirs = service_pb2.DESCRIPTOR
        for part in name.split("."):
            known = theirs.message_types_by_name if theirs is service_pb2.DESCRIPTOR else theirs.nested_types_by_name
            theirs = known[part]
        assert fields(ours.DESCRIPTOR) == fields(theirs), name
