"""The command rnn-export score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import _show


@click.command()
@click.argument("bundle", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-i",
    "--input",
    "source",
    required=True,
    type=click.Path(path_type=Path),
    help="A Parquet file, or a folder of them: a row is a sequence, with a column of lists for each input.",
)
@click.option(
    "-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="The folder for the results."
)
@click.option("--outputs", metavar="NAME,...", help="Which outputs to keep; all but the states without it.")
@click.option("--batch", default=64, show_default=True, help="Rows that run together, at most.")
@click.option("--part-rows", default=65536, show_default=True, help="Rows of a file of results, to a row group.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=int, help="Threads that share one operator.")
@click.option("--overwrite", is_flag=True, help="Begin anew where the folder has results of something else.")
@click.option("--ray", "over_ray", is_flag=True, help="Share the parts among the workers of a Ray cluster.")
@click.option("--workers", type=int, help="How many of them; with --ray. As many as there are processors without it.")
def score(
    bundle: Path,
    source: Path,
    target: Path,
    outputs: str | None,
    over_ray: bool,
    workers: int | None,
    **options: Any,
) -> None:
    """Run a bundle over a data set of sequences in Parquet, and write the results as Parquet.

    Each row of the results is what that sequence alone gives; the other columns are kept. A run that was stopped, by
    an error or by a kill, is gone on with by the same command. With --ray the cluster is the one that RAY_ADDRESS
    names, or else one of this machine that ends with the command.
    """
    if workers is not None and not over_ray:
        raise click.UsageError("--workers are Ray's: give --ray too")
    options["outputs"] = None if outputs is None else [name.strip() for name in outputs.split(",")]
    with _show.progress() as tell:
        options["progress"] = tell
        if over_ray:
            from rnn_runtime import ray

            done = ray.score_files(bundle, source, target, workers=workers, **options)
        else:
            import rnn_runtime

            done = rnn_runtime.score(bundle, source, target, **options)
    kept = f", {done.kept} of them of an earlier run" if done.kept else ""
    click.echo(f"wrote {done.folder}: {done.rows} rows in {done.parts} file{'s' if done.parts > 1 else ''}{kept}")
