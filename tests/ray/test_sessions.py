"""Sequences in shards over two workers: handed over when the shards change, and told where a process was killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="make test-ray brings it")

import ray
from ray import serve

import rnn_runtime
import rnn_runtime.ray
from rnn_runtime import Error, InputError
from rnn_runtime.ray._sessions import NAMESPACE, owner
from rnn_runtime.serve import Settings


@pytest.fixture(scope="module")
def port(workers: Any) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        free = holder.getsockname()[1]
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": free})
    yield free
    serve.shutdown()


@pytest.fixture
def serving(port: int, files: Path) -> Iterator[Callable[..., Any]]:
    """Start the application with these settings: what posts one chunk of a sequence to it."""
    made = []

    def start(shards: int, path: Path = files / "rnn.onnx", **settings: Any) -> Callable[..., tuple[int, Any]]:
        app = rnn_runtime.ray.application(path, name="rnn", shards=shards, settings=Settings(**settings), num_cpus=0.2)
        serve.run(app, name="rnn")
        made.append(app)
        return lambda *arguments, **more: post(port, *arguments, **more)

    yield start
    if made:
        serve.delete("rnn")
        rnn_runtime.ray.close("rnn")


def post(port: int, key: Any, chunk: np.ndarray, start: bool = False, end: bool = False) -> tuple[int, Any]:
    """Status, and the output (steps, 3) or the error's text."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(chunk), 1, 4], "data": chunk.ravel().tolist()}
    parameters = {"sequence_id": key, "sequence_start": start, "sequence_end": end}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/rnn/infer", body, timeout=60) as answer:
            output = json.loads(answer.read())["outputs"][0]
            return answer.status, np.array(output["data"], np.float32).reshape(-1, 3)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())["error"]


def shards() -> list[str]:
    return sorted(item["name"] for item in ray.util.list_named_actors(all_namespaces=True) if "shard" in item["name"])


def pids() -> dict[str, int]:
    """The process of each shard."""
    return {name: ray.get(ray.get_actor(name, namespace=NAMESPACE).process.remote()) for name in shards()}


def test_the_owner_changes_for_those_alone_whose_shard_goes_or_comes() -> None:
    two, three = ["a", "b"], ["a", "b", "c"]
    owners = {key: (owner(key, two), owner(key, three)) for key in [*range(300), *map(str, range(300))]}
    assert all(after in (before, "c") for before, after in owners.values())
    counts = [sum(after == shard for _, after in owners.values()) for shard in three]
    assert min(counts) > 140 and owners[7] is not owners["7"]


def test_sequences_go_on_while_shards_come_and_go(serving: Any, files: Path) -> None:
    push = serving(2)
    before = set(shards())
    model, stop, found = rnn_runtime.load(files / "rnn.onnx"), threading.Event(), dict[int, Any]()
    opened = threading.Barrier(25, timeout=60)

    def client(k: int) -> None:
        random, xs, ys = np.random.default_rng(k), [], []
        while not (stop.is_set() and xs):
            xs.append(random.standard_normal((random.integers(1, 4), 4)).astype(np.float32))
            status, y = push(k, xs[-1], start=len(xs) == 1)
            if status != 200:
                found[k] = (status, y)
                return
            ys.append(y)
            if len(xs) == 1:
                opened.wait()
            time.sleep(0.02)
        expected = model.run(np.concatenate(xs)[:, None])["output"][:, 0]
        found[k] = float(np.abs(np.concatenate(ys) - expected).max())

    threads = [threading.Thread(target=client, args=(k,)) for k in range(1, 25)]
    for thread in threads:
        thread.start()
    opened.wait()
    told = []
    for count in (3, 1, 2):
        told.append((count, rnn_runtime.ray.scale("rnn", count), set(shards())))
        time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    for count, answer, after in told:
        moved = sum(owner(k, sorted(before)) != owner(k, sorted(after)) for k in range(1, 25))
        assert moved and answer == {"shards": count, "moved": moved}
        assert len(after) == count and len(before & after) == min(len(before), count)
        before = after
    assert len(found) == 24
    assert not {k: v for k, v in found.items() if not (isinstance(v, float) and v < 1e-6)}


def test_a_killed_shard_is_told_and_the_others_go_on(serving: Any, files: Path, workers: Any) -> None:
    push = serving(2)
    model, random = rnn_runtime.load(files / "rnn.onnx"), np.random.default_rng(0)
    xs = {k: random.standard_normal((4, 4)).astype(np.float32) for k in range(1, 25)}
    expected = {k: model.run(x[:, None])["output"][:, 0] for k, x in xs.items()}
    for k, x in xs.items():
        assert push(k, x[:2], start=True)[0] == 200
    lost, *_ = names = shards()
    os.kill(pids()[lost], signal.SIGKILL)
    owners = {k: owner(k, names) for k in xs}
    assert set(owners.values()) == set(names)
    for k, x in xs.items():
        status, answer = push(k, x[2:])
        if owners[k] == lost:
            assert status == 410 and "the process that had the sequences of its shard has ended" in answer
        else:
            assert status == 200 and np.abs(answer - expected[k][2:]).max() < 1e-6
    for k, x in xs.items():
        if owners[k] == lost:
            until = time.monotonic() + 30
            while (answer := push(k, x, start=True, end=True))[0] == 503:  # it was not begun: again
                assert time.monotonic() < until
                time.sleep(0.1)
            assert answer[0] == 200 and np.abs(answer[1] - expected[k]).max() < 1e-6
            status, text = push(k, x)
            assert status == 410 and "begin it again with sequence_start" in text
    # What keeps the list of shards may be killed as well.
    ray.kill(ray.get_actor("rnn/keeper", namespace=NAMESPACE), no_restart=False)
    stays = next(k for k in xs if owners[k] != lost)
    assert rnn_runtime.ray.scale("rnn", 1) == {
        "shards": 1, "moved": sum(owner == names[1] for k, owner in owners.items())
    }  # fmt: skip
    status, answer = push(stays, xs[stays][:1], end=True)
    after = model.run(np.concatenate([xs[stays], xs[stays][:1]])[:, None])["output"][-1:, 0]
    assert status == 200 and np.abs(answer - after).max() < 1e-6


def test_fewer_shards_than_open_sequences_need_are_refused(serving: Any) -> None:
    push, x = serving(2, streams=3), np.zeros((1, 4), np.float32)
    names, counts, opened = shards(), dict.fromkeys(shards(), 0), []
    for k in range(1, 100):
        if counts[owner(k, names)] < 2:
            counts[owner(k, names)] += 1
            assert push(k, x, start=True)[0] == 200
            opened.append(k)
    with pytest.raises(InputError, match=r"2 sequences would move to rnn/shard-[0-9a-f]+, which has room for 1"):
        rnn_runtime.ray.scale("rnn", 1)
    assert shards() == names
    assert [push(k, x, end=True)[0] for k in opened] == [200] * 4
    assert rnn_runtime.ray.scale("rnn", 1) == {"shards": 1, "moved": 0}


def test_shards_of_another_model_are_refused_and_those_there_are_go_on(
    serving: Any, files: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((files / "rnn.onnx").read_bytes())
    push, x = serving(1, path), np.full((1, 4), 0.5, np.float32)
    assert push(5, x, start=True)[0] == 200
    before = shards()
    path.write_bytes((files / "packed.onnx").read_bytes())
    with pytest.raises(Error, match="the bundle was replaced since the application was made"):
        rnn_runtime.ray.scale("rnn", 2)
    assert shards() == before
    status, answer = push(5, x, end=True)
    expected = rnn_runtime.load(files / "rnn.onnx").run(np.stack([x, x]))["output"][-1]
    assert status == 200 and np.abs(answer - expected).max() < 1e-6


def test_faults_are_those_of_the_server(serving: Any, port: int, files: Path) -> None:
    push, x = serving(1), np.zeros((1, 4), np.float32)
    assert push(1, x) == (404, "no sequence 1 is open: begin it with sequence_start")
    assert push(1, x, start=True)[0] == 200
    assert push(1, x, start=True)[0] == 409
    assert push(2, np.zeros((1, 8), np.float32), start=True)[0] == 400
    assert push(None, x)[0] == 400
    assert push(1, x, end=True)[0] == 200
    for path, status in {"/v2/health/ready": 200, "/v2/models/rnn": 200, "/v2/models/no": 404, "/v2": 404}.items():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            with error:
                found = error.code
        assert found == status, path
    with pytest.raises(InputError, match="shards is 0"):
        rnn_runtime.ray.scale("rnn", 0)
    with pytest.raises(InputError, match="there is no application 'nobody'"):
        rnn_runtime.ray.scale("nobody", 2)
    with pytest.raises(InputError, match="has no state, so it has no sequences to serve"):
        rnn_runtime.ray.application(files / "echo.onnx")
