"""The package ray, and a cluster to use it with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from .._errors import DependencyError, Error

_PATIENCE = 5.0  # seconds for a cluster to answer


def package() -> Any:
    """The package ray, told to report nothing to its makers. Raises DependencyError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise DependencyError('ray is not installed: pip install "rnn-export[ray]"') from None
    return ray


def reachable() -> Any:
    """The package, where a cluster answers if RAY_ADDRESS names one: ray.init would try for a quarter of an hour.

    Raises:
        DependencyError: ray is not installed.
        Error: no cluster answers at RAY_ADDRESS.
    """
    ray = package()
    if (address := _address()) is not None and not ray.is_initialized() and (why := _silent(address)):
        raise _no_cluster(address, why)
    return ray


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """The package with a cluster: the one in use, the one that RAY_ADDRESS names, or one of this machine until the end.

    That one listens on loopback alone, and has no dashboard.

    Raises:
        DependencyError: ray is not installed.
        Error: no cluster answers at RAY_ADDRESS.
    """
    ray = reachable()
    if ray.is_initialized():
        yield ray
        return
    address = _address()
    local = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise _no_cluster(address, str(error)) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _address() -> str | None:
    """RAY_ADDRESS, where it names a cluster."""
    address = os.environ.get("RAY_ADDRESS", "local")
    return None if address in ("", "local") else address


def _no_cluster(address: str, why: str) -> Error:
    why = " ".join(why.split())  # the texts of others have lines
    return Error(f"there is no Ray cluster at RAY_ADDRESS, {address!r} ({why}): start one, or unset it")


def _silent(address: str) -> str:
    """Why there is no cluster at an address, or "": asked for a sign of life, over gRPC and as Ray itself connects."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.services import canonicalize_bootstrap_address

    scheme, _, host = address.rpartition("://")
    if scheme not in ("", "ray"):
        return ""  # ray.init knows what it is, or says that it does not
    try:
        found = host if scheme else canonicalize_bootstrap_address(address)
        with init_grpc_channel(found, [("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=_PATIENCE)
    except (ConnectionError, ValueError) as error:  # no address, or "auto" where there is no cluster
        return str(error)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"nothing answers within {_PATIENCE:g} s"
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return str(error.details())
        if error.code() == grpc.StatusCode.UNIMPLEMENTED and not scheme:
            return f"it is no cluster's own port; one for clients is ray://{host}"
    return ""
