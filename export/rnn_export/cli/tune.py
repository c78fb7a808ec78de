"""The command rnn-export tune."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from . import _target


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("target", required=False)
@_target.weights
@click.option("--batch", type=click.IntRange(1), help="The size of the axis `batch`. Default: the recorded example's.")
@click.option("--sequence", type=click.IntRange(1), help="The size of the axis `sequence`. Default: the same.")
@click.option("--size", "sizes", multiple=True, metavar="AXIS=N", help="The size of another axis; can be repeated.")
@click.option("--threads", default=1, show_default=True, help="For each way.")
@click.option("--rounds", default=20, show_default=True, help="How often each way has its turn.")
@click.option("--seconds", default=0.1, show_default=True, help="How long a turn lasts at least.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tune(
    bundle: Path,
    target: str | None,
    weights: Path | None,
    batch: int | None,
    sequence: int | None,
    sizes: tuple[str, ...],
    threads: int,
    rounds: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Write the layers of BUNDLE in each way there is, time them here, and keep the fastest.

    Each way is exported from TARGET again, so proven again, and timed in a process of its own, in turns with the
    others. The present one stays unless another is faster by more than the noise. At one step, pushes of a stream are
    timed. Where there is one way alone, TARGET is not needed.
    """
    from rnn_export._tune import tune as measure

    if target is None and weights is not None:
        raise click.UsageError("--weights are TARGET's: name the target too")
    chosen = {"batch": batch, "sequence": sequence, **dict(map(_target.named_size, sizes))}
    asked = {axis: size for axis, size in chosen.items() if size is not None}
    found = measure(bundle, target, weights=weights, sizes=asked, threads=threads, rounds=rounds, seconds=seconds)
    click.echo(found.to_json() if as_json else str(found))


tune.help = f"{inspect.cleandoc(tune.help or '')}\n\n{_target.HELP}"
