"""One export at a time: tracing sets the default dtype and one of PyTorch's own methods for the whole process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """While this lasts, other threads that come here wait."""
    with _LOCK:
        yield
