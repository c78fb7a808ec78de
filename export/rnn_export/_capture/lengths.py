"""Which lengths a model takes, found by trying: along which axis they count, the smallest, and whether one fills it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from rnn_runtime import LengthsSpec

from .._quiet import quiet
from .module import REFUSED, copied
from .prepare import Prepared
from .sample import Sampler


def settle_lengths(
    prepared: Prepared, specs: Sequence[LengthsSpec], sampler: Sampler
) -> tuple[list[LengthsSpec], Sampler]:
    """The lengths and the sampler with what eager PyTorch takes as lengths, as far as the example shows it.

    Lengths that the model computes with count along the axis of the input, or along what it makes of it: whichever
    eager PyTorch takes as full.
    """
    settled = list(specs)
    for k in range(len(settled)):
        settled[k] = _settle(prepared, settled, k, sampler)
    return settled, replace(sampler, lengths=tuple(settled))


def _settle(prepared: Prepared, specs: Sequence[LengthsSpec], k: int, sampler: Sampler) -> LengthsSpec:
    spec = specs[k]
    others = [replace(other, full=True) for j, other in enumerate(specs) if j != k]

    def takes(spec: LengthsSpec, **how: object) -> bool:
        drawing = replace(sampler, lengths=(spec, *others), sorted_lengths=True, **how)  # type: ignore[arg-type]
        return _takes(prepared, drawing)

    words = [axis for axis in prepared.sizes if re.search(rf"\b{axis}\b", spec.axis)]
    if spec.axis not in prepared.sizes and len(words) == 1 and takes(replace(spec, axis=words[0])):
        spec = replace(spec, axis=words[0])
    if not takes(spec, short_lengths=True) and takes(replace(spec, full=True)):
        spec = replace(spec, full=True)
    shortest = max(0, int(prepared.traced[prepared.names.index(spec.input)].min()))
    least = min(shortest, 1)
    if least and not takes(spec, fixed_length=1, full_lengths=True):
        # of a row as short the model leaves nothing
        least = next((n for n in range(2, shortest) if takes(spec, fixed_length=n, full_lengths=True)), shortest)
    return replace(spec, minimum=least)


def _takes(prepared: Prepared, sampler: Sampler) -> bool:
    """Whether eager PyTorch takes what this sampler draws."""
    with contextlib.suppress(*REFUSED), quiet(), torch.no_grad():
        copied(prepared.flat)(*sampler.draw(prepared.sizes, seed=0))
        return True
    return False
