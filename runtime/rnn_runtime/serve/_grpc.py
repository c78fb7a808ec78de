"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np

from .. import __version__
from .._errors import InputError
from ._data import brief, shaped
from ._faults import GRPC, Fault, fault
from ._messages import SERVICE, messages
from ._metrics import Metrics
from ._models import Repository, metadata
from ._settings import Settings
from ._tensors import DATATYPES, Answer, Request, dtype_of, from_raw, sequence_of, to_raw

EXTENSIONS = ("sequence", "binary_tensor_data")
_IN_FLIGHT = 64  # requests of one gRPC stream that run at once; the next are read when one is done
_TYPED = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def make(repository: Repository, metrics: Metrics, settings: Settings) -> tuple[Any, int]:
    """A server of grpc.aio that is bound but not started, and its port.

    Raises:
        InputError: the port is taken, or the certificate cannot be used.
    """
    import grpc

    options = [
        ("grpc.max_receive_message_length", settings.max_body),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # or two servers would share a port without a word
        ("grpc.keepalive_time_ms", 20_000),  # a client that is gone is found out
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_handlers(grpc, repository, metrics, settings),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.key is not None and settings.certificate is not None:
            pair = (settings.key.read_bytes(), settings.certificate.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except (RuntimeError, OSError) as error:
        raise InputError(f"gRPC cannot listen on {address} ({error}): choose another port") from None
    return server, port


def _handlers(grpc: Any, repository: Repository, metrics: Metrics, settings: Settings) -> Any:
    made = messages()

    def admit(context: Any) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        given = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
        if settings.token is not None and not hmac.compare_digest(given.encode(), f"Bearer {settings.token}".encode()):
            raise Fault(401, "the token is missing or wrong: send it as 'authorization: Bearer ...'")

    def parsed(name: str, data: bytes) -> Any:
        """A message from its bytes. Where grpc parses them, a client's slip reads as the server's."""
        from google.protobuf.message import DecodeError

        try:
            return made[name].FromString(data)
        except DecodeError:
            raise Fault(400, f"the request is no {name}") from None

    async def infer(message: Any, context: Any, wait: bool = False) -> Any:
        began, label, status = time.perf_counter(), message.model_name, 200
        try:
            served, _ = repository.find(message.model_name, message.model_version)
            return _write(made, await served.infer(_read(message), _client(context.peer()), wait))
        except asyncio.CancelledError:
            status = 499
            raise
        except Exception as error:
            found = fault(error)
            status = found.status
            raise found from error
        finally:
            metrics.observe(label, "grpc", status, time.perf_counter() - began)

    def unary(name: str, answer: Callable[[Any, Any], Awaitable[Any]], is_open: bool = False) -> Any:
        async def handle(data: bytes, context: Any) -> Any:
            try:
                if not is_open:
                    admit(context)
                return await answer(parsed(f"{name}Request", data), context)
            except Exception as error:
                found = fault(error)
                metrics.failed(found, error)
            await context.abort(grpc.StatusCode[GRPC[found.status]], str(found))

        serialize = made[f"{name}Response"].SerializeToString
        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=serialize)

    async def live(message: Any, context: Any) -> Any:
        return made["ServerLiveResponse"](live=True)

    async def ready(message: Any, context: Any) -> Any:
        return made["ServerReadyResponse"](ready=not repository.draining)

    async def model_ready(message: Any, context: Any) -> Any:
        try:
            repository.find(message.name, message.version)
        except Fault:
            return made["ModelReadyResponse"](ready=False)
        return made["ModelReadyResponse"](ready=not repository.draining)

    async def server_metadata(message: Any, context: Any) -> Any:
        return made["ServerMetadataResponse"](name="rnn-export", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(message: Any, context: Any) -> Any:
        found = metadata(*repository.find(message.name, message.version))
        found.pop("limits", None)  # for which the protocol has no field over gRPC
        return made["ModelMetadataResponse"](**found)

    async def stream(requests: AsyncIterator[bytes], context: Any) -> None:
        """Requests in, answers out as they come; those of one sequence run in the order they were sent."""
        try:
            admit(context)
        except Fault as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        places = asyncio.Semaphore(_IN_FLIGHT)
        writing = asyncio.Lock()

        async def one(data: bytes) -> None:
            answer = made["ModelStreamInferResponse"]()
            try:
                message = parsed("ModelInferRequest", data)
                answer.infer_response.id = message.id
                answer.infer_response.CopyFrom(await infer(message, context, wait=True))
            except Exception as error:
                found = fault(error)
                metrics.failed(found, error)
                answer.error_message = str(found)
            try:
                async with writing:
                    await context.write(answer)
            except grpc.aio.InternalError:
                pass  # the client is gone
            finally:
                places.release()  # not before: from a client that does not read its answers no more is read

        async with asyncio.TaskGroup() as tasks:
            async for data in requests:
                await places.acquire()
                tasks.create_task(one(data))

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "ServerLive": unary("ServerLive", live, is_open=True),
            "ServerReady": unary("ServerReady", ready, is_open=True),
            "ModelReady": unary("ModelReady", model_ready),
            "ServerMetadata": unary("ServerMetadata", server_metadata),
            "ModelMetadata": unary("ModelMetadata", model_metadata),
            "ModelInfer": unary("ModelInfer", infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                stream, response_serializer=made["ModelStreamInferResponse"].SerializeToString
            ),
        },
    )


def _read(message: Any) -> Request:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise Fault(400, f"raw_input_contents has {len(raw)} tensors for {len(message.inputs)} inputs")
    inputs = {}
    for k, tensor in enumerate(message.inputs):
        dtype, shape = dtype_of(tensor.name, tensor.datatype), list(tensor.shape)
        if tensor.name in inputs:
            raise Fault(400, f"the input {brief(tensor.name)} is given twice")
        if raw:
            inputs[tensor.name] = from_raw(tensor.name, raw[k], dtype, shape)
            continue
        field = _TYPED.get(tensor.datatype)
        if field is None:
            raise Fault(400, f"{brief(tensor.datatype)} goes in raw_input_contents alone")
        values = np.array(getattr(tensor.contents, field))
        if dtype.kind in "ui" and values.size and not np.array_equal(values.astype(dtype), values):
            raise Fault(400, f"the data of {brief(tensor.name)} has values out of the range of {dtype}")
        inputs[tensor.name] = shaped(tensor.name, values.astype(dtype), shape)
    parameters = {}
    for name, parameter in message.parameters.items():
        chosen = parameter.WhichOneof("parameter_choice")
        parameters[name] = getattr(parameter, chosen) if chosen else None
    outputs = [output.name for output in message.outputs] or None
    return Request(message.id, inputs, *sequence_of(parameters), outputs, None)


def _write(made: dict[str, Any], answer: Answer) -> Any:
    request = answer.request
    message = made["ModelInferResponse"](model_name=answer.model, model_version=answer.version, id=request.id)
    for name, array in answer.outputs.items():
        message.outputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        message.raw_output_contents.append(to_raw(array))
    if request.sequence is not None:
        kind = "string_param" if isinstance(request.sequence, str) else "int64_param"
        kind = "uint64_param" if kind == "int64_param" and int(request.sequence) >= 2**63 else kind
        setattr(message.parameters["sequence_id"], kind, request.sequence)
    return message


def _client(peer: str) -> str:
    """The address in "ipv4:127.0.0.1:50000"."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "") or peer
