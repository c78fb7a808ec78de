"""Which lengths a model takes, found by trying: along which axis they count, the smallest, and whether one fills it."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace

import torch

from rnn_runtime import LengthsSpec

from .._quiet import quiet
from .module import REFUSED, copied
from .prepare import Prepared
from .sample import Sampler


def settle(prepared: Prepared, spec: LengthsSpec | None, sampler: Sampler) -> tuple[LengthsSpec | None, Sampler]:
    """The lengths and the sampler with what eager PyTorch takes as lengths, as far as the example shows it.

    Lengths that the model computes with count along the axis of the input, or along what it makes of it: whichever
    eager PyTorch takes as full.
    """
    if spec is None:
        return None, sampler

    def takes(**how: object) -> bool:
        return _takes(prepared, replace(sampler, sorted_lengths=True, **how))  # type: ignore[arg-type]

    words = [axis for axis in prepared.sizes if re.search(rf"\b{axis}\b", spec.axis)]
    if spec.axis not in prepared.sizes and len(words) == 1 and takes(lengths=(spec.input, words[0])):
        spec = replace(spec, axis=words[0])
    sampler = replace(sampler, lengths=(spec.input, spec.axis))
    if not takes(short_lengths=True) and takes(full_lengths=True):
        spec = replace(spec, full=True)
        sampler = replace(sampler, full_lengths=True)
    shortest = max(0, int(prepared.traced[prepared.names.index(spec.input)].min()))
    least = min(shortest, 1)
    if least and not takes(fixed_length=1, full_lengths=True):
        # of a row as short the model leaves nothing
        least = next((n for n in range(2, shortest) if takes(fixed_length=n, full_lengths=True)), shortest)
    spec = replace(spec, minimum=least)
    sampler = replace(sampler, smallest_length=least)
    return spec, sampler


def _takes(prepared: Prepared, sampler: Sampler) -> bool:
    """Whether eager PyTorch takes what this sampler draws."""
    with contextlib.suppress(*REFUSED), quiet(), torch.no_grad():
        copied(prepared.flat)(*sampler.draw(prepared.sizes, seed=0))
        return True
    return False
