"""The `rnn-export` command. One file for each subcommand; none imports torch, onnx or onnxruntime before it is run."""

from __future__ import annotations

import sys

import click

from rnn_runtime import Error, __version__

from .bench import bench
from .doctor import doctor
from .export import export
from .inspect import inspect
from .run import run
from .score import score
from .serve import serve
from .triton import triton
from .tune import tune
from .verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rnn-export")
def group() -> None:
    """Take a PyTorch model with recurrent layers to a verified deployment on ONNX Runtime.

    
    rnn-export export hello -o build/hello     write a bundle and prove it
    rnn-export run build/hello                 run it
    rnn-export doctor                          what works on this machine

    Exit codes: 0 done; 1 the results do not match; 2 wrong usage or bad input;
    3 the model cannot be exported; 4 the device or a dependency is missing;
    5 slower than a benchmark's baseline.
    """


for command in (bench, doctor, export, inspect, run, score, serve, triton, tune, verify):
    group.add_command(command)


def main() -> None:
    """Run the command; an error is one message on stderr and an exit code."""
    try:
        group(standalone_mode=False)
    except Error as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)  # as a shell says it of SIGINT
