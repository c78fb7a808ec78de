"""The command rnn-export serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundles", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--http-port", default=8000, show_default=True, help="For HTTP and WebSocket; 0 takes a free one.")
@click.option("--grpc-port", default=8001, show_default=True, help="For gRPC; 0 takes a free one.")
@click.option("--no-grpc", is_flag=True, help="Serve no gRPC.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", default=1, show_default=True, help="Threads that share one operator.")
@click.option("--streams", default=256, show_default=True, help="Open sequences per model.")
@click.option(
    "--streams-per-client", type=int, help="Open sequences per model and client address; no bound without it."
)
@click.option("--max-wait-ms", default=2.0, show_default=True, help="How long a request waits for others to join it.")
@click.option("--max-queue", type=int, help="Requests per model that may wait; 4 for each stream without it.")
@click.option("--max-body", default=16 * 2**20, show_default=True, help="The largest request, in bytes.")
@click.option("--request-seconds", default=30.0, show_default=True, help="For a request to arrive, and to run.")
@click.option("--idle-seconds", default=60.0, show_default=True, help="A sequence idle for so long is ended.")
@click.option("--drain-seconds", default=20.0, show_default=True, help="For open sequences to end after SIGTERM.")
@click.option("--reload-seconds", default=1.0, show_default=True, help="How often to look for a new bundle; 0: never.")
@click.option("--token-file", type=_FILE, help="Ask every client for the bearer token in this file.")
@click.option("--certificate", type=_FILE, help="Serve TLS with this certificate chain (PEM).")
@click.option("--key", type=_FILE, help="The certificate's key (PEM).")
@click.option("--log-requests", is_flag=True, help="Log every request.")
def serve(bundles: tuple[Path, ...], no_grpc: bool, grpc_port: int, token_file: Path | None, **options: Any) -> None:
    """Serve bundles over HTTP, gRPC and WebSocket, each sequence with its state, until SIGTERM.

    It speaks the Open Inference Protocol with the sequence extension, so Triton's client works unchanged. A model is
    named after its folder; a bundle that an export replaces is loaded again, and open sequences end on the old one.
    It listens on this machine alone unless --host says otherwise. docs/serving.md has the requests and the errors.
    """
    from rnn_runtime import InputError
    from rnn_runtime.serve import Settings
    from rnn_runtime.serve import serve as run

    if token_file is not None:
        try:
            options["token"] = token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            raise InputError(f"{token_file} holds no token: a line of printable ASCII is expected") from None
    settings = Settings(grpc_port=None if no_grpc else grpc_port, **options)
    if settings.is_public and (settings.token is None or settings.certificate is None):
        click.echo(
            f"warning: {settings.host} can be reached from other machines, without a token or without TLS: give "
            "--token-file, --certificate and --key, or keep it behind a proxy that does both",
            err=True,
        )
    run(bundles, settings)
