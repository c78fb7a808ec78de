"""One export at a time: tracing sets the default dtype and one of PyTorch's own methods for the whole process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rnn_runtime import Error

from ._environment import plain
from ._errors import ExportError
from ._lines import line_of_error

_LOCK = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """While this lasts, other threads that come here wait, and PyTorch is as it is by default."""
    with _LOCK, plain():
        yield


@contextmanager
def told() -> Iterator[None]:
    """While this lasts, what PyTorch or a model raises by itself becomes an ExportError with the line of its code."""
    try:
        yield
    except (Error, OSError, MemoryError):
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(
            f"the model cannot be exported{line_of_error(error)}: {type(error).__name__}: {first}. Rewrite "
            "that part in plain tensor operations, or leave it out in a wrapper module"
        ) from error
