"""What the tests on Ray share: a cluster of two workers on this machine, and which of its processes do what."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MARK = f"RNN_EXPORT_TESTS={uuid.uuid4().hex}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from importlib.util import find_spec

    for item in items:
        if item.path.parent == Path(__file__).parent and find_spec("ray") is None:
            item.add_marker(pytest.mark.skip(reason="ray is not installed: make test-ray brings it"))


class Workers:
    """A head that runs nothing, and two nodes of two processors each that do."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        name, _, value = MARK.partition("=")
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", name: value}
        # Ray takes 127.0.0.1 for a name of the machine, and would look for its head at an address of the network.
        common = {"node_ip_address": "127.0.0.2", "include_dashboard": False, "object_store_memory": 200 * 2**20}
        self._common = common
        self.cluster = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 1, "resources": {"head": 1}})
        self.nodes = [self.cluster.add_node(**common, num_cpus=2) for _ in range(2)]

    def processes(self, title: str) -> set[int]:
        """The processes of this cluster whose name has this in it."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if title in (entry / "cmdline").read_text() and MARK in (entry / "environ").read_text():
                    found.add(int(entry.name))
            except (OSError, ValueError):
                continue
        return found

    def kill(self, title: str) -> int:
        """Kill one process of this name, as soon as there is one, and give its id."""
        until = time.monotonic() + 30
        while not (found := self.processes(title)):
            assert time.monotonic() < until, f"there is no process {title!r}"
            time.sleep(0.05)
        os.kill(victim := min(found), signal.SIGKILL)
        return victim

    def lose_node(self) -> None:
        """End a node and all that is on it at once, and start another."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**self._common, num_cpus=2))


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    import ray

    made = Workers()
    ray.init(address=made.cluster.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield made
    ray.shutdown()
    made.cluster.shutdown()


@pytest.fixture(scope="session")
def files() -> Path:
    return Path(__file__).parent.parent / "runtime" / "fixtures"


@pytest.fixture(scope="session")
def sequence() -> Callable[[int], Any]:
    """The n-th sequence of the tests: float32 (1 to 12 steps, 4)."""

    def make(n: int) -> Any:
        random = np.random.default_rng(n)
        return random.standard_normal((random.integers(1, 13), 4)).astype(np.float32)

    return make
