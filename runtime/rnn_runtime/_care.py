"""What keeps a pool right when an exception comes between any two of its lines: Ctrl-C, or no memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ._errors import Error, StreamClosed

if TYPE_CHECKING:
    from types import TracebackType


class Bell:
    """Wakes the pool's thread."""

    # A condition would come back with the pool's lock but without the GIL yet, and who pushes then would wait for both.
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """End the next `wait`, or the one under way. The caller holds the pool's lock."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, seconds: float) -> None:
        """Sleep until it rings, or for so many seconds; -1 has no end."""
        self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class Care:
    """Entered with the pool's lock by whoever changes the pool: a change that is left half done closes the pool.

    An error of the project is a refusal, raised before anything has changed.

    Attributes:
        closed: no chunk is taken or run any more.
        broken: why, where a change was left half done; "" where none was.
    """

    # It knows the bell and not the pool: what is in a cycle stays for ever in a process that has frozen it.
    def __init__(self, bell: Bell) -> None:
        self.closed, self.broken = False, ""
        self._bell = bell

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Error):
            self.breaks(error)

    def breaks(self, error: BaseException | None) -> None:
        """Close the pool, as nobody can tell what state it is in. The caller holds its lock."""
        if not self.broken:
            self.broken = f"it was closed, as {error!r} came while it changed and a state may be half stored"
        self.closed = True
        self._bell.ring()  # the pool's thread answers everyone, and ends

    def require(self) -> None:
        """Raises StreamClosed where the states cannot be trusted."""
        if self.broken:
            raise StreamClosed(f"the pool is gone: {self.broken}; make another")
