"""The Open Inference Protocol over HTTP, and the WebSocket on which each connection is a stream."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from .. import __version__
from .._errors import StreamClosed
from .._pool import PoolStream
from ._deadlines import Deadlines
from ._faults import Fault, fault
from ._metrics import Metrics
from ._models import Generation, Repository, Served, metadata
from ._openapi import document
from ._settings import Settings
from ._tensors import Answer, read, read_message, write, write_message

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket

EXTENSIONS = ["sequence", "binary_tensor_data"]
_LENGTH = b"inference-header-content-length"
_INFER = re.compile("/v2/models/([^/]+)(?:/versions/([^/]+))?/infer/?")
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


def app(repository: Repository, metrics: Metrics, settings: Settings, sockets: Sockets) -> ASGIApp:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    deadlines = Deadlines(settings.request_seconds)
    token = None if settings.token is None else f"Bearer {settings.token}".encode()

    def admit(headers: Mapping[bytes, bytes]) -> None:
        if token is not None and not hmac.compare_digest(headers.get(b"authorization", b""), token):
            raise Fault(401, "the token is missing or wrong: send it as 'Authorization: Bearer ...'")

    def refused(found: Fault) -> Response:
        headers = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}, 429: {"retry-after": "1"}}
        headers |= {408: {"connection": "close"}, 413: {"connection": "close"}}
        return JSONResponse({"error": str(found)}, found.status, headers.get(found.status))

    def answered(handler: Callable[[Request], Awaitable[Response]], is_open: bool = False) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                if not is_open:
                    admit(headers_of(request.scope))
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

    async def infer(scope: Scope, receive: Receive, send: Send, model: str, version: str) -> None:
        began, status = time.perf_counter(), 200
        try:
            headers = headers_of(scope)
            admit(headers)
            served, _ = repository.find(model, version)
            request = read(await body_of(headers, receive, settings.max_body, deadlines), json_bytes(headers))
            kept, body = written(await served.infer(request, client_of(scope)))
            await send({"type": "http.response.start", "status": 200, "headers": kept})
            await send({"type": "http.response.body", "body": body})
        except Exception as error:
            found = fault(error)
            status = found.status
            metrics.failed(found, error)
            await refused(found)(scope, receive, send)
        finally:
            metrics.observe(model, "http", status, time.perf_counter() - began)

    async def scrape(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(request: Request) -> Response:
        models = {name: metadata(*repository.find(name))["versions"] for name in repository.models}
        return JSONResponse(document(__version__, models))

    async def stream(socket: WebSocket) -> None:
        """One connection, one stream: it begins with the connection and ends with it."""
        try:
            admit(headers_of(socket.scope))
            served, _ = model_of(socket)
            pool_stream, generation = served.open(client_of(socket.scope), lambda stream: None)
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
        except WebSocketDisconnect:  # it was gone when its answer was ready
            code = 0
        finally:
            sockets.gone()
            served.close(pool_stream, generation, client_of(socket.scope))
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
            Route(f"{base}/ready", answered(model_ready)),
            Route(base, answered(model)),
        ]
    socket_route = WebSocketRoute("/v2/models/{model}/stream", stream)
    others = Starlette(routes=[*routes, socket_route], exception_handlers={404: error, 405: error})

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        found = _INFER.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await others(scope, receive, send)
        elif scope["method"] != "POST":
            refusal = JSONResponse({"error": "the path takes another method"}, 405, {"allow": "POST"})
            await refusal(scope, receive, send)
        else:  # a framework's routes and middleware take as long as all else of a small request
            await infer(scope, receive, send, found[1], found[2] or "")

    return application


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


async def body_of(headers: Mapping[bytes, bytes], receive: Receive, max_body: int, deadlines: Deadlines) -> bytes:
    """A request's body. Raises Fault where it is too large, compressed, or does not arrive in time."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Fault(415, "compressed requests are not taken: send the body as it is")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > max_body:
        raise Fault(413, f"the request has {int(length)} bytes; at most {max_body} are taken")
    chunks, size, more = [], 0, True
    try:
        with deadlines():
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Fault(400, "the client has gone before its request had arrived")
                chunks.append(message.get("body", b""))
                more = message.get("more_body", False)
                size += len(chunks[-1])
                if size > max_body:
                    raise Fault(413, f"the request has more than {max_body} bytes")
    except TimeoutError:
        raise Fault(408, f"the request did not arrive within {deadlines.seconds:g} s") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def json_bytes(headers: Mapping[bytes, bytes]) -> int | None:
    """How much of a body is JSON, as its headers say; None is all. Raises Fault where they give no number."""
    given = headers.get(_LENGTH)
    if given is None:
        return None
    if not (given.isdigit() and len(given) < 16):
        raise Fault(400, f"{_LENGTH.decode()} is {given[:40].decode('latin-1')!r}; expected a number of bytes")
    return int(given)


def written(answer: Answer) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the body of an answer."""
    body, size = write(answer)
    headers = [(b"content-length", b"%d" % len(body))]
    if size is None:
        return [*headers, (b"content-type", b"application/json")], body
    return [*headers, (b"content-type", b"application/octet-stream"), (_LENGTH, b"%d" % size)], body


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name in lower case, the first where one comes twice."""
    return dict(reversed(scope["headers"]))


def client_of(scope: Scope) -> str:
    """The client's address."""
    return scope["client"][0] if scope.get("client") else ""
