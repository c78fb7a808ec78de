"""Sequences served over the network: rnn-export serve, beside servers written the obvious way and a real Triton.

    .venv-serve/bin/python benchmarks/serving.py [--streams 64] [--hidden 256] [--seconds 20] [--peers http fastapi]

Each server is a process of its own and runs ONNX Runtime on one thread; the clients are one more process, an asyncio
loop in which every stream sends its next step when it has the answer to the last. Sequences have random lengths, and
every answer is compared with that of the sequence run alone: one that differs ends the run. A round gives every peer
one turn, and rows are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _rounds import README, machine, put

Step = Callable[[np.ndarray, bool, bool], Awaitable[np.ndarray]]

OBVIOUS = """
import sys
import numpy as np, onnxruntime, uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
hidden = session.get_inputs()[1].shape[2]
app, states = FastAPI(), {}


class Step(BaseModel):
    session: str
    x: list[list[list[float]]]
    start: bool = False
    end: bool = False


def run(key, x, start, end):
    h, c = (np.zeros((1, 1, hidden), np.float32),) * 2 if start else states[key]
    y, h, c = session.run(None, {"input": x, "h_0": h, "c_0": c})
    states[key] = (h, c)
    if end:
        del states[key]
    return y


@app.post("/json")
async def step(given: Step):
    return {"output": run(given.session, np.array(given.x, np.float32), given.start, given.end).tolist()}


@app.post("/raw/{key}/{start}/{end}")
async def raw(key: str, start: bool, end: bool, request: Request):
    x = np.frombuffer(await request.body(), np.float32).reshape(1, 1, -1)
    return Response(run(key, x, start, end).tobytes(), media_type="application/octet-stream")


uvicorn.run(app, port=int(sys.argv[2]), log_level="error", http="httptools")
"""

PLAIN_TRITON = """
import numpy as np, onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(args["model_repository"] + "/1/model.onnx", options)
        self.hidden, self.states = self.session.get_inputs()[1].shape[2], {}

    def execute(self, requests):
        answers = []
        for request in requests:
            key, flags = request.correlation_id(), request.flags()
            h, c = (np.zeros((1, 1, self.hidden), np.float32),) * 2 if flags & 1 else self.states[key]
            x = triton.get_input_tensor_by_name(request, "input").as_numpy()
            y, h, c = self.session.run(None, {"input": x, "h_0": h, "c_0": c})
            self.states[key] = (h, c)
            if flags & 2:
                del self.states[key]
            answers.append(triton.InferenceResponse([triton.Tensor("output", y)]))
        return answers
"""


class Http:
    """One keep-alive connection: a request and its answer's head and body, and nothing more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def post(self, path: str, body: bytes, headers: str = "") -> tuple[bytes, bytes]:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        text = await self.reader.readexactly(size)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{answer!r} {text!r}")
        return answer, text


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[Http]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield Http(reader, writer)
    writer.close()


def v2(x: np.ndarray, key: int | None, start: bool, end: bool, binary: bool) -> tuple[bytes, int]:
    tensor: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": list(x.shape)}
    tensor |= {"parameters": {"binary_data_size": x.nbytes}} if binary else {"data": x.ravel().tolist()}
    parameters: dict[str, Any] = {"binary_data_output": binary}
    if key is not None:
        parameters |= {"sequence_id": key, "sequence_start": start, "sequence_end": end}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return head, len(head)


@contextlib.asynccontextmanager
async def over_http(ports: dict[str, int], key: int, binary: bool = True) -> AsyncIterator[Step]:
    async with connection(ports["http"]) as client:

        async def step(x: np.ndarray, start: bool, end: bool) -> np.ndarray:
            head, size = v2(x, key, start, end, binary)
            if not binary:
                _, text = await client.post("/v2/models/lstm/infer", head)
                return np.array(json.loads(text)["outputs"][0]["data"], np.float32)
            given = f"Inference-Header-Content-Length: {size}\r\n"
            answer, text = await client.post("/v2/models/lstm/infer", head + x.tobytes(), given)
            size = int(answer.lower().partition(b"inference-header-content-length:")[2].partition(b"\r\n")[0])
            return np.frombuffer(text[size:], np.float32)

        yield step


@contextlib.asynccontextmanager
async def over_json(ports: dict[str, int], key: int) -> AsyncIterator[Step]:
    async with over_http(ports, key, binary=False) as step:
        yield step


@contextlib.asynccontextmanager
async def over_websocket(ports: dict[str, int], key: int) -> AsyncIterator[Step]:
    import websockets

    socket: Any = None

    async def step(x: np.ndarray, start: bool, end: bool) -> np.ndarray:
        nonlocal socket
        if start:  # a connection is a stream
            socket = await opened.enter_async_context(
                websockets.connect(f"ws://127.0.0.1:{ports['http']}/v2/models/lstm/stream", compression=None)
            )
        head, size = v2(x, None, start, end, binary=True)
        await socket.send(size.to_bytes(4, "little") + head + x.tobytes())
        answer = await socket.recv()
        if end:
            await opened.aclose()
        return np.frombuffer(answer[4 + int.from_bytes(answer[:4], "little") :], np.float32)

    async with contextlib.AsyncExitStack() as opened:
        yield step


@contextlib.asynccontextmanager
async def grpc_channel(ports: dict[str, int]) -> AsyncIterator[tuple[dict[str, Any], Any]]:
    """The protocol's messages, and a channel to the server."""
    import grpc

    from rnn_runtime.serve._messages import messages

    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        yield messages(), channel


def message_of(made: dict[str, Any], x: np.ndarray, key: int, start: bool, end: bool) -> Any:
    message = made["ModelInferRequest"](model_name="lstm", raw_input_contents=[x.tobytes()])
    message.inputs.add(name="input", datatype="FP32", shape=x.shape)
    message.parameters["sequence_id"].int64_param = key
    message.parameters["sequence_start"].bool_param = start
    message.parameters["sequence_end"].bool_param = end
    return message


@contextlib.asynccontextmanager
async def over_grpc(ports: dict[str, int], key: int) -> AsyncIterator[Step]:
    async with grpc_channel(ports) as (made, channel):
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            made["ModelInferRequest"].SerializeToString,
            made["ModelInferResponse"].FromString,
        )

        async def step(x: np.ndarray, start: bool, end: bool) -> np.ndarray:
            found = await call(message_of(made, x, key, start, end))
            return np.frombuffer(found.raw_output_contents[0], np.float32)

        yield step


@contextlib.asynccontextmanager
async def over_grpc_stream(ports: dict[str, int], key: int) -> AsyncIterator[Step]:
    async with grpc_channel(ports) as (made, channel):
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            made["ModelInferRequest"].SerializeToString,
            made["ModelStreamInferResponse"].FromString,
        )()

        async def step(x: np.ndarray, start: bool, end: bool) -> np.ndarray:
            await call.write(message_of(made, x, key, start, end))
            found = await call.read()
            if found.error_message:
                raise RuntimeError(found.error_message)
            return np.frombuffer(found.infer_response.raw_output_contents[0], np.float32)

        yield step
        await call.done_writing()


@contextlib.asynccontextmanager
async def fastapi_json(ports: dict[str, int], key: int) -> AsyncIterator[Step]:
    async with connection(ports["http"]) as client:

        async def step(x: np.ndarray, start: bool, end: bool) -> np.ndarray:
            body = json.dumps({"session": str(key), "x": x.tolist(), "start": start, "end": end}).encode()
            _, text = await client.post("/json", body, "Content-Type: application/json\r\n")
            return np.array(json.loads(text)["output"], np.float32).ravel()

        yield step


@contextlib.asynccontextmanager
async def fastapi_raw(ports: dict[str, int], key: int) -> AsyncIterator[Step]:
    async with connection(ports["http"]) as client:

        async def step(x: np.ndarray, start: bool, end: bool) -> np.ndarray:
            return np.frombuffer((await client.post(f"/raw/{key}/{start}/{end}", x.tobytes()))[1], np.float32)

        yield step


PEERS: dict[str, tuple[str, str, Any]] = {
    "http": ("serve", "rnn-export serve, HTTP, binary", over_http),
    "json": ("serve", "rnn-export serve, HTTP, JSON", over_json),
    "websocket": ("serve", "rnn-export serve, WebSocket, binary", over_websocket),
    "grpc": ("serve", "rnn-export serve, gRPC", over_grpc),
    "grpc-stream": ("serve", "rnn-export serve, gRPC stream", over_grpc_stream),
    "fastapi": ("fastapi", "FastAPI, one run a request, JSON", fastapi_json),
    "fastapi-raw": ("fastapi", "FastAPI, one run a request, raw bytes", fastapi_raw),
    "triton": ("triton", "Triton, Python backend, one run a request, gRPC", over_grpc),
    "triton-ours": ("triton-ours", "Triton, rnn-export triton --backend python, gRPC", over_grpc),
}

BESIDE = {
    "http": "fastapi-raw",
    "json": "fastapi",
    "websocket": "fastapi-raw",
    "grpc": "triton",
    "triton-ours": "triton",
}
"""Which obvious server takes the same bytes."""


@contextlib.contextmanager
def server(kind: str, bundle: Path, folder: Path) -> Iterator[dict[str, int]]:
    """A server's process, and its ports."""
    ports = dict(zip(("http", "grpc"), free_ports(2), strict=True))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    if kind == "serve":
        code = "import sys; from rnn_export.cli import main; sys.argv[0] = 'rnn-export'; main()"
        command = [sys.executable, "-c", code, "serve", str(bundle), "--http-port", str(ports["http"])]
        command += ["--grpc-port", str(ports["grpc"])]
    elif kind == "fastapi":
        command = [sys.executable, "-c", OBVIOUS, str(bundle / "model.onnx"), str(ports["http"])]
    else:
        command = triton(kind, bundle, folder / kind, ports, environment)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for port in ports.values() if kind != "fastapi" else [ports["http"]]:
            wait_for(port, process)
        time.sleep(0.5)
        yield ports
    finally:
        process.terminate()
        process.wait(60)


def triton(kind: str, bundle: Path, folder: Path, ports: dict[str, int], environment: dict[str, str]) -> list[str]:
    from rnn_export._triton import write
    from rnn_export._triton._config import Options

    package = Path(importlib.util.find_spec("pytriton").origin).parent
    if not folder.exists():
        write(bundle, folder / "repository", Options(backend="python"))
        if kind == "triton":
            version = folder / "repository" / "lstm" / "1"
            shutil.copy(bundle / "model.onnx", version)
            (version / "model.py").write_text(PLAIN_TRITON)
        backend = shutil.copytree(package / "tritonserver/backends/python", folder / "backends/python")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy(package / f"tritonserver/python_backend_stubs/{version}/triton_python_backend_stub", backend)
    environment.pop("PYTHONPATH")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["LD_LIBRARY_PATH"] = str(package.parent / "nvidia_pytriton.libs")
    program = str(package / "tritonserver/bin/tritonserver")
    options = {"backend-directory": folder / "backends", "model-repository": folder / "repository"}
    options |= {"http-port": ports["http"], "grpc-port": ports["grpc"], "allow-metrics": "false"}
    return [program, *(f"--{name}={value}" for name, value in options.items())]


def free_ports(count: int) -> list[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError("the server did not start")


def sequences(bundle: Path, hidden: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sequences of 1 to 60 steps, and what each gives when it is run alone."""
    import rnn_runtime

    random, model = np.random.default_rng(0), rnn_runtime.load(bundle, threads=1)
    made = []
    for length in random.integers(1, 61, 50):
        x = random.standard_normal((1, length, hidden)).astype(np.float32)
        made.append((x, model.run(x)["output"]))
    return made


async def load(client: Any, ports: dict[str, int], streams: int, seconds: float, known: list[Any]) -> list[float]:
    """Seconds of each step, but for those of the first fifth of the time."""
    latencies: list[float] = []
    began = time.perf_counter()
    warm, end = began + seconds / 5, began + seconds * 6 / 5

    async def stream(k: int) -> None:
        async with client(ports, 1 + k) as step:
            n = k
            while time.perf_counter() < end:
                x, expected = known[n % len(known)]
                n += streams + 1
                for t in range(x.shape[1]):
                    sent = time.perf_counter()
                    y = await step(x[:, t : t + 1], t == 0, t == x.shape[1] - 1)
                    done = time.perf_counter()
                    if not np.abs(y - expected[0, t]).max() < 2e-6:
                        raise AssertionError(f"stream {k}: an answer differs from the sequence run alone")
                    if warm <= sent and done <= end:
                        latencies.append(done - sent)

    await asyncio.gather(*(stream(k) for k in range(streams)))
    return latencies


def alone(bundle: Path, streams: int, hidden: int) -> float:
    """Steps per second of the model without a network: one batch of all streams, one step at a time."""
    import rnn_runtime

    stream = rnn_runtime.load(bundle, threads=1).stream(batch=streams)
    x, took = np.zeros((streams, 1, hidden), np.float32), []
    for _ in range(400):
        began = time.perf_counter()
        stream.push(x)
        took.append(time.perf_counter() - began)
    return streams / statistics.median(took[100:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument(
        "--write", action="store_true", help="put the figures into the pages that have a place for them"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = folder / "lstm"
        code = (
            f"import torch, rnn_export; torch.manual_seed(0); h, path = {options.hidden}, {str(bundle)!r}\n"
            "rnn_export.export(torch.nn.LSTM(h, h, batch_first=True), torch.randn(2, 7, h), path, formats=['onnx'])"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        known = sequences(bundle, options.hidden)
        rate_alone = alone(bundle, options.streams, options.hidden)
        found: dict[str, list[tuple[float, float, float]]] = {peer: [] for peer in options.peers}
        for _ in range(options.rounds):
            for peer in options.peers:
                kind, _, client = PEERS[peer]
                with server(kind, bundle, folder) as ports:
                    took = asyncio.run(load(client, ports, options.streams, options.seconds, known))
                p50, p99 = np.percentile(np.array(took) * 1e3, (50, 99))
                found[peer].append((len(took) / options.seconds, float(p50), float(p99)))
    medians = {
        peer: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for peer, rows in found.items()
    }
    text = table(medians, options, rate_alone)
    print(text)
    if options.write:
        for page in (README, README.parent.parent / "docs" / "serving.md"):
            put(f"serving {options.streams}", text, page)


def table(medians: dict[str, tuple[float, ...]], options: argparse.Namespace, rate_alone: float) -> str:
    """The figures in Markdown, and what follows from them on paper."""
    lines = [
        machine(),
        "",
        f"{options.streams} streams of an LSTM {options.hidden}, each with its next step when it has the last; medians of "
        f"{options.rounds} round{'s' * (options.rounds > 1)} of {options.seconds:g} s. The model alone, in one batch of all "
        f"streams on one thread: {rate_alone:.0f} steps/s.",
        "",
        "| server | steps/s | p50 ms | p99 ms | times the steps of the obvious server with the same encoding |",
        "|---|---|---|---|---|",
    ]
    for peer, (rate, p50, p99) in medians.items():
        other = BESIDE.get(peer, "")
        times = f"{rate / medians[other][0]:.1f}, {PEERS[other][1].partition(',')[0]}" if other in medians else ""
        lines.append(f"| {PEERS[peer][1]} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {times} |")
    ours = [rate for peer, (rate, _, _) in medians.items() if PEERS[peer][0] == "serve"]
    if ours:
        each, fleet = 10, 10_000  # steps per second of a stream, and streams
        state = 2 * options.hidden * 4
        lines += [
            "",
            f"On paper, for streams of {each} steps per second: a process carries {max(ours) / each:.0f} of them at the best of "
            f"these rates, and the model alone {rate_alone / each:.0f}; a fleet of {fleet:,} takes "
            f"{math.ceil(fleet * each / max(ours))} processes at full load, better twice as many, and holds "
            f"{fleet * state / 2**20:.0f} MiB of state.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
