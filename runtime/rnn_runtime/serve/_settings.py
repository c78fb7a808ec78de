"""What a server is told: where it listens, what it admits, and how long it waits."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path

from .._errors import InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. Times are in seconds, sizes in bytes.

    Attributes:
        host: the address to listen on; loopback unless told otherwise.
        http_port: for HTTP and WebSocket; 0 takes a free one, which the log tells.
        grpc_port: for gRPC; 0 takes a free one, None serves none.
        device: "cpu", "cuda" or "cuda:N".
        threads: how many threads share one operator.
        streams: how many sequences of one model may be open at once.
        streams_per_client: how many of them one address may hold; None sets no bound.
        max_wait_ms: how long a request waits for others to share its batch, in milliseconds.
        max_queue: how many requests of one model may wait; 4 per stream if None.
        max_body: the largest request.
        request_seconds: how long a request may take to arrive, to run, and to be read, each.
        idle_seconds: a sequence without a request for so long is ended.
        drain_seconds: how long open sequences may go on after SIGTERM.
        reload_seconds: how often to look whether an export has replaced a bundle; 0 never looks.
        token: what clients have to send as `Authorization: Bearer ...`; None asks for none.
        certificate: a file with the TLS certificate chain, in PEM; with `key`.
        key: a file with the certificate's private key, in PEM.
        log_requests: log each request too, and not only what goes wrong.

    Raises:
        InputError: a value is out of range.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int | None = 8001
    device: str = "cpu"
    threads: int = 1
    streams: int = 256
    streams_per_client: int | None = None
    max_wait_ms: float = 2.0
    max_queue: int | None = None
    max_body: int = 16 * 2**20
    request_seconds: float = 30.0
    idle_seconds: float = 60.0
    drain_seconds: float = 20.0
    reload_seconds: float = 1.0
    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        for name in ("streams", "streams_per_client", "max_queue", "max_body", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; expected 1 or more")
        for name in ("request_seconds", "idle_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; expected seconds above 0")
        for name in ("drain_seconds", "reload_seconds", "max_wait_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("http_port", "grpc_port"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**16:
                raise InputError(f"{name} is {value}; expected 0 to 65535")
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS needs both a certificate and its key: give both files")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InputError("the token is empty, or has characters that no header can hold: use printable ASCII")

    @property
    def is_public(self) -> bool:
        """Whether others than this machine can reach the server."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"
