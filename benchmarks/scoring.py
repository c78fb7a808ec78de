"""A data set from Parquet to Parquet, beside the loops that one would write: python benchmarks/scoring.py

3000 sequences of random lengths, 1 to 100 steps, one thread. The peers read and write with pyarrow as `rnn_runtime.score`
does, which is what `rnn-export score` calls; a round is all of it, from opening the file and the model to the written
results. Before anything is timed each peer's file has to hold what eager PyTorch gives for each row by itself.

    ours    rnn_runtime.score
    single  a loop with one session.run for each row
    padded  64 rows at a time in the file's order, padded to the longest, where the model takes lengths
"""

import argparse
import shutil
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _rounds import machine, measure, put, ratio, serve, session, stale

FOLDER = Path("build/benchmarks/scoring")
CASES = ("LSTM 256", "tagger", "tagger 256")
PEERS = {"ours": "`rnn-export score`", "single": "one run a row", "padded": "64 rows in the file's order"}
ROWS, LONGEST, BATCH = 3000, 100, 64


def build(case: str):
    """The model, and its arguments for an export."""
    import torch

    import rnn_models

    torch.manual_seed(0)
    if case.startswith("LSTM"):
        size = int(case.split()[1])
        return torch.nn.LSTM(size, size).eval(), {"example_inputs": torch.randn(5, 3, size)}
    arguments = rnn_models.get("tagger").export_arguments()
    model = arguments.pop("model")
    if case != "tagger":
        size = int(case.split()[1])
        model = rnn_models.Tagger(vocabulary=1000, embedding_dim=size, hidden_size=size).eval()
    return model, arguments


def prepare(case: str) -> Path:
    """A folder with the bundle, the data set, and what eager PyTorch gives for each row by itself, one after another."""
    import torch

    import rnn_export

    folder = FOLDER / case.replace(" ", "-")
    if not stale(folder / "bundle"):
        return folder
    torch.set_num_threads(1)
    model, arguments = build(case)
    random = np.random.default_rng(0)
    lengths, found = random.integers(1, LONGEST + 1, ROWS), []
    if isinstance(model, torch.nn.LSTM):
        rows = [random.standard_normal((n, model.input_size), np.float32) for n in lengths]
        column = {"input": pa.array([list(row) for row in rows], pa.list_(pa.list_(pa.float32())))}
    else:
        rows = [random.integers(0, model.embedding.num_embeddings, n) for n in lengths]
        column = {"ids": pa.array(rows, pa.list_(pa.int64()))}
    with torch.inference_mode():
        for row in map(torch.from_numpy, rows):
            found.append(model(row)[0] if "input" in column else model(row[None], torch.tensor([len(row)]))[0])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "expected.npy", torch.cat(found).numpy())
    pq.write_table(pa.table({"id": range(ROWS), **column}), folder / "data.parquet")
    rnn_export.export(model, path=folder / "bundle", overwrite=True, **arguments | {"formats": ["onnx"]})
    return folder


def ours(folder: Path, target: Path) -> None:
    import rnn_runtime

    rnn_runtime.score(folder / "bundle", folder / "data.parquet", target, batch=BATCH, threads=1)


def single(folder: Path, target: Path) -> None:
    run = session(folder / "bundle" / "model.onnx").run
    table, found = pq.read_table(folder / "data.parquet"), []
    if "input" in table.column_names:
        width = len(table["input"][0].values[0])
        zeros = np.zeros((1, 1, width), np.float32)
        for row in table["input"]:
            x = row.values.flatten().to_numpy().reshape(-1, 1, width)
            found.append(run(["output"], {"input": x, "h_0": zeros, "c_0": zeros})[0][:, 0])
    else:
        for row in table["ids"]:
            ids = row.values.to_numpy()
            found.append(run(["logits"], {"ids": ids[None], "lengths": np.array([len(ids)])})[0][0])
    write(table, found, target)


def padded(folder: Path, target: Path) -> None:
    run = session(folder / "bundle" / "model.onnx").run
    table, found = pq.read_table(folder / "data.parquet"), []
    if "ids" not in table.column_names:
        raise ValueError("the model takes no lengths")
    rows = [row.values.to_numpy() for row in table["ids"]]
    for batch in (rows[k : k + BATCH] for k in range(0, len(rows), BATCH)):
        lengths = np.array([len(row) for row in batch])
        ids = np.zeros((len(batch), max(lengths)), np.int64)
        for k, row in enumerate(batch):
            ids[k, : len(row)] = row
        logits = run(["logits"], {"ids": ids, "lengths": lengths})[0]
        found += [row[:n] for row, n in zip(logits, lengths, strict=True)]
    write(table, found, target)


def write(table: pa.Table, found: list[np.ndarray], target: Path) -> None:
    """What the loops write: the ids, and a column of lists of lists."""
    column = pa.array([list(row) for row in found], pa.list_(pa.list_(pa.float32())))
    target.mkdir()
    pq.write_table(pa.table({"id": table["id"], "output": column}), target / "part.parquet")


RUNS = {"ours": ours, "single": single, "padded": padded}


def setup(peer: str, folder: str):
    run, target = RUNS[peer], Path(folder) / f"out-{peer}"

    def one_round() -> float:
        shutil.rmtree(target, ignore_errors=True)
        start = time.perf_counter()
        run(Path(folder), target)
        return (time.perf_counter() - start) / ROWS

    one_round()
    check(Path(folder), target)
    return one_round


def check(folder: Path, target: Path) -> None:
    given, table = pq.read_table(folder / "data.parquet"), pq.read_table(target)
    assert table["id"].to_pylist() == list(range(ROWS))
    found = table.columns[1].combine_chunks()
    np.testing.assert_array_equal(found.value_lengths(), given.columns[1].combine_chunks().value_lengths())
    expected = np.load(folder / "expected.npy")
    np.testing.assert_allclose(
        found.flatten().flatten().to_numpy().reshape(expected.shape), expected, rtol=0, atol=1e-5
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    chosen = parser.parse_args()
    lines = [machine(), "", "| model | rows per second | ÷ " + " | ÷ ".join(list(PEERS.values())[1:]) + " |"]
    lines.append("|---|" + "---|" * len(PEERS))
    print("\n".join(lines))
    for case in chosen.cases:
        found = measure(__file__, PEERS, str(prepare(case)), rounds=chosen.rounds)
        cells = [f"{1 / statistics.median(found['ours']):,.0f}"]
        for peer in list(PEERS)[1:]:
            cells.append(
                "{:.2f} ({:.2f} to {:.2f})".format(*ratio(found["ours"], found[peer])) if peer in found else "-"
            )
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if chosen.write:
        put("scoring", "\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(setup, *sys.argv[2:])
    else:
        main()
