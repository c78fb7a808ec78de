"""Parquet to Parquet, part by part: a part is there whole or not at all, and one that is there is not made again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _replace
from .._bundle import MANIFEST
from .._errors import BundleError, InputError
from .columns import arrow
from .scorer import Scorer

if TYPE_CHECKING:
    import pyarrow

RECORD, DONE = "_score.json", "_SUCCESS"
"""What a folder of results holds beside its parts: what they are made of, and a mark that all are there.

The mark lists the parts and their SHA-256, as `sha256sum --check` reads it. Each part's stands in a file of its own
too, written before the part has its name, so that a part that was cut short is told from a whole one.
"""

PART_ROWS = 65536
WINDOW_ROWS, WINDOW_BYTES = 1024, 64 << 20
_READ_ROWS = 64

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """Some row groups of one input file, and the file of results that they become.

    Attributes:
        name: of the file of results.
        source: the input file.
        groups: the first row group, and the one after the last.
        first: the number of its first row in the input file.
        rows: how many.
    """

    name: str
    source: str
    groups: tuple[int, int]
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What a run has done.

    Attributes:
        folder: where the results lie.
        parts: how many files of them there are.
        rows: how many rows they have together.
        kept: how many of the parts were there from an earlier run.
    """

    folder: Path
    parts: int
    rows: int
    kept: int


def score(
    bundle: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    batch: int = 64,
    outputs: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    part_rows: int = PART_ROWS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Scored:
    """Run a model over the sequences of Parquet files, and write the results as Parquet files.

    A row is one sequence. It has a column for each input, named after it, as nested lists without the batch axis; for
    states and lengths columns are optional. All other columns are kept. The results have a row for each row, in order,
    with what the row alone would have. A run that was stopped, by whatever, goes on with the parts that are not there.

    Args:
        bundle: a bundle folder or an .onnx file.
        source: a Parquet file, or a folder of them, taken in the order of their names.
        target: the folder for the results, new, or of an earlier run with the same arguments.
        batch: how many rows run together at most.
        outputs: by name; without it all but the states, or the states where there is nothing else.
        device: as for `load`.
        threads: as for `load`.
        part_rows: a part is ended at the first row group with which it has so many rows.
        overwrite: begin anew where `target` has results of other arguments.
        progress: called with what is done, how many rows are, and how many there are.

    Raises:
        BundleError, DependencyError, DeviceError: as `load`; pyarrow is missing.
        InputError: a column is missing or does not fit, a row does not, or `target` has something else in it.
        Error: the model fails on the values of a row. Whatever is raised, finished parts stay.
    """
    scorer = Scorer(bundle, batch=batch, outputs=outputs, device=device, threads=threads)
    folder = Path(target)
    parts, record = plan(scorer, bundle, source, part_rows)
    with claimed(folder, record, overwrite):
        left = unfinished(folder, parts)
        done, total = sum(part.rows for part in parts) - sum(part.rows for part in left), sum(p.rows for p in parts)
        for part in left:
            for count in run_part(scorer, part, folder):
                done += count
                if progress is not None:
                    progress("rows", done, total)
    return Scored(folder, len(parts), total, len(parts) - len(left))


def plan(scorer: Scorer, bundle: str | Path, source: str | Path, part_rows: int = PART_ROWS) -> tuple[list[Part], Any]:
    """The parts of a run, and the record of what they are made of.

    Raises:
        InputError: there is no such file, it is no Parquet, a column does not fit, or files differ in their columns.
    """
    if not isinstance(part_rows, int) or isinstance(part_rows, bool) or part_rows < 1:
        raise InputError(f"part_rows is {part_rows!r}; expected 1 or more")
    parts: list[Part] = []
    inputs, schema = [], None
    for path in _sources(Path(source)):
        with _opened(path) as file:
            found = scorer.schema(file.schema_arrow)
            if schema is not None and not found.equals(schema):
                raise InputError(f"{path} has other columns than the files before it: score it by itself")
            schema = found
            counts = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
        for groups, first, rows in _cut(counts, part_rows):
            parts.append(Part(f"part-{len(parts):05}.parquet", str(path.resolve()), groups, first, rows))
        inputs.append({"name": path.name, "size": path.stat().st_size, "rows": sum(counts), "sha256": _sha256(path)})
    record = {
        "format_version": 2,
        "model": _model_hash(Path(bundle)),
        "inputs": inputs,
        "columns": [str(field) for field in schema or ()],
        "parts": [{**asdict(part), "source": Path(part.source).name} for part in parts],
    }
    return parts, record


@contextlib.contextmanager
def claimed(folder: Path, record: Any, overwrite: bool) -> Iterator[None]:
    """The folder for the results, held against a second run while it is written to; marked as done at the end.

    Raises:
        InputError: it has something else in it, or results of something else, or another run writes there now.
    """
    file, text = folder / RECORD, json.dumps(record, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock, _locked(lock, folder):
            others = [path.name for path in folder.iterdir() if path.name != ".lock" and not _is_partial(path)]
            if others and not file.exists():
                raise InputError(f"{folder} has something else in it, {min(others)!r}: choose a new folder")
            if others and file.read_text(encoding="utf-8") != text:
                if not overwrite:
                    raise InputError(
                        f"{folder} has results of another model, other inputs or other options: choose a new folder, "
                        "or overwrite it (--overwrite)"
                    )
                for path in (*folder.glob("part-*.parquet"), *folder.glob(".sha256-part-*.parquet")):
                    path.unlink()
            (folder / DONE).unlink(missing_ok=True)
            _replace.write(file, text.encode())
            yield
            for path in (*folder.glob(".part-*"), *folder.glob(".*.partial")):  # of runs that were killed
                path.unlink(missing_ok=True)
            names = [part["name"] for part in record["parts"]]
            lines = [f"{_kept_hash(folder, name)}  {name}\n" for name in names]
            _replace.write(folder / DONE, "".join(lines).encode())
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror or error}): check it") from None


def unfinished(folder: Path, parts: Iterable[Part]) -> list[Part]:
    """The parts that are not there yet, or are not what was written."""
    return [part for part in parts if not _is_whole(folder, part.name)]


def _is_whole(folder: Path, name: str) -> bool:
    try:
        return _kept_hash(folder, name) == _sha256(folder / name)
    except FileNotFoundError:
        return False


def _hash_file(folder: Path, name: str) -> Path:
    return folder / f".sha256-{name}"


def _kept_hash(folder: Path, name: str) -> str:
    return _hash_file(folder, name).read_text(encoding="utf-8", errors="replace").strip()


def run_part(scorer: Scorer, part: Part, folder: Path) -> Iterator[int]:
    """Make one part, and tell after each window how many rows were done. Its file appears when it is whole."""
    pa = arrow()
    partial = folder / f".{part.name}.{uuid.uuid4().hex}"
    first, name = part.first, Path(part.source).name
    try:
        with _opened(Path(part.source)) as file:
            schema = scorer.schema(file.schema_arrow)
            repeating = _repeating(scorer, file)
            with partial.open("wb") as out, pa.parquet.ParquetWriter(out, schema, use_dictionary=repeating) as writer:
                for table in _windows(file, range(*part.groups)):
                    writer.write_table(scorer(table, first))
                    first += table.num_rows
                    yield table.num_rows
        _replace.write(_hash_file(folder, part.name), f"{_synced(partial)}\n".encode())
        partial.replace(folder / part.name)
        _replace.sync_folder(folder)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _repeating(scorer: Scorer, file: pyarrow.parquet.ParquetFile) -> list[str]:
    """The columns in which values may come again: a dictionary of floats takes most of the time of writing them."""
    kept = [file.schema.column(k).path for k in range(len(file.schema))]
    return kept + [path for path, kind in scorer.leaves if not arrow().types.is_floating(kind)]


def _windows(file: pyarrow.parquet.ParquetFile, groups: Sequence[int]) -> Iterator[pyarrow.Table]:
    """The rows of these row groups, as many at a time as fit in memory well."""
    pa = arrow()
    held: list[Any] = []
    if not groups:
        return
    try:
        for batch in file.iter_batches(_READ_ROWS, row_groups=list(groups)):
            held.append(batch)
            if sum(b.num_rows for b in held) >= WINDOW_ROWS or sum(b.nbytes for b in held) >= WINDOW_BYTES:
                yield pa.Table.from_batches(held)
                held = []
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())  # Arrow's texts have lines
        raise InputError(f"its rows cannot be read ({why}): check the file") from None
    if held:
        yield pa.Table.from_batches(held)


def _cut(counts: Sequence[int], part_rows: int) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Row groups, joined until there are `part_rows`: (first, end) of the groups, first row, rows."""
    begin = first = rows = 0
    for k, count in enumerate(counts):
        rows += count
        if rows >= part_rows:
            yield (begin, k + 1), first, rows
            begin, first, rows = k + 1, first + rows, 0
    if begin < len(counts) or not counts:
        yield (begin, len(counts)), first, rows


def _sources(path: Path) -> list[Path]:
    found = sorted(p for p in path.glob("*.parquet") if not p.name.startswith(".")) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise InputError(f"{path} is no Parquet file and no folder with *.parquet in it: check the path")
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    pa = arrow()
    try:
        file = pa.parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet ({error}): check the file") from None
    with file:
        yield file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _synced(path: Path) -> str:
    """The SHA-256 of a file that is on the disk by then."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _model_hash(path: Path) -> str:
    """Of the manifest, which holds the hashes of the rest, or of a bare file."""
    try:
        return hashlib.sha256((path / MANIFEST if path.is_dir() else path).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


def _is_partial(path: Path) -> bool:
    """Whether it is the record of a run that was killed while it wrote it."""
    return path.name.startswith(f".{RECORD}.") and path.suffix == ".partial"


@contextlib.contextmanager
def _locked(file: Any, folder: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows, where whoever starts two runs at once sees one of them fail to rename
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(f"another run is writing to {folder}: wait for it, or choose another folder") from None
    yield
