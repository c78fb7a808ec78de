"""The command rnn-export triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("bundle", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output", "repository", required=True, type=click.Path(path_type=Path), help="The repository.")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "python"]),
    default="onnxruntime",
    show_default=True,
    help="python embeds rnn_runtime and keeps the states itself.",
)
@click.option(
    "--strategy",
    type=click.Choice(["oldest", "direct"]),
    default="oldest",
    show_default=True,
    help="How the sequence batcher makes its batches.",
)
@click.option("--max-batch", default=64, show_default=True, help="Rows of one batch.")
@click.option("--max-wait-ms", default=2.0, show_default=True, help="How long a request waits for others to join it.")
@click.option("--streams", default=256, show_default=True, help="Open sequences, with --strategy oldest.")
@click.option("--idle-seconds", default=60.0, show_default=True, help="A sequence idle for so long is ended.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace the model that is there.")
def triton(bundle: Path, repository: Path, overwrite: bool, **options: Any) -> None:
    """Write the bundle DIR as a model of a repository for NVIDIA's Triton Inference Server.

    A model with state gets a sequence batcher, one without a dynamic batcher. docs/serving.md tells how to run it.
    """
    from .._triton import write
    from .._triton._config import Options

    click.echo(f"wrote {write(bundle, repository, Options(**options), overwrite)}")
