"""The command rnn-export bench."""

from __future__ import annotations

from pathlib import Path

import click

from . import _target


def _sizes(_context: click.Context, _parameter: click.Parameter, items: tuple[str, ...]) -> dict[str, list[int]]:
    sizes: dict[str, list[int]] = {}
    for item in items:
        axis, _, values = item.partition("=")
        try:
            sizes.setdefault(axis, []).extend(int(value) for value in values.split(","))
        except ValueError:
            raise click.BadParameter(f"{item!r} is not of the form sequence=1,100") from None
    return sizes


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("target", required=False)
@_target.weights
@click.option(
    "--size",
    "sizes",
    metavar="AXIS=N,...",
    multiple=True,
    callback=_sizes,
    help="Sizes of an axis to time; can be repeated. Default: the recorded example's.",
)
@click.option("--threads", default=1, show_default=True, help="For each backend.")
@click.option("--rounds", default=9, show_default=True, help="How often each backend has its turn.")
@click.option("--seconds", default=0.1, show_default=True, help="How long a turn lasts at least.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to FILE, as a baseline for later.",
)
@click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Compare with the figures in FILE; the exit code is 5 where a backend is slower than --bound.",
)
@click.option(
    "--bound",
    default=1.2,
    show_default=True,
    help="How many times the baseline's time a run may take, beyond its spread.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw latency by size to .svg or .png.")
def bench(
    bundle: Path,
    target: str | None,
    weights: Path | None,
    sizes: dict[str, list[int]],
    threads: int,
    rounds: int,
    seconds: float,
    save: Path | None,
    baseline: Path | None,
    bound: float,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Time every backend of BUNDLE side by side, with eager PyTorch where TARGET is given.

    Each backend runs in a process of its own, in turns, and has to give the same results before it is timed. Peak
    memory is that of its process, with all that it imports.
    """
    from rnn_export._bench import bench as measure
    from rnn_export._bench._baseline import compare, load
    from rnn_runtime import InputError

    before = None if baseline is None else load(baseline)
    if not bound >= 1:
        raise InputError(f"the bound is {bound}; expected 1 or more, such as 1.2")
    for path in filter(None, (save, plot)):
        _target.require_writable(path)
    if target is None and weights is not None:
        raise click.UsageError("--weights are TARGET's: name the target too")
    if plot is not None:
        from rnn_runtime._plots import require

        require()
        if plot.suffix not in (".svg", ".png", ".pdf"):
            raise click.UsageError(f"--plot {plot} is none of .svg, .png and .pdf")
    found = measure(bundle, target, weights=weights, sizes=sizes, threads=threads, rounds=rounds, seconds=seconds)
    click.echo(found.to_json() if as_json else str(found))
    try:
        if plot is not None:
            found.plot(plot)
        if save is not None:
            save.write_text(found.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}") from None
    if before is not None:
        comparison = compare(found, before, bound)
        click.echo(f"\n{comparison}", err=as_json)
        comparison.require()
