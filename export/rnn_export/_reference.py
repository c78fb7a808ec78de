"""The yardstick: eager PyTorch in float64, and eager float32 beside it, on inputs of any size."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rnn_runtime import Signature

from ._capture.module import Flat, float64
from ._capture.sample import Sampler
from ._errors import ExportError
from ._quiet import quiet

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One input and what eager PyTorch makes of it.

    Attributes:
        sizes: the size of each dynamic axis.
        inputs: all inputs by name.
        want: all outputs by name, computed in float64; whole numbers and booleans as the model itself gives them.
        eager: all outputs by name, as the model itself gives them.
    """

    sizes: dict[str, int]
    inputs: Arrays
    want: Arrays
    eager: Arrays


class Reference:
    """Runs the eager model, in its own precision and in float64."""

    def __init__(self, flat: Flat, signature: Signature, sampler: Sampler) -> None:
        self.signature = signature
        self._flat = flat
        self._wide = copy.deepcopy(flat).double()
        self._samplers = [sampler]
        if sampler.lengths:
            # Models that pack with enforce_sorted=True, or add packed to padded data, refuse other lengths.
            self._samplers += [
                replace(sampler, sorted_lengths=True),
                replace(sampler, sorted_lengths=True, full_lengths=True),
            ]

    def case(self, sizes: Mapping[str, int], seed: int) -> Case | None:
        """A case of these sizes; None where the eager model itself takes no input of these sizes."""
        for sampler in self._samplers:
            inputs = sampler.draw(sizes, seed)
            try:
                return self.on(inputs, sizes)
            except _REFUSED:
                continue
        return None

    def on(self, inputs: Sequence[Tensor], sizes: Mapping[str, int]) -> Case:
        """The case of given inputs, in order. Raises what the eager model raises."""
        with quiet(), torch.no_grad():
            eager = self._flat(*_copies(inputs))
            wide = [tensor.double() if tensor.is_floating_point() else tensor.clone() for tensor in inputs]
            with float64():
                want = self._wide(*wide)
        names = [spec.name for spec in self.signature.outputs]
        if len(eager) != len(names):
            raise ExportError(f"the model gives {len(eager)} outputs where the signature has {len(names)}: {names}")
        return Case(
            sizes=dict(sizes),
            inputs={spec.name: tensor.numpy() for spec, tensor in zip(self.signature.inputs, inputs, strict=True)},
            want={n: (w if w.is_floating_point() else e).numpy() for n, w, e in zip(names, want, eager, strict=True)},
            eager={name: tensor.numpy() for name, tensor in zip(names, eager, strict=True)},
        )


_REFUSED = (RuntimeError, ValueError, IndexError, AssertionError)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Clones, since a model may write into its inputs."""
    return [tensor.clone() for tensor in tensors]


def grid(traced: Mapping[str, int]) -> list[dict[str, int]]:
    """The sizes that an export is compared at: 1, primes, sizes far above the traced ones, and the traced ones.

    Every batch size meets every size of the next axis; further axes take turns, so that no two axes always agree.
    """
    ordered = sorted(traced, key=lambda axis: axis != "batch")
    lists = [BATCHES if axis == "batch" else LENGTHS for axis in ordered]
    shapes = []
    for i, first in enumerate(lists[0]):
        for j, second in enumerate(lists[1] if len(lists) > 1 else [0]):
            chosen = [first, second, *(sizes[(i + j + k) % len(sizes)] for k, sizes in enumerate(lists[2:], 1))]
            shapes.append(dict(zip(ordered, chosen, strict=False)))
    return [*shapes, dict(traced)]


BATCHES = (1, 2, 7)
LENGTHS = (1, 2, 13, 64)
