"""Data sets over two workers, one of which is killed on the way: every row is there once, and as it is alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="make test-ray brings it")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

import ray.data  # noqa: E402

import rnn_runtime  # noqa: E402
import rnn_runtime.ray  # noqa: E402
from rnn_runtime import InputError  # noqa: E402

X = pa.list_(pa.list_(pa.float32()))
ROWS = 400


def slowly(batch: Any) -> Any:
    """Sequences for ids, at a rate that leaves time for something to go wrong meanwhile."""
    time.sleep(0.2)
    xs = []
    for n in batch["id"].to_pylist():
        random = np.random.default_rng(n)
        xs.append(random.standard_normal((random.integers(1, 13), 4)).astype(np.float32).tolist())
    return pa.table({"id": batch["id"], "x": pa.array(xs, X)})


def rows(count: int = ROWS) -> Any:
    made = ray.data.range(count, override_num_blocks=count // 10)
    return made.map_batches(slowly, batch_size=10, batch_format="pyarrow", num_cpus=0.5)


def check(found: dict[int, Any], files: Path, sequence: Callable[[int], Any], name: str = "packed.onnx") -> None:
    model = rnn_runtime.load(files / name)
    for n, output in found.items():
        expected = model.run(sequence(n)[:, None])["output"][:, 0]
        assert output.shape == expected.shape and np.abs(output - expected).max() < 1e-6


def disturb(how: str, workers: Any) -> int:
    if how == "worker":
        return workers.kill("MapBatches(Score)")
    workers.lose_node()
    return 0


@pytest.mark.parametrize("how", ["worker", "node"])
def test_a_data_set_whose_worker_or_node_is_lost(
    how: str, workers: Any, files: Path, sequence: Callable[[int], Any]
) -> None:
    scored = rnn_runtime.ray.score(rows(), files / "packed.onnx", workers=2, window=10)
    found: dict[int, Any] = {}
    victim = None
    for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for n, output in zip(batch["id"].to_pylist(), batch["output"].to_pylist(), strict=True):
            assert n not in found, "a row is there twice"
            found[n] = np.array(output, np.float32)
        if victim is None:
            assert len(found) < ROWS / 2
            victim = disturb(how, workers)
    assert victim not in workers.processes("MapBatches(Score)")
    assert sorted(found) == list(range(ROWS))
    check(found, files, sequence)


def test_parquet_in_and_out(workers: Any, files: Path, sequence: Callable[[int], Any], tmp_path: Path) -> None:
    xs = [sequence(n) for n in range(100)]
    made = pa.table({"id": range(100), "x": pa.array([x.tolist() for x in xs], X)})
    pq.write_table(made, tmp_path / "in.parquet", row_group_size=20)
    dataset = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    scored = rnn_runtime.ray.score(dataset, files / "rnn.onnx", outputs=["h_n", "output"])
    scored.write_parquet(str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out").sort_by("id")
    assert found.column_names == ["id", "h_n", "output"] and found["id"].to_pylist() == list(range(100))
    check(dict(enumerate(np.array(r, np.float32) for r in found["output"].to_pylist())), files, sequence, "rnn.onnx")


def test_what_does_not_fit_is_said_before_anything_runs(workers: Any, files: Path) -> None:
    dataset = ray.data.from_arrow(pa.table({"y": [1.0]}))
    with pytest.raises(InputError, match="there is no column 'x'"):
        rnn_runtime.ray.score(dataset, files / "rnn.onnx")
    with pytest.raises(InputError, match="there is no output 'z'"):
        rnn_runtime.ray.score(dataset, files / "rnn.onnx", outputs=["z"])
    with pytest.raises(InputError, match="workers is 0"):
        rnn_runtime.ray.score(rows(10), files / "rnn.onnx", workers=0)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, sequence: Callable[[int], Any]) -> tuple[Path, list[Any]]:
    """A file of 16 row groups."""
    path, xs = tmp_path_factory.mktemp("many") / "in.parquet", [sequence(n) for n in range(2000)] * 8
    made = pa.table({"id": range(len(xs)), "x": pa.array([x.tolist() for x in xs], X)})
    pq.write_table(made, path, row_group_size=1000)
    return path, xs


def test_files_whose_worker_is_killed_are_as_those_of_one_process(
    workers: Any, files: Path, many: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    told, victims = list[int](), set[int]()

    def progress(what: str, done: int, total: int) -> None:
        told.append(done)
        if not victims:
            victims.add(workers.kill("Map(ScorePart)"))

    arguments = (files / "rnn.onnx", many[0])
    done = rnn_runtime.ray.score_files(
        *arguments, tmp_path / "ray", workers=2, batch=1, part_rows=1000, progress=progress
    )
    assert (done.rows, done.parts, done.kept) == (16000, 16, 0)
    assert victims and told == sorted(told) and told[0] < 16000 and told[-1] == 16000
    assert not list((tmp_path / "ray").glob(".part-*"))
    rnn_runtime.score(*arguments, tmp_path / "one", batch=1, part_rows=1000)
    names = [path.name for path in sorted((tmp_path / "one").glob("part-*"))]
    assert len(names) == 16
    for name in (*names, "_score.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    # One run goes on with what the other has made.
    (tmp_path / "one" / "part-00003.parquet").unlink()
    assert rnn_runtime.ray.score_files(*arguments, tmp_path / "one", batch=1, part_rows=1000).kept == 15
    name = "part-00003.parquet"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


def test_a_bad_row_is_named_by_the_worker_that_meets_it(workers: Any, files: Path, tmp_path: Path) -> None:
    good = [[1.0] * 4]
    pq.write_table(pa.table({"x": pa.array([good] * 25 + [[]], X)}), tmp_path / "in.parquet", row_group_size=10)
    with pytest.raises(InputError, match=r"in\.parquet: row 25 of the column 'x' is empty along 'sequence'"):
        rnn_runtime.ray.score_files(files / "rnn.onnx", tmp_path / "in.parquet", tmp_path / "out", part_rows=10)
    assert not (tmp_path / "out" / "part-00002.parquet").exists() and not (tmp_path / "out" / "_SUCCESS").exists()
