"""The Open Inference Protocol over HTTP, and the WebSocket on which each connection is a stream."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .. import __version__
from .._errors import StreamClosed
from .._pool import PoolStream
from ._faults import Fault, fault
from ._metrics import Metrics
from ._models import Generation, Repository, Served, metadata
from ._openapi import document
from ._settings import Settings
from ._tensors import Answer, read, read_message, write, write_message

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

EXTENSIONS = ["sequence", "binary_tensor_data"]
_LENGTH = "inference-header-content-length"
_CLOSED, _GOING_AWAY = 1000, 1001


class Sockets:
    """The open WebSocket connections, so that a server that shuts down can end them."""

    def __init__(self) -> None:
        self._idle: dict[asyncio.Task[Any], bool] = {}
        self.closing = False

    def waits(self, idle: bool) -> None:
        """The connection of this task waits for its client, or has a message to answer."""
        task = asyncio.current_task()
        assert task is not None
        self._idle[task] = idle

    def gone(self) -> None:
        """The connection of this task has ended."""
        task = asyncio.current_task()
        assert task is not None
        self._idle.pop(task, None)

    def close(self) -> None:
        """End them all: those with a message under way when it is answered."""
        self.closing = True
        for task, idle in self._idle.items():
            if idle:
                task.cancel()


def app(repository: Repository, metrics: Metrics, settings: Settings, sockets: Sockets) -> Starlette:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route, WebSocketRoute

    def admit(connection: HTTPConnection) -> None:
        given = connection.headers.get("authorization", "")
        if settings.token is not None and not hmac.compare_digest(given.encode(), f"Bearer {settings.token}".encode()):
            raise Fault(401, "the token is missing or wrong: send it as 'Authorization: Bearer ...'")

    def refused(found: Fault) -> Response:
        headers = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}, 429: {"retry-after": "1"}}
        headers |= {408: {"connection": "close"}, 413: {"connection": "close"}}
        return JSONResponse({"error": str(found)}, found.status, headers.get(found.status))

    def answered(handler: Callable[[Request], Awaitable[Response]], is_open: bool = False) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                if not is_open:
                    admit(request)
                return await handler(request)
            except Exception as error:
                found = fault(error)
                metrics.failed(found, error)
                return refused(found)

        return endpoint

    def model_of(connection: HTTPConnection) -> tuple[Served, Generation]:
        return repository.find(connection.path_params["model"], connection.path_params.get("version", ""))

    async def live(request: Request) -> Response:
        return Response()

    async def ready(request: Request) -> Response:
        return Response(status_code=503 if repository.draining else 200)

    async def server(request: Request) -> Response:
        return JSONResponse({"name": "rnn-export", "version": __version__, "extensions": EXTENSIONS})

    async def model_ready(request: Request) -> Response:
        model_of(request)
        return await ready(request)

    async def model(request: Request) -> Response:
        return JSONResponse(metadata(*model_of(request)))

    async def infer(request: Request) -> Response:
        began, status = time.perf_counter(), 200
        try:
            served, _ = model_of(request)
            parsed = read(await _body(request, settings), _json_bytes(request.headers.get(_LENGTH)))
            answer = await served.infer(parsed, _client(request))
            return _response(answer)
        except Exception as error:
            status = fault(error).status
            raise
        finally:
            metrics.observe(request.path_params["model"], "http", status, time.perf_counter() - began)

    async def scrape(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(request: Request) -> Response:
        models = {name: metadata(*repository.find(name))["versions"] for name in repository.models}
        return JSONResponse(document(__version__, models))

    async def stream(socket: WebSocket) -> None:
        """One connection, one stream: it begins with the connection and ends with it."""
        try:
            admit(socket)
            served, _ = model_of(socket)
            pool_stream, generation = served.open(_client(socket), lambda stream: None)
        except Exception as error:
            found = fault(error)
            metrics.failed(found, error)
            await socket.send_denial_response(refused(found))
            return
        code, reason = _CLOSED, ""
        try:
            await socket.accept()
            code, reason = await _talk(socket, served, generation, pool_stream, metrics, settings, sockets)
        except asyncio.CancelledError:
            if not sockets.closing:
                raise
            code, reason = _GOING_AWAY, "the server is shutting down"
        finally:
            sockets.gone()
            served.close(pool_stream, generation, _client(socket))
        if code:
            await socket.close(code, reason)

    def error(request: Request, exception: Exception) -> Response:
        status = getattr(exception, "status_code", 500)
        texts = {404: "there is no such path: GET /openapi.json lists them", 405: "the path takes another method"}
        headers = getattr(exception, "headers", None)
        return JSONResponse({"error": texts.get(status, "the server failed")}, status, headers)

    routes = [
        Route("/v2", answered(server)),
        Route("/v2/health/live", answered(live, is_open=True)),
        Route("/v2/health/ready", answered(ready, is_open=True)),
        Route("/metrics", answered(scrape)),
        Route("/openapi.json", answered(openapi)),
    ]
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(f"{base}/infer", answered(infer), methods=["POST"]),
            Route(f"{base}/ready", answered(model_ready)),
            Route(base, answered(model)),
        ]
    socket_route = WebSocketRoute("/v2/models/{model}/stream", stream)
    return Starlette(routes=[*routes, socket_route], exception_handlers={404: error, 405: error})


async def _talk(
    socket: WebSocket,
    served: Served,
    generation: Generation,
    stream: PoolStream,
    metrics: Metrics,
    settings: Settings,
    sockets: Sockets,
) -> tuple[int, str]:
    """Answer messages until one side ends it: the code and reason to close with, 0 where the client has closed."""
    while not sockets.closing:
        sockets.waits(idle=True)
        try:
            async with asyncio.timeout(settings.idle_seconds):
                message = await socket.receive()
        except TimeoutError:
            return _GOING_AWAY, f"idle for {settings.idle_seconds:g} s"
        sockets.waits(idle=False)
        if message["type"] == "websocket.disconnect":
            return 0, ""
        began, status = time.perf_counter(), 200
        data = message.get("bytes")
        reply: str | bytes
        try:
            request = read_message(message["text"] if data is None else data)
            if request.sequence is not None:
                raise Fault(400, "the connection is the sequence: leave sequence_id out")
            result = await served.push(stream, request)
            names = request.outputs or [spec.name for spec in generation.outputs]
            outputs = {name: result[name] for name in names}
            reply = write_message(Answer(served.name, generation.version, request, outputs))
        except TimeoutError:
            return _GOING_AWAY, "a message took too long, and may have moved the state"
        except StreamClosed:
            return _GOING_AWAY, f"idle for {settings.idle_seconds:g} s"
        except Exception as error:
            found = fault(error)
            status = found.status
            metrics.failed(found, error)
            reply = json.dumps({"error": str(found), "status": status})
        finally:
            metrics.observe(served.name, "websocket", status, time.perf_counter() - began)
        await (socket.send_text(reply) if isinstance(reply, str) else socket.send_bytes(reply))
    return _GOING_AWAY, "the server is shutting down"


async def _body(request: Request, settings: Settings) -> bytes:
    """A request's body. Raises Fault where it is too large, compressed, or does not arrive in time."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Fault(415, "compressed requests are not taken: send the body as it is")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > settings.max_body:
        raise Fault(413, f"the request has {length} bytes; at most {settings.max_body} are taken")
    chunks, size = [], 0
    try:
        async with asyncio.timeout(settings.request_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.max_body:
                    raise Fault(413, f"the request has more than {settings.max_body} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise Fault(408, f"the request did not arrive within {settings.request_seconds:g} s") from None
    return b"".join(chunks)


def _json_bytes(header: str | None) -> int | None:
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 16):
        raise Fault(400, f"{_LENGTH} is {header[:40]!r}; expected a number of bytes")
    return int(header)


def _response(answer: Answer) -> Response:
    from starlette.responses import Response

    body, json_bytes = write(answer)
    if json_bytes is None:
        return Response(body, media_type="application/json")
    return Response(body, headers={_LENGTH: str(json_bytes)}, media_type="application/octet-stream")


def _client(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client is not None else ""
