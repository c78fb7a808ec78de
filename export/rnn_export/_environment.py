"""The environment of an export: PyTorch's own defaults, whatever the caller's program has set."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.overrides
from torch.utils import _python_dispatch as dispatch

from ._errors import ExportError
from ._lines import line_of


@contextmanager
def plain() -> Iterator[None]:
    """While this lasts: no autocast, default dtype float32, default device CPU, no grad or inference mode, no modes.

    An export runs the model many times, by several tracers, and holds all results against each other. What a caller
    has set around it (an autocast, a default device, a mode of its own) would change some of these runs and not others.
    All of it is put back.
    """
    dtype = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    products = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        # The modes first: one that stays on the stack would see all that follows.
        for _ in range(torch._C._len_torch_function_stack()):  # a default device is one of them
            stack.enter_context(torch.overrides._pop_mode_temporarily())
        stack.enter_context(dispatch._disable_current_modes())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_float32_matmul_precision, products)
        stack.callback(torch.use_deterministic_algorithms, deterministic[0], warn_only=deterministic[1])
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
        stack.enter_context(_without_autocast())
        yield


@contextmanager
def _without_autocast() -> Iterator[None]:
    """While this lasts, an autocast that a model turns on for the CPU is refused; others are passed over.

    A tracer makes a graph of its own of what runs under an autocast, in which no layer would be found.
    """
    kind: Any = torch.autocast
    enter, leave, own = kind.__enter__, kind.__exit__, threading.get_ident()

    def entered(self: Any) -> Any:
        if threading.get_ident() != own:
            return enter(self)
        if self._enabled and self.device == "cpu":
            raise ExportError(
                f"the model runs under an autocast to {self.fast_dtype}{line_of(sys._getframe(1))}, and a bundle "
                "computes in the model's own dtypes: leave it out, or turn it off for the export "
                "(torch.autocast('cpu', enabled=False)); for 16 bits on a GPU use precision='float16'"
            )
        return self

    def left(self: Any, *error: Any) -> Any:
        return leave(self, *error) if threading.get_ident() != own else False

    kind.__enter__, kind.__exit__ = entered, left
    try:
        yield
    finally:
        kind.__enter__, kind.__exit__ = enter, leave
