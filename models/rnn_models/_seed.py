"""Random numbers that neither depend on the global random state nor change it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch on the CPU for a block, or as a decorator for a function; the global state is put back at its end.

    What is built inside lies on the CPU, whatever the default device.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed, which gives the same numbers on the CPU and also reseeds every GPU.
        torch.default_generator.manual_seed(seed)
        yield
