"""A server from its first line in the log to its last: start, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__
from .._errors import DependencyError, InputError
from ._models import Repository
from ._settings import Settings

log = logging.getLogger("rnn_runtime.serve")

_PACKAGES = (
    *("starlette", "uvicorn", "uvloop", "httptools", "websockets", "orjson"),
    *("grpc", "google.protobuf", "prometheus_client"),
)
_HEADERS = 64 * 2**10  # bytes of a request's head


def serve(paths: Sequence[str | Path], settings: Settings | None = None) -> None:
    """Serve bundles until SIGTERM or SIGINT, then let open sequences end, and return.

    Args:
        paths: bundle folders, or .onnx files. A model is named after the last part of its path.
        settings: where to listen, and the limits.

    Raises:
        DependencyError: a package of the extra `serve` is missing.
        BundleError, DeviceError, MismatchError: a bundle cannot be loaded, or does not give its recorded results.
        InputError: a setting is out of range, a port is taken, or the state of a model cannot be batched.
    """
    require_installed()
    import uvloop

    from ._metrics import log_to_stderr

    log_to_stderr()
    repository = Repository([Path(path) for path in paths], settings or Settings())
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(repository, repository.settings))
    finally:
        repository.close()


def require_installed() -> None:
    """Raises DependencyError where the extra is missing."""
    for name in _PACKAGES:
        try:
            found = find_spec(name) is not None
        except ModuleNotFoundError:  # of google, for google.protobuf
            found = False
        if not found:
            raise DependencyError(f'{name} is not installed: pip install "rnn-export[serve]"')


async def _serve(repository: Repository, settings: Settings) -> None:
    from . import _grpc, _http
    from ._metrics import Metrics

    metrics, sockets = Metrics(repository, settings.log_requests), _http.Sockets()
    listener = _listen(settings)
    http = _uvicorn(_http.app(repository, metrics, settings, sockets), settings)
    grpc, grpc_port = None, None
    if settings.grpc_port is not None:
        grpc, grpc_port = _grpc.make(repository, metrics, settings)
    stop, hurry = asyncio.Event(), asyncio.Event()
    with _signals(lambda: (hurry if stop.is_set() else stop).set()):
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        watching = asyncio.create_task(repository.watch())
        if grpc is not None:
            await grpc.start()
        while not (http.started or serving.done()):
            await asyncio.sleep(0.01)
        gc.collect()
        gc.freeze()  # what is here now stays: to look through it again and again would stop all streams for 20 ms
        fields = {"models": list(repository.models), "version": __version__, "grpc_port": grpc_port}
        log.info("listening", extra=fields | {"host": settings.host, "http_port": listener.getsockname()[1]})
        await _first(stop.wait(), serving)
        watching.cancel()
        repository.drain()
        log.info("draining", extra={"streams": repository.streams, "running": repository.running})
        await _quiet(lambda: not (repository.streams or repository.running), settings.drain_seconds, hurry)
        left = repository.streams
        sockets.close()
        ending = [] if grpc is None else [asyncio.create_task(grpc.stop(settings.request_seconds))]
        http.should_exit = True
        await _first(asyncio.gather(serving, *ending), hurry.wait())
        http.force_exit = True
        await asyncio.gather(serving, *ending)
    log.info("stopped", extra={"streams_cut": left})


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.http_port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"HTTP cannot listen on {settings.host}:{settings.http_port} ({error.strerror}): choose another port"
        ) from None


def _uvicorn(app: Any, settings: Settings) -> Any:
    """The HTTP server, uvicorn's, without signals of its own, with a bound on how long clients keep it waiting."""
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    class Server(uvicorn.Server):  # type: ignore[misc]
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    class Patient:
        """Drops a client that does not read its answer in time."""

        _unread: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()  # type: ignore[misc]
            self._unread = asyncio.get_running_loop().call_later(
                settings.request_seconds,
                self.transport.abort,  # type: ignore[attr-defined]
            )

        def resume_writing(self) -> None:
            super().resume_writing()  # type: ignore[misc]
            self._forget()

        def connection_lost(self, error: Exception | None) -> None:
            self._forget()
            super().connection_lost(error)  # type: ignore[misc]

        def _forget(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

    class Http(Patient, HttpToolsProtocol):  # type: ignore[misc]
        """Drops a connection on which no whole head of a request arrives in time, or one too long."""

        _head: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(_Whole(transport))
            self._await_head()

        def data_received(self, data: bytes) -> None:
            if self._between:
                self._head_bytes += len(data)
            super().data_received(data)
            if not self._between:
                self._have_head()
            elif self._head_bytes > _HEADERS:
                self.transport.abort()
            elif self._head is None:
                self._await_head()

        def connection_lost(self, error: Exception | None) -> None:
            self._have_head()
            super().connection_lost(error)

        @property
        def _between(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _await_head(self) -> None:
            self._head = asyncio.get_running_loop().call_later(settings.request_seconds, self._give_up)

        def _have_head(self) -> None:
            self._head_bytes = 0
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _give_up(self) -> None:
            # Once it is a WebSocket, the transport has another protocol.
            if self._between and self.transport.get_protocol() is self:
                self.transport.abort()

    class Socket(Patient, WebSocketsSansIOProtocol):  # type: ignore[misc]
        pass

    config = uvicorn.Config(
        app,
        http=Http,
        ws=Socket,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # whoever is counted by its address must not choose it
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.request_seconds) + 1,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"the certificate or its key cannot be used: {error}") from None
    return Server(config)


class _Whole:
    """A transport that sends what is written in one turn of the event loop in one piece.

    uvicorn writes an answer's head and its body apart, and each piece sent costs more than all else of a small answer.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it with what else is written now."""
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))


@contextlib.contextmanager
def _signals(stop: Callable[[], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _first(*waited: Any) -> None:
    """Until one of them is done; none of them is cancelled."""
    tasks = [asyncio.ensure_future(one) for one in waited]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _quiet(is_quiet: Callable[[], bool], seconds: float, hurry: asyncio.Event) -> None:
    """Until nothing is under way, the time is over, or there is no more time to lose."""
    until = time.monotonic() + seconds
    while not (is_quiet() or hurry.is_set() or time.monotonic() > until):
        await asyncio.sleep(0.02)
