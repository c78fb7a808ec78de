"""Whether a program written anew for streams is the model: in pieces of every kind, it has to give the whole run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..._equal import FLOAT64, equal
from ..._errors import ExportError
from ..._quiet import quiet
from ..limits import allowed
from ..module import REFUSED, copied, float64, wide_copy, widened
from ..prepare import Prepared
from ..sample import Sampler

SIZES = range(1, 14)
"""Every piece of a stream is as long as one of these, in one of the trials: before a long piece, and after it."""
PIECES = 8
"""As many come before the long piece, and after it."""


def require_equal(prepared: Prepared, streamed: Prepared, axis: str, least: int, spans: Sequence[int]) -> None:
    """Run the model in float64 over whole sequences, and what was written for streams over the same in pieces.

    Args:
        prepared: the model.
        streamed: the same, written anew.
        axis: the one that is cut.
        least: the fewest steps of a whole sequence that the program was found to be right for: fewer are tried.
        spans: how far each window looks back.

    Raises:
        ExportError: they differ.
    """
    model, other = wide_copy(prepared.flat), wide_copy(streamed.flat)
    tried = 0
    for seed, (steps, cuts) in enumerate(_trials(sum(spans), least)):
        sizes = {**prepared.sizes, axis: steps}
        sizes |= {one: 1 + (size + seed) % 4 for one, size in prepared.sizes.items() if one != axis and seed % 3 == 1}
        if not allowed(prepared.limits, sizes):
            continue
        drawn = Sampler(prepared.names, prepared.axes, prepared.traced).draw(sizes, seed)
        states = {slot.input: slot.zeros(sizes) for slot in streamed.flat.states}
        inputs = [widened(states.get(n, x)) for n, x in zip(prepared.names, drawn, strict=True)]
        with quiet(), torch.no_grad(), float64():
            try:
                want = copied(model)(*(x.clone() for x in inputs))
            except REFUSED:
                continue
            try:
                pieces = _run(other, streamed, inputs, {n: widened(x) for n, x in states.items()}, axis, cuts)
            except REFUSED as error:
                raise ExportError(
                    f"state='lift', but the model takes no piece of {cuts[0]} steps along {axis!r} on a stream "
                    f"({str(error).strip().partition(chr(10))[0]}). Use state='none'"
                ) from error
        tried += 1
        _require(prepared, want, pieces, axis, steps, cuts)
    if not tried:
        raise ExportError(f"state='lift', but the model takes no sequence along {axis!r}. Use state='none'")


def _trials(longest: int, least: int) -> Iterator[tuple[int, list[int]]]:
    """Lengths of whole sequences, and of their pieces: cuts lie before, within and beyond the longest look back."""
    for size in SIZES:
        cuts = [*[size] * PIECES, longest + 1, *[size] * PIECES]
        yield sum(cuts), cuts
    generator = random.Random(0)
    for steps in (*range(1, max(6, least)), longest + 1, 2 * longest + 13):
        left, cuts = steps, []
        while left:
            cuts.append(min(left, generator.choice((1, 2, 3, 7, 13, longest // 2 + 1, longest + 1))))
            left -= cuts[-1]
        yield steps, cuts
        yield steps, [steps]


def _run(
    other: torch.nn.Module,
    streamed: Prepared,
    inputs: list[Tensor],
    states: dict[str, Tensor],
    axis: str,
    cuts: list[int],
) -> list[tuple[Tensor, ...]]:
    results = []
    paths = [path[-1] if path else None for path in streamed.output_paths]
    for start, size in zip(itertools.accumulate([0, *cuts]), cuts, strict=False):
        piece = []
        for name, x in zip(streamed.names, [*inputs, *states.values()], strict=False):
            dims = [dim for dim, own in streamed.axes[name].items() if own == axis]
            part = states.get(name, x)
            for dim in dims:
                part = part.narrow(dim, start, size)
            piece.append(part.clone())
        piece = [states.get(n, p) for n, p in itertools.zip_longest(streamed.names, piece)]
        found = other(*piece)
        results.append(found)
        for slot in streamed.flat.states:
            states[slot.input] = found[paths.index(slot.output)]
    return results


def _require(
    prepared: Prepared,
    want: tuple[Tensor, ...],
    pieces: list[tuple[Tensor, ...]],
    axis: str,
    steps: int,
    cuts: list[int],
) -> None:
    own = len(want) - len(prepared.flat.states)  # what a layer's state is after a whole run is nobody's result
    for k, whole in enumerate(want[:own]):
        parts = [piece[k] for piece in pieces]
        if not any(_alike(whole, joined) for joined in _joined(parts, steps)):
            name = ".".join(map(str, prepared.output_paths[k])) or "the result"
            raise ExportError(
                f"state='lift', but {name} is another when a sequence of {steps} steps along {axis!r} comes in pieces "
                f"of {', '.join(map(str, cuts[:5]))} and so on: the model looks at something else than steps before. "
                "Use state='none'"
            )


def _joined(parts: list[Tensor], steps: int) -> Iterator[Tensor]:
    """What pieces can make: the last one, or all of them one after the other."""
    yield parts[-1]
    for dim in range(parts[0].dim()):
        others = {(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}
        if len(others) == 1 and sum(part.shape[dim] for part in parts) == steps:
            yield torch.cat(parts, dim)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and equal(b, a, FLOAT64)
