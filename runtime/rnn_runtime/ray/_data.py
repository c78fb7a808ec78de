"""Data sets: the scorer of one process, held by each of many workers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _errors
from .._errors import Error, InputError
from .._score import Part, Scored, Scorer, plan, run_part
from .._score.files import PART_ROWS, WINDOW_ROWS, Progress, claimed, unfinished
from ._cluster import connected, package, reachable

if TYPE_CHECKING:
    import pyarrow
    import ray.data


class Score:
    """What a worker of `Dataset.map_batches` holds: a loaded model, which takes tables of Arrow."""

    def __init__(self, bundle: str, options: dict[str, Any]) -> None:
        self._scorer = Scorer(bundle, **options)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """The results of a table's rows, in their order."""
        return self._scorer(table)


def score(
    dataset: ray.data.Dataset,
    bundle: str | Path,
    *,
    workers: int | tuple[int, int] = 1,
    window: int = WINDOW_ROWS,
    batch: int = 64,
    outputs: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int = 1,
    **remote: Any,
) -> ray.data.Dataset:
    """Run a model over the sequences of a Ray data set, lazily, as `Dataset.map_batches` does.

    Columns and results are those of `rnn_runtime.score`. Rows that a killed worker had are run again by another, and no
    row is lost or twice there. As with any data set of Ray's, rows come in order where its context preserves order.

    Args:
        dataset: a row is one sequence.
        bundle: a bundle folder or an .onnx file, under a path that all workers see.
        workers: how many processes hold the model, or at least and at most how many.
        window: how many rows are grouped by length at a time.
        batch: how many rows run together at most.
        outputs: as for `rnn_runtime.score`.
        device: as for `rnn_runtime.load`; for a GPU give `num_gpus` too.
        threads: for one operator in one worker, which takes as many of the cluster's processors.
        remote: what `map_batches` takes for its workers, such as num_gpus=1 or memory.

    Raises:
        InputError: a column is missing or does not fit.
        BundleError, DependencyError, DeviceError: as `rnn_runtime.load`.
        Error: no cluster answers at RAY_ADDRESS.
    """
    found = reachable()
    options: dict[str, Any] = {"batch": batch, "outputs": outputs, "device": device, "threads": threads}
    scorer = Scorer(bundle, **{**options, "device": "cpu"})  # what is wrong is said here, and not by a worker
    if (schema := dataset.schema(fetch_if_missing=False)) is not None and isinstance(schema.base_schema, _schemas()):
        scorer.schema(schema.base_schema)
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    _require_workers(least, most)
    return dataset.map_batches(
        Score,
        fn_constructor_args=(str(Path(bundle).resolve()), options),
        batch_size=window,
        batch_format="pyarrow",
        compute=found.data.ActorPoolStrategy(min_size=least, max_size=most),
        udf_modifying_row_count=False,
        **{"num_cpus": threads, **remote},
    )


class ScorePart:
    """A worker that makes parts of files: what it gives back is what became of one, for the driver."""

    def __init__(self, bundle: str, options: dict[str, Any], folder: str) -> None:
        self._scorer, self._folder = Scorer(bundle, **options), Path(folder)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the part, if no worker has that died before it could tell."""
        part = Part(
            row["name"], row["source"], (int(row["begin"]), int(row["end"])), int(row["first"]), int(row["rows"])
        )
        try:
            if unfinished(self._folder, [part]):
                for _ in run_part(self._scorer, part, self._folder):
                    pass
        except Error as error:  # another worker would fail alike
            return {"rows": 0, "error": type(error).__name__, "text": str(error)}
        return {"rows": part.rows, "error": "", "text": ""}


def score_files(
    bundle: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    workers: int | None = None,
    batch: int = 64,
    outputs: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    part_rows: int = PART_ROWS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Scored:
    """`rnn_runtime.score` with its parts shared among the workers of a Ray cluster; the results are the same files.

    The cluster is the one that the process is connected to, the one that RAY_ADDRESS names, or else one of this machine
    that ends with the call. Bundle, source and target are paths that all workers see. A part whose worker is killed is
    made by another.

    Args:
        bundle: as for `rnn_runtime.score`, and so are source, target, batch, outputs, device and what is not here.
        source: the input.
        target: the folder for the results.
        workers: how many; None takes one for each processor of the cluster, and no more than there are parts.
        batch: how many rows run together at most.
        outputs: by name.
        device: for a GPU, each worker asks the cluster for one.
        threads: for one operator in one worker; 1 if None.
        part_rows: what is given to one worker at a time, to a row group.
        overwrite: begin anew where `target` has results of other arguments.
        progress: called after each part.

    Raises:
        DependencyError: ray or pyarrow is missing.
        InputError, BundleError, DeviceError, Error: as `rnn_runtime.score`; no cluster answers at RAY_ADDRESS.
    """
    threads = threads or 1
    options: dict[str, Any] = {"batch": batch, "outputs": outputs, "device": device, "threads": threads}
    scorer = Scorer(bundle, **{**options, "device": "cpu"})
    folder = Path(target).resolve()
    parts, record = plan(scorer, bundle, source, part_rows)
    package()
    if workers is not None:
        _require_workers(workers, workers)
    with claimed(folder, record, overwrite):
        left = unfinished(folder, parts)
        total = sum(part.rows for part in parts)
        done = total - sum(part.rows for part in left)
        if left:
            with connected() as ray, _quiet(ray):
                processors = int(ray.cluster_resources().get("CPU", 1)) // threads
                count = min(len(left), workers or max(1, processors))
                rows = [{**asdict(part), "begin": part.groups[0], "end": part.groups[1]} for part in left]
                made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                    ScorePart,
                    fn_constructor_args=(str(Path(bundle).resolve()), options, str(folder)),
                    compute=ray.data.ActorPoolStrategy(size=count),
                    num_cpus=threads,
                    num_gpus=1 if device.startswith("cuda") else None,
                )
                for row in made.iter_rows():
                    if row["error"]:
                        raise getattr(_errors, row["error"], Error)(row["text"])
                    done += int(row["rows"])
                    if progress is not None:
                        progress("rows", done, total)
    return Scored(folder, len(parts), total, len(parts) - len(left))


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Without Ray's own bars and lines of progress."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


def _require_workers(least: object, most: object) -> None:
    if not (isinstance(least, int) and isinstance(most, int) and 1 <= least <= most):
        raise InputError(f"workers is {(least, most) if least != most else least!r}; expected 1 or more")


def _schemas() -> Any:
    import pyarrow

    return pyarrow.Schema
