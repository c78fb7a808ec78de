import functools
import os
import random
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import settings

# The first call of a session or of a captured program takes far longer than the next, so examples have no deadline.
settings.register_profile("rnn-export", settings(), deadline=None)
settings.load_profile("rnn-export")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not cuda_is_here():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU and onnxruntime-gpu"))


def cuda_is_here() -> bool:
    import onnxruntime  # only when a test asks for it

    # onnxruntime-gpu names its provider on machines without a GPU too.
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and shutil.which("nvidia-smi") is not None


def pytest_configure(config):
    if find_spec("torch") is not None:  # where the runtime's tests run there is none
        _translate_once()
        config.add_cleanup(_share_the_child())
    # Slices of large suites change from run to run. The first process sets the seed, and its workers inherit it.
    os.environ.setdefault("RNN_EXPORT_SEED", str(random.SystemRandom().randrange(10**6)))


def pytest_report_header(config):
    return f"slices of large suites: RNN_EXPORT_SEED={os.environ['RNN_EXPORT_SEED']}"


def _translate_once() -> None:
    """Have onnxscript make its table of operators once in a process: to make it takes a third of a small export."""
    from torch.onnx._internal._lazy_import import onnxscript_apis

    onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)


def _share_the_child() -> Callable[[], None]:
    """Have all exports of a process try their graphs in one child, unless it has died; how to end it."""
    from rnn_export._first import FirstRun

    start, said = FirstRun._started, FirstRun._said
    shared = [FirstRun()]

    @functools.wraps(start)
    def started(self: FirstRun) -> Any:
        child = shared[0]._child
        if child is not None and child.poll() is not None:
            end()
            shared[0] = FirstRun()
        return start(shared[0])

    def end() -> None:
        shared[0].__exit__(None, None, None)

    FirstRun._started = started  # type: ignore[method-assign]
    FirstRun._said = functools.wraps(said)(lambda self: said(shared[0]))  # type: ignore[method-assign]
    return end


@pytest.fixture
def own_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each export has a child of its own, as it has outside of these tests."""
    from rnn_export._first import FirstRun

    for name in ("_started", "_said"):
        monkeypatch.setattr(FirstRun, name, getattr(FirstRun, name).__wrapped__)
