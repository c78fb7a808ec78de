"""The package ray, and a cluster to use it with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from .._errors import DependencyError, Error


def package() -> Any:
    """The package ray, told to report nothing to its makers. Raises DependencyError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise DependencyError('ray is not installed: pip install "rnn-export[ray]"') from None
    return ray


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """The package with a cluster: the one in use, the one that RAY_ADDRESS names, or one of this machine until the end.

    That one listens on loopback alone, and has no dashboard.

    Raises:
        Error: there is no cluster at RAY_ADDRESS.
    """
    ray = package()
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except ConnectionError as error:
        why = " ".join(str(error).split())
        raise Error(f"there is no Ray cluster at RAY_ADDRESS, {address!r} ({why}): start one, or unset it") from None
    try:
        yield ray
    finally:
        ray.shutdown()
