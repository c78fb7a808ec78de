"""What can go wrong with a request, as one table: the HTTP status, and the gRPC code for it."""

from __future__ import annotations

from .._errors import Error, InputError, PoolFull, QueueFull, StreamClosed, UnknownId

GRPC = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS",
    410: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    422: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status -> the name of the gRPC code."""


LONGEST = 600
"""Characters of an error's text. A client's own words come back in it, and gRPC sends it as a header."""


class Fault(Error):
    """A request that gets an error for an answer; its text is cut, and can be sent as UTF-8.

    Attributes:
        status: the HTTP status; `GRPC` has the code for it.
    """

    def __init__(self, status: int, message: str) -> None:
        text = message if len(message) <= LONGEST else f"{message[: LONGEST - 3]}..."
        super().__init__(text.encode("utf-8", "backslashreplace").decode())  # JSON can hold half a surrogate pair
        self.status = status


def fault(error: BaseException) -> Fault:
    """The answer that an error of the runtime's gets."""
    if isinstance(error, Fault):
        return error
    text = str(error)
    if isinstance(error, InputError) and not isinstance(error, UnknownId):
        return Fault(400, text)
    if isinstance(error, QueueFull):
        return Fault(503, "the queue is full: the request was not taken, send it again later")
    if isinstance(error, PoolFull):
        return Fault(503, "as many sequences are open as may be: the sequence was not begun, try again later")
    if isinstance(error, StreamClosed):
        return Fault(410, f"{text}; begin a new one with sequence_start")
    if isinstance(error, Error):
        # Names, types and sizes fit, so it is the values: an id that the model does not have, say.
        return Fault(422, f"the model fails on these values; the state is as it was ({text})")
    return Fault(500, f"the server failed ({type(error).__name__}): its log tells more")
