"""The command rnn-export verify."""

from __future__ import annotations

from pathlib import Path

import click

from . import _target


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("target", required=False)
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A state dict to load into TARGET's model.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(bundle: Path, target: str | None, weights: Path | None, device: str, as_json: bool) -> None:
    """Check BUNDLE: replay what was recorded when it was made, or compare it with TARGET.

    Without TARGET no PyTorch is needed: the recorded inputs are run on the device, and the recorded results are
    expected.

    With TARGET every artifact is compared with that live model, over a grid of batch and sequence sizes.
    """
    import rnn_runtime

    if target is None:
        if weights is not None:
            raise click.UsageError("--weights are TARGET's: name the target too")
        opened = rnn_runtime.load(bundle, device=device)
        try:
            report = opened.check()
        except rnn_runtime.MismatchError as error:
            report = error.report  # type: ignore[assignment]
    else:
        arguments = _target.arguments(target, weights)
        from rnn_export import verify as verify_model

        report = verify_model(arguments["model"], bundle, example_inputs=arguments["example_inputs"], device=device)
    click.echo(report.to_json() if as_json else str(report))
    if not report.passed:
        hint = f". If {target} makes its weights at random, give the exported ones with --weights" if target else ""
        raise rnn_runtime.MismatchError(f"{bundle} does not match: see the table above{hint}", report)
