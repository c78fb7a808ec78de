"""A forked child shares none of ONNX Runtime's threads: what was loaded before the fork is refused there."""

from __future__ import annotations

import os

from ._errors import Error

generation = 0
"""How many forks lie between this process and the one that imported rnn_runtime."""


def _forked() -> None:
    global generation
    generation += 1


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forked)


def check(loaded: int) -> None:
    """Raise Error if the process was forked since `generation` was `loaded`."""
    if loaded != generation:
        raise Error(
            "the model was loaded before this process was forked, and ONNX Runtime's threads stayed behind: "
            "load after the fork, in the worker itself"
        )
