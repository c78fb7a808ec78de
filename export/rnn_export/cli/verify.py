"""The command rnn-export verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import _target
from ._show import progress, show

if TYPE_CHECKING:
    from rnn_runtime import Report


def _trial(_context: click.Context, _parameter: click.Parameter, text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    try:
        return {name: int(value) for name, _, value in (item.partition("=") for item in text.split(","))}
    except ValueError:
        raise click.BadParameter(f"{text!r} is not of the form batch=1,sequence=2,seed=0") from None


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("target", required=False)
@_target.weights
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--quick", "level", flag_value="quick", help="Fixed inputs alone: a second or two.")
@click.option("--default", "level", flag_value="default", default=True, hidden=True)
@click.option("--full", "level", flag_value="full", help="Ten times as many, and every property on every backend.")
@click.option("--seed", default=0, show_default=True, help="Of the inputs that are tried.")
@click.option("--property", "only", metavar="NAME", help="Check this property alone.")
@click.option("--backend", metavar="NAME", help="Check this backend alone.")
@click.option("--trial", metavar="NAME=N,...", callback=_trial, help="Make this one trial of --property.")
@click.option("--trace", is_flag=True, help="Name the first layer that leaves eager PyTorch, though nothing failed.")
@click.option("--tolerance", type=float, help="Largest error allowed, times the largest value where that is above 1.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON (docs/report.md).")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit XML to this file.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write one page of HTML to this file.")
def verify(
    bundle: Path,
    target: str | None,
    weights: Path | None,
    device: str,
    level: str,
    seed: int,
    only: str | None,
    backend: str | None,
    trial: dict[str, int] | None,
    trace: bool,
    tolerance: float | None,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
) -> None:
    """Check BUNDLE: alone, or against TARGET.

    Without TARGET no PyTorch is needed: the recorded inputs are run on the device, the recorded results are expected,
    and those properties are checked that need no reference.

    With TARGET every artifact is held against that live model on every backend that is at hand: over a grid of sizes,
    at those that the export compared, and for each property of docs/verification.md.
    """
    import rnn_runtime

    for path in filter(None, (junit, html)):
        _target.require_writable(path)
    if html is not None:
        from rnn_runtime._plots import require

        require()
    command = " ".join(["rnn-export verify", str(bundle), *filter(None, [target])])
    if weights is not None:
        command += f" --weights {weights}"
    if device != "cpu":
        command += f" --device {device}"
    if target is None:
        if weights is not None:
            raise click.UsageError("--weights are TARGET's: name the target too")
        if trace or tolerance is not None:
            raise click.UsageError("--trace and --tolerance need TARGET to compare with: name the target too")
        if backend not in (None, f"onnxruntime-{device}"):
            raise click.UsageError(f"without TARGET the one backend is onnxruntime-{device}")
        with progress() as tell:
            report = rnn_runtime.verify(
                bundle, device, level=level, seed=seed, only=only, trial=trial, command=command, progress=tell
            )
    else:
        arguments = _target.arguments(target, weights)
        from rnn_export import verify as verify_model

        with progress() as tell:
            report = verify_model(
                arguments["model"],
                bundle,
                example_inputs=arguments["example_inputs"],
                device=device,
                tolerance=tolerance,
                level=level,
                seed=seed,
                only=only,
                backend=backend,
                trial=trial,
                trace=trace,
                command=command,
                progress=tell,
            )
    if as_json:
        click.echo(report.to_json())
    else:
        show(report)
    _write(report, junit, html)  # last: what was found is told first, whatever becomes of a file
    if not report.passed:
        hint = f". If {target} makes its weights at random, give the exported ones with --weights" if target else ""
        raise rnn_runtime.MismatchError(f"{bundle} does not match: see the table above{hint}", report)


def _write(report: Report, junit: Path | None, html: Path | None) -> None:
    from rnn_runtime import InputError

    for path, make in ((junit, report.to_junit), (html, report.to_html)):
        if path is None:
            continue
        text = make()
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
