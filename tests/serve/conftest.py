"""What the tests of the server share: a server of its own process, and models with their eager PyTorch answers."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PACKAGES = ("starlette", "uvicorn", "grpc", "prometheus_client", "tritonclient")
COMMAND = "import sys; from rnn_export.cli import main; sys.argv[0] = 'rnn-export'; main()"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    for item in items:
        if missing and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=f"{missing[0]} is not installed: make test-serve brings it"))


class Server:
    """`rnn-export serve` in a process of its own; `log` has what it has written so far."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-W", "error", "-c", COMMAND, "serve", *map(str, arguments)]
        command += ["--http-port", "0", "--grpc-port", "0"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._new: queue.Queue[None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        first = self.wait_for("listening", 60)
        self.http, self.grpc = (f"127.0.0.1:{first[port]}" for port in ("http_port", "grpc_port"))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.errors.append(line)
            self._new.put(None)
        self._new.put(None)

    def wait_for(self, event: str, seconds: float = 20) -> dict[str, Any]:
        """The first line of this event, when it is there."""
        until = time.monotonic() + seconds
        while True:
            for line in self.log:
                if line["event"] == event:
                    return line
            if self.process.poll() is not None and not self._reader.is_alive():
                raise AssertionError(f"the server ended without {event!r}: {self.log} {''.join(self.errors)}")
            try:
                self._new.get(timeout=max(0.0, min(0.5, until - time.monotonic())))
            except queue.Empty:
                assert time.monotonic() < until, f"no {event!r} within {seconds} s: {self.log} {''.join(self.errors)}"

    def request(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> tuple[int, Any]:
        """Status and body, of GET, or of POST where there is something to send."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://{self.http}{path}", data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code, after a signal."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Its exit code, when it has ended."""
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Server]]:
    """Start a server: start(DIR, "--option", "value")."""
    servers: list[Server] = []

    def make(*arguments: str | Path) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: `lstm` (batch first, 6 -> 16), `hello` (the course's RNN), `tagger` (no state)."""
    import rnn_export
    import rnn_models

    folder = tmp_path_factory.mktemp("models")
    model, x = lstm()
    rnn_export.export(model, x, folder / "lstm", formats=["onnx"])
    for name in ("hello", "tagger"):
        rnn_export.export(path=folder / name, **{**rnn_models.get(name).export_arguments(), "formats": ["onnx"]})
    return folder


def lstm() -> tuple[Any, Any]:
    """The seeded LSTM, and an example (batch, sequence, 6)."""
    import torch

    torch.manual_seed(7)
    return torch.nn.LSTM(6, 16, 2, batch_first=True), torch.randn(2, 7, 6)


@pytest.fixture(scope="session")
def eager() -> Callable[[np.ndarray], np.ndarray]:
    """The LSTM's outputs in eager PyTorch, in float64, for a whole sequence (1, sequence, 6)."""
    import torch

    model = lstm()[0].double()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(x).double())[0].numpy()

    return run


@pytest.fixture(scope="session")
def serving(start: Callable[..., Server], models: Path) -> Server:
    """One server of all models, which tests share: they leave no sequence of theirs open."""
    return start(*(models / name for name in ("lstm", "hello", "tagger")))


def chunks(seed: int, most: int = 6) -> list[np.ndarray]:
    """A sequence for the LSTM, in chunks (1, steps, 6)."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 5, random.integers(1, most + 1))
    return [random.standard_normal((1, length, 6)).astype(np.float32) for length in lengths]


@pytest.fixture(scope="session")
def make_chunks() -> Callable[..., list[np.ndarray]]:
    return chunks
