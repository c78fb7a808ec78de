"""Scoring of Parquet files: each row as it is alone, in order, whatever stops a run, and each bad row by its number."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="the extra score brings it")
pq = pytest.importorskip("pyarrow.parquet")

import rnn_runtime  # noqa: E402
from rnn_runtime import Error, InputError, LimitSpec, Signature  # noqa: E402
from rnn_runtime._score import Scorer, columns  # noqa: E402

X = pa.list_(pa.list_(pa.float32()))
TOLERANCE = 1e-6  # between a row in a batch and alone: the fixtures' RNN differs in the last bit


def sequences(count: int, seed: int = 0, most: int = 12) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((n, 4)).astype(np.float32) for n in random.integers(1, most + 1, count)]


def table(xs: list[np.ndarray], kind: Any = X, **more: Any) -> Any:
    return pa.table({"id": pa.array(range(len(xs)), pa.int64()), "x": pa.array([x.tolist() for x in xs], kind), **more})


def arrays(found: Any, name: str) -> list[np.ndarray]:
    return [np.array(row, np.float32) for row in found[name].to_pylist()]


def alone(path: Path, xs: list[np.ndarray], output: str = "output") -> list[np.ndarray]:
    model = rnn_runtime.load(path)
    return [model.run(x[:, None])[output][:, 0] for x in xs]


def differ(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert [a.shape for a in found] == [b.shape for b in expected]
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["rnn.onnx", "packed.onnx", "peeks.onnx"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_each_row_is_as_it_is_alone_and_in_its_place(name: str, batch: int, files: Path) -> None:
    xs = sequences(100)
    scorer = Scorer(files / name, batch=batch, outputs=["h_n", "output"])
    found = scorer(table(xs, label=pa.array([f"row {k}" for k in range(100)])))
    assert found.column_names == ["id", "label", "h_n", "output"]
    assert found["id"].to_pylist() == list(range(100)) and found["label"][99].as_py() == "row 99"
    assert differ(arrays(found, "output"), alone(files / name, xs)) < TOLERANCE
    assert differ(arrays(found, "h_n"), alone(files / name, xs, "h_n")) < TOLERANCE


def batches_of(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of x that the model gets from now on."""
    shapes: list[tuple[int, ...]] = []
    run = type(scorer.model).run

    def spy(self: Any, feeds: Any, *rest: Any, **more: Any) -> Any:
        shapes.append(feeds["x"].shape)
        return run(self, feeds, *rest, **more)

    monkeypatch.setattr(type(scorer.model), "run", spy)
    return shapes


def test_rows_are_padded_where_that_changes_nothing(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(files / "packed.onnx", batch=10)
    shapes = batches_of(scorer, monkeypatch)
    scorer(table(sequences(100)))
    assert len([s for s in shapes if s[1] == 10]) == 10  # four of which were tried beside each of their rows alone
    assert len([s for s in shapes if s[1] == 1]) in (30, 40)  # a batch of one length needs no trial


@pytest.mark.parametrize("name", ["rnn.onnx", "peeks.onnx"])
def test_rows_that_must_not_see_padding_never_do(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(files / name, batch=64)
    scorer(table(sequences(60, seed=1)))  # finds it out of the model that has lengths and looks past them
    shapes = batches_of(scorer, monkeypatch)
    xs = sequences(100)
    scorer(table(xs))
    lengths = [len(x) for x in xs]
    assert sorted(shapes) == sorted((n, lengths.count(n), 4) for n in set(lengths))


@pytest.mark.parametrize(
    "says", [{"verified": {"lacking": {"rows": "row 1 changes row 0"}}}, {"operators": {"DynamicQuantizeLinear": 2}}]
)
def test_rows_that_would_change_each_other_run_alone(
    says: dict[str, Any],
    bundle: Path,
    reseal: Callable[..., Path],
    rnn_signature: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reseal(bundle, signature=rnn_signature, **says)
    scorer = Scorer(bundle)
    shapes = batches_of(scorer, monkeypatch)
    scorer(table(sequences(20)))
    assert {shape[1] for shape in shapes} == {1}


def test_scalars_states_and_lengths_have_columns_too(files: Path) -> None:
    random = np.random.default_rng(3)
    ids = [random.integers(0, 5, n) for n in (5, 2, 3, 5, 1, 4, 3, 2)]
    gain = random.standard_normal(8).astype(np.float32)
    states = {name: random.standard_normal((8, 1, 3)).astype(np.float32) for name in ("h_0", "c_0")}
    lengths = np.array([3, 2, 1, 5, 1, 2, 3, 1], np.int32)
    given = {
        "ids": pa.array([row.tolist() for row in ids], pa.large_list(pa.int64())),
        "gain": pa.array(gain),
        "lengths": pa.array(lengths),
        **{name: pa.array(a.tolist(), pa.list_(pa.list_(pa.float32(), 3), 1)) for name, a in states.items()},
    }
    found = Scorer(files / "words.onnx", outputs=["output", "c_n"])(pa.table(given))
    assert found.column_names == ["output", "c_n"]
    model = rnn_runtime.load(files / "words.onnx")
    for k, row in enumerate(ids):
        state = {name: a[k][None].swapaxes(0, 1) for name, a in states.items()}
        one = model.run({"ids": row[None, : lengths[k]], "gain": gain[k : k + 1]}, state=state)
        assert np.abs(arrays(found, "output")[k] - one["output"][0]).max() < TOLERANCE
        assert np.abs(arrays(found, "c_n")[k] - one["c_n"][:, 0]).max() < TOLERANCE


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6), st.integers(0, 2), st.data())
def test_arrays_become_columns_and_columns_arrays(
    shapes: list[tuple[int, int]], rank: int, data: st.DataObject
) -> None:
    made = [np.arange(np.prod(shape[:rank]), dtype=np.int64).reshape(shape[:rank]) for shape in shapes]
    column = pa.chunked_array([columns.column("x", made, "int64", rank)])
    assert column.type == columns.kind("int64", rank)
    assert column.to_pylist() == [array.tolist() for array in made]
    start = data.draw(st.integers(0, len(made)))
    part, kept = column.slice(start), made[start:]  # offsets that do not begin at 0
    axes = ("a", "b")[:rank]
    if any(0 in array.shape for array in kept):
        with pytest.raises(InputError, match="empty along"):
            columns.rows("x", part, "int64", axes, 0)
    else:
        read = columns.rows("x", part, "int64", axes, 0)
        assert all(np.array_equal(a, b) for a, b in zip(read, kept, strict=True)) and len(read) == len(kept)


def nth(wrong: Any) -> list[Any]:
    """Two good rows, and a third."""
    return [[[1.0] * 4], [[1.0] * 4] * 2, wrong]


BAD = {
    "null row": (nth(None), X, "row 2 of the column 'x' is or holds a null"),
    "null step": (nth([[1.0] * 4, None]), X, "row 2 of the column 'x' is or holds a null"),
    "null value": (nth([[1.0, None, 1.0, 1.0]]), X, "row 2 of the column 'x' is or holds a null"),
    "ragged": (nth([[1.0] * 4, [1.0] * 3]), X, "row 2 of the column 'x' is ragged: one of its inner lists has 4"),
    "wide": (nth([[1.0] * 5]), X, "row 2 of the column 'x' has size 5; the model takes 4"),
    "empty": (nth([]), X, "row 2 of the column 'x' is empty along 'sequence'"),
    "double": (nth([[1.0] * 4]), pa.list_(pa.list_(pa.float64())), "takes float32: cast it to list<list<float32>>"),
    "flat": ([[1.0] * 4], pa.list_(pa.float32()), "is 1 lists deep"),
    "deep": ([[[[1.0] * 4] * 4]], pa.list_(X), "takes float32: cast it to list<list<float32>>"),
    "text": (["1"], pa.string(), "is 0 lists deep, of string; expected 2, list<list<float32>>"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_does_not_fit_is_named(name: str, files: Path, tmp_path: Path) -> None:
    values, kind, text = BAD[name]
    pq.write_table(pa.table({"x": pa.array(values, kind)}), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=r"^bad\.parquet: ") as caught:
        rnn_runtime.score(files / "packed.onnx", tmp_path / "bad.parquet", tmp_path / "out")
    assert text in str(caught.value)
    assert not list((tmp_path / "out").glob("*.parquet")) and not list((tmp_path / "out").glob(".part-*"))


def test_columns_that_do_not_fit_are_said_before_anything_is_written(files: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out"

    def refused(made: Any, text: str, **options: Any) -> None:
        pq.write_table(made, source)
        with pytest.raises(InputError, match=text):
            rnn_runtime.score(files / "rnn.onnx", source, target, **options)
        assert not target.exists()

    xs = sequences(3)
    refused(pa.table({"y": [1]}), r"there is no column 'x' for x: float32\[sequence, batch, 4\]; the columns are 'y'")
    refused(table(xs, output=pa.array([1, 2, 3])), "'output' is a column and an output of the model")
    refused(table(xs), "there is no output 'z'; the outputs are output, h_n", outputs=["z"])
    refused(table(xs), "batch is 0; expected 1 or more", batch=0)
    refused(table(xs), "part_rows is 0", part_rows=0)
    source.write_text("no Parquet")
    with pytest.raises(InputError, match=r"in\.parquet cannot be read as Parquet"):
        rnn_runtime.score(files / "rnn.onnx", source, target)
    with pytest.raises(InputError, match="is no Parquet file and no folder with"):
        rnn_runtime.score(files / "rnn.onnx", tmp_path / "nowhere", target)
    with pytest.raises(InputError, match="needs the axis 'batch' once"):
        Scorer(files / "two_inputs.onnx")
    with pytest.raises(InputError, match=r"the output found: int64\[2, n\] has no 'batch'"):
        Scorer(files / "ids.onnx")


def test_a_length_out_of_its_row_and_an_id_out_of_range_are_named(files: Path) -> None:
    given = {"ids": pa.array([[1, 2], [3]], pa.list_(pa.int64())), "gain": pa.array([1.0, 1.0], pa.float32())}
    scorer = Scorer(files / "words.onnx")
    with pytest.raises(InputError, match="row 11: lengths is 2; a length is 1 to 1"):
        scorer(pa.table(given | {"lengths": pa.array([1, 2])}), first=10)
    given["ids"] = pa.array([[1, 2], [3, 9]], pa.list_(pa.int64()))
    with pytest.raises(Error, match="row 11: ONNX Runtime failed"):
        scorer(pa.table(given), first=10)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """Two files of five and two row groups of 40 rows, and one of none."""
    folder, xs = tmp_path / "in", sequences(280)
    folder.mkdir()
    pq.write_table(table(xs[:200]), folder / "a.parquet", row_group_size=40)
    pq.write_table(table(xs[200:]), folder / "b.parquet", row_group_size=40)
    pq.write_table(table([]), folder / "c.parquet")
    return folder, xs


def check(files: Path, target: Path, xs: list[np.ndarray]) -> None:
    found = pq.read_table(target)
    assert found["id"].to_pylist() == [*range(200), *range(80)]
    assert differ(arrays(found, "output"), alone(files / "packed.onnx", xs)) < TOLERANCE


def test_files_to_files_and_a_second_run_makes_what_is_missing(
    source: tuple[Path, list[np.ndarray]], files: Path, tmp_path: Path
) -> None:
    folder, xs = source
    target, told = tmp_path / "out", list[tuple[int, int]]()
    run = (files / "packed.onnx", folder, target)
    done = rnn_runtime.score(*run, part_rows=80, progress=lambda what, n, total: told.append((n, total)))
    assert (done.rows, done.parts, done.kept) == (280, 5, 0)
    assert told[-1] == (280, 280) and told == sorted(told)
    assert sorted(p.name for p in target.glob("[!.]*")) == ["_SUCCESS", "_score.json"] + [
        f"part-0000{k}.parquet" for k in range(5)
    ]
    rows = [pq.read_metadata(target / f"part-0000{k}.parquet").num_rows for k in range(5)]
    assert rows == [80, 80, 40, 80, 0]
    check(files, target, xs)
    before = {path.name: path.stat().st_mtime_ns for path in target.glob("part-*")}
    (target / "part-00001.parquet").unlink()
    assert rnn_runtime.score(*run, part_rows=80).kept == 4
    after = {path.name: path.stat().st_mtime_ns for path in target.glob("part-*")}
    assert {name for name in before if after[name] != before[name]} == {"part-00001.parquet"}
    check(files, target, xs)


def test_a_folder_of_something_else_is_left_alone(
    source: tuple[Path, list[np.ndarray]], files: Path, tmp_path: Path
) -> None:
    folder, xs = source
    target = tmp_path / "out"
    target.mkdir()
    (target / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"has something else in it, 'letter\.txt'"):
        rnn_runtime.score(files / "packed.onnx", folder, target, overwrite=True)
    (target / "letter.txt").unlink()
    rnn_runtime.score(files / "packed.onnx", folder, target)
    for other in ((files / "rnn.onnx", folder), (files / "packed.onnx", folder / "a.parquet")):
        with pytest.raises(InputError, match="has results of another model, other inputs or other options"):
            rnn_runtime.score(*other, target)
    check(files, target, xs)
    assert rnn_runtime.score(files / "packed.onnx", folder, target, part_rows=1, overwrite=True).parts == 8
    check(files, target, xs)


def test_two_runs_at_once_do_not_meet(source: tuple[Path, list[np.ndarray]], files: Path, tmp_path: Path) -> None:
    folder, xs = source
    target = tmp_path / "out"

    def second(what: str, done: int, total: int) -> None:
        with pytest.raises(InputError, match="another run is writing to"):
            rnn_runtime.score(files / "packed.onnx", folder, target)

    rnn_runtime.score(files / "packed.onnx", folder, target, progress=second)
    check(files, target, xs)


KILLED = """
import os, signal, sys, rnn_runtime, rnn_runtime._score.files as files
files.WINDOW_ROWS = files._READ_ROWS = 40
def progress(what, done, total):
    if done == 120:  # the first part is there, and half of the second lies in its unfinished file
        os.kill(os.getpid(), signal.SIGKILL)
rnn_runtime.score(*sys.argv[1:], part_rows=80, progress=progress)
"""


def test_a_run_that_is_killed_is_gone_on_with(
    source: tuple[Path, list[np.ndarray]], files: Path, tmp_path: Path
) -> None:
    folder, xs = source
    target = tmp_path / "out"
    arguments = [str(files / "packed.onnx"), str(folder), str(target)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in target.glob("part-*")] == ["part-00000.parquet"]
    assert len(list(target.glob(".part-*"))) == 1 and not (target / "_SUCCESS").exists()
    assert rnn_runtime.score(*arguments, part_rows=80).kept == 1
    assert not list(target.glob(".part-*")) and (target / "_SUCCESS").exists()
    check(files, target, xs)


def test_a_part_that_is_not_what_was_written_is_made_again(
    source: tuple[Path, list[np.ndarray]], files: Path, tmp_path: Path
) -> None:
    folder, xs = source
    arguments = (files / "packed.onnx", folder, tmp_path / "out")
    parts = rnn_runtime.score(*arguments, part_rows=80).parts
    assert parts > 2
    whole = [(tmp_path / "out" / f"part-{k:05}.parquet").read_bytes() for k in range(3)]
    for k, data in enumerate((whole[0][:-1], whole[1][:40] + bytes([whole[1][40] ^ 1]) + whole[1][41:], b"")):
        (tmp_path / "out" / f"part-{k:05}.parquet").write_bytes(data)
    assert rnn_runtime.score(*arguments, part_rows=80).kept == parts - 3
    check(files, tmp_path / "out", xs)
    lines = (tmp_path / "out" / "_SUCCESS").read_text().splitlines()
    assert len(lines) == parts
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


def test_an_input_that_changed_at_the_same_size_is_found(files: Path, tmp_path: Path) -> None:
    def write(value: float) -> None:
        pq.write_table(table([np.full((2, 4), value, np.float32)]), tmp_path / "in.parquet", write_statistics=False)

    write(0.25)
    before = (tmp_path / "in.parquet").read_bytes()
    rnn_runtime.score(files / "packed.onnx", tmp_path / "in.parquet", tmp_path / "out")
    write(0.5)
    after = (tmp_path / "in.parquet").read_bytes()
    assert len(before) == len(after) and before[-64:] == after[-64:] and before != after
    with pytest.raises(InputError, match="has results of another model, other inputs or other options"):
        rnn_runtime.score(files / "packed.onnx", tmp_path / "in.parquet", tmp_path / "out")


EACH = """
import os, sys
import numpy, onnxruntime, pyarrow.parquet, rnn_runtime, rnn_runtime._score.files
from rnn_runtime import _replace
target, left, fsync = sys.argv[3], [0], os.fsync
def count():
    if left[0]:
        left[0] -= 1
        if not left[0]:
            os._exit(9)
def hook(event, arguments):
    if left[0] and event in ("open", "os.rename", "os.remove", "os.mkdir") and target in map(str, arguments[:2]) or (
        left[0] and event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(target)
    ):
        count()
def synced(number):
    count()
    fsync(number)
    count()
os.fsync = synced
sys.addaudithook(hook)
for k in range(1, 500, int(sys.argv[4])):
    if os.fork() == 0:
        left[0] = k
        rnn_runtime.score(*sys.argv[1:4], part_rows=120, threads=1)
        left[0] = 0
        os._exit(0)
    if os.WEXITSTATUS(os.wait()[1]) == 0:
        print(k)
        break
    if os.path.exists(os.path.join(target, "_SUCCESS")):  # then all of them are there, and whole
        left[0] = 0
        lines = open(os.path.join(target, "_SUCCESS")).read().split()
        import hashlib
        for digest, name in zip(lines[::2], lines[1::2], strict=True):
            assert hashlib.sha256(open(os.path.join(target, name), "rb").read()).hexdigest() == digest, name
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_run_killed_at_any_write_is_gone_on_with(
    source: tuple[Path, list[np.ndarray]], files: Path, tmp_path: Path
) -> None:
    folder, xs = source
    target = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", EACH, str(files / "packed.onnx"), str(folder), str(target), "2"]
    done = subprocess.run(command, env=environment, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15
    assert not list(target.glob("*.partial")) and not list(target.glob(".part-*"))
    check(files, target, xs)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    batch=st.integers(1, 5),
    group=st.integers(1, 5),
    part=st.integers(1, 8),
)
def test_any_cut_into_groups_parts_and_batches_gives_the_same(
    lengths: list[int], batch: int, group: int, part: int, files: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    xs = [np.full((n, 4), k / 10, np.float32) for k, n in enumerate(lengths)]
    pq.write_table(table(xs), folder / "in.parquet", row_group_size=group)
    rnn_runtime.score(files / "packed.onnx", folder / "in.parquet", folder / "out", batch=batch, part_rows=part)
    found = pq.read_table(folder / "out")
    assert found["id"].to_pylist() == list(range(len(xs)))
    assert differ(arrays(found, "output"), alone(files / "packed.onnx", xs)) < TOLERANCE


def test_the_record_tells_what_the_results_are_made_of(
    source: tuple[Path, list[np.ndarray]], files: Path, tmp_path: Path
) -> None:
    rnn_runtime.score(files / "packed.onnx", source[0], tmp_path / "out")
    record = json.loads((tmp_path / "out" / "_score.json").read_text())
    assert [(item["name"], item["rows"]) for item in record["inputs"]] == [
        ("a.parquet", 200), ("b.parquet", 80), ("c.parquet", 0),
    ]  # fmt: skip
    assert record["parts"][1] == {
        "name": "part-00001.parquet", "source": "b.parquet", "groups": [0, 2], "first": 0, "rows": 80,
    }  # fmt: skip


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_damaged_page_is_told_of_its_file_and_nothing_of_the_part_stays(
    files: Path, tmp_path: Path, compression: str
) -> None:
    pq.write_table(table(sequences(300)).drop_columns(["id"]), tmp_path / "in.parquet", compression=compression)
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    data[4:90] = bytes(range(100, 186))  # the header of the first page, and more
    (tmp_path / "in.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"in\.parquet: its rows cannot be read \(.+\): check the file"):
        rnn_runtime.score(files / "rnn.onnx", tmp_path / "in.parquet", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "_score.json"}


def test_a_length_too_large_for_its_type_is_told(files: Path) -> None:
    lengths = pa.array([2, 2**63 + 1], pa.uint64())
    with pytest.raises(InputError, match="the column 'lengths' does not fit int64"):
        Scorer(files / "packed.onnx")(table(sequences(2), lengths=lengths))


def test_a_run_that_was_killed_before_it_had_written_its_record_goes_on(files: Path, tmp_path: Path) -> None:
    pq.write_table(table(sequences(3)), tmp_path / "in.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "._score.json.partial").write_text("{")
    found = rnn_runtime.score(files / "rnn.onnx", tmp_path / "in.parquet", tmp_path / "out")
    assert (found.rows, found.kept) == (3, 0)
    assert not (tmp_path / "out" / "._score.json.partial").exists()


def test_the_only_axis_of_a_bare_file_is_not_taken_for_its_rows(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, output = (rnn_runtime.TensorSpec(name, "float32", ("steps", 1, 4)) for name in ("x", "output"))
    bare = replace(rnn_runtime.load(files / "features.onnx"), signature=rnn_runtime.Signature((x,), (output,)))
    monkeypatch.setattr("rnn_runtime._score.scorer.load", lambda *_, **__: bare)
    with pytest.raises(InputError, match="every input needs the axis 'batch' once"):
        Scorer(files / "features.onnx")


def test_what_comes_again_is_written_with_a_dictionary_and_floats_are_not(files: Path, tmp_path: Path) -> None:
    xs = sequences(30)
    labels = pa.array([["noun", "verb"]] * 30)
    pq.write_table(table(xs, labels=labels), tmp_path / "in.parquet")
    rnn_runtime.score(files / "rnn.onnx", tmp_path / "in.parquet", tmp_path / "out", outputs=["output"])
    group = pq.read_metadata(tmp_path / "out" / "part-00000.parquet").row_group(0)
    found = {group.column(k).path_in_schema: group.column(k).has_dictionary_page for k in range(group.num_columns)}
    assert found == {"id": True, "labels.list.element": True, "output.list.element.list.element": False}


def test_rows_run_together_within_the_limits(
    bundle: Path, rnn_signature: Signature, reseal: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(*limits: LimitSpec) -> Scorer:
        return Scorer(reseal(bundle, signature=replace(rnn_signature, limits=limits)), batch=5)

    seen: list[int] = []
    run = rnn_runtime.Model.run

    def watched(self: Any, inputs: Any, **more: Any) -> Any:
        seen.append(inputs["x"].shape[1])
        return run(self, inputs, **more)

    monkeypatch.setattr(rnn_runtime.Model, "run", watched)
    rows = [np.zeros((4, 4), np.float32)] * 7
    assert limited(LimitSpec("batch", 1, 3))(table(rows)).num_rows == 7
    assert seen == [3, 3, 1]
    with pytest.raises(InputError, match=r"exported for 2 or more: .*; here use Model.run"):
        limited(LimitSpec("batch", 2))
    scorer = limited(LimitSpec("sequence", 3, 6))
    for steps in (3, 6):
        scorer(table([np.zeros((steps, 4), np.float32)]))
    for steps in (2, 7):
        with pytest.raises(InputError, match=rf"row 1: 'x' has size {steps} along 'sequence'; .* exported for 3 to 6"):
            scorer(table([np.zeros((3, 4), np.float32), np.zeros((steps, 4), np.float32)]))
