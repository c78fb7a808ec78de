"""Which cluster is used, and what is said where there is none: at once, where Ray itself would try for a long time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="make test-ray brings it")
grpc = pytest.importorskip("grpc")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

import ray.data  # noqa: E402

import rnn_runtime  # noqa: E402
import rnn_runtime.ray  # noqa: E402
from rnn_runtime import Error  # noqa: E402

X = pa.list_(pa.list_(pa.float32()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32).tolist()
    pq.write_table(pa.table({"id": [7, 8, 9], "x": pa.array(x, X)}), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def command(path: Path, source: Path, target: Path, address: str) -> subprocess.CompletedProcess[str]:
    """rnn-export score --ray, in a process of its own."""
    code = "from rnn_export.cli import main; main()"
    arguments = ["score", str(path), "-i", str(source), "-o", str(target), "--ray", "--workers", "2"]
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("which", ["named", "its own"])
def test_the_command_shares_the_rows_among_workers(
    which: str, workers: Any, files: Path, source: Path, tmp_path: Path
) -> None:
    address = workers.cluster.address if which == "named" else ""
    done = command(files / "rnn.onnx", source, tmp_path / "ray", address)
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'ray'}: 3 rows in 1 file\n"), done.stderr
    rnn_runtime.score(files / "rnn.onnx", source, tmp_path / "one")
    name = "part-00000.parquet"
    assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.fixture
def closed() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that takes connections, and never answers."""
    monkeypatch.setattr("rnn_runtime.ray._cluster._PATIENCE", 0.25)
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def other() -> Iterator[int]:
    """The port of a gRPC server that is no Ray."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield port
    server.stop(None).wait()


def test_the_command_says_that_there_is_no_cluster(closed: int, files: Path, source: Path, tmp_path: Path) -> None:
    done = command(files / "rnn.onnx", source, tmp_path / "out", f"127.0.0.1:{closed}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: there is no Ray cluster at RAY_ADDRESS, '127.0.0.1:{closed}' (")
    assert done.stderr.endswith("): start one, or unset it\n") and done.stderr.count("\n") == 1


CALLS: dict[str, Callable[[Path, Path, Any], object]] = {
    "score_files": lambda path, source, _: rnn_runtime.ray.score_files(path, source, source.parent / "out"),
    "score": lambda path, _, rows: rnn_runtime.ray.score(rows, path),
    "application": lambda path, *_: rnn_runtime.ray.application(path),
    "scale": lambda *_: rnn_runtime.ray.scale("rnn", 2),
    "close": lambda *_: rnn_runtime.ray.close("rnn"),
}


@pytest.fixture
def told(workers: Any, files: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """What a call says of this RAY_ADDRESS in a process that uses no cluster yet."""
    rows = ray.data.range(3)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def call(name: str, address: str) -> str:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(Error) as raised:
            CALLS[name](files / "rnn.onnx", source, rows)
        return str(raised.value)

    return call


def no_cluster(address: str, why: str) -> str:
    return f"there is no Ray cluster at RAY_ADDRESS, {address!r} ({why}): start one, or unset it"


@pytest.mark.parametrize("name", CALLS)
def test_every_call_says_that_nothing_answers(name: str, silent: int, told: Any) -> None:
    for address in (f"127.0.0.1:{silent}", f"ray://127.0.0.1:{silent}"):
        assert told(name, address) == no_cluster(address, "nothing answers within 0.25 s")


def test_a_closed_port_and_a_wrong_one_are_told(closed: int, other: int, told: Any) -> None:
    for address in (f"127.0.0.1:{closed}", f"ray://127.0.0.1:{closed}"):
        assert "Connection refused" in told("scale", address)
    address = f"127.0.0.1:{other}"
    why = f"it is no cluster's own port; one for clients is ray://{address}"
    assert told("scale", address) == no_cluster(address, why)
    assert told("scale", "nonsense") == no_cluster("nonsense", "Invalid address format: nonsense")


def test_what_ray_itself_says_is_one_line(other: int, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "Module: nowhere does not exist. This module was parsed from Address: nowhere://a:1"
    assert told("score_files", "nowhere://a:1") == no_cluster("nowhere://a:1", why)

    def init(**_: Any) -> None:
        raise ConnectionError("no such\ncluster")

    monkeypatch.setattr(ray, "init", init)
    address = f"ray://127.0.0.1:{other}"
    assert told("score_files", address) == no_cluster(address, "no such cluster")
