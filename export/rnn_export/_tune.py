"""tune(): a bundle's layers written in each way there is, measured on this machine; the fastest stays."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnn_runtime import InputError, MismatchError, _golden, load
from rnn_runtime._bundle import GOLDEN, MANIFEST, ONNX, Bundle
from rnn_runtime._properties._draw import Draw
from rnn_runtime._report import compare
from rnn_runtime._text import aligned
from rnn_runtime._verify import hardware, sequences

from ._axis import Axis
from ._bench import Worker, check_numbers, in_turns, require_equal, sizes_of, whole
from ._capture import Layer
from ._errors import ExportError
from ._export import export
from ._lower.onnx import LOWERINGS, chosen
from ._seal import check_target, unsealed
from ._versions import versions

VERSION = 1
WORTH = 0.97
"""What another way has to take of the present one's time, at the median of the rounds, to replace it."""
ROUNDS_WON = 0.9
"""In what part of the rounds it has to be faster: less is noise."""


@dataclass(frozen=True)
class Candidate:
    """One way of writing the layers.

    Attributes:
        lowering: its name.
        p50: seconds of a run, the median over the rounds' medians.
        spread: the smallest and the largest of these medians.
        ratio: of its time to the present one's, the median over the rounds.
        won: in what part of the rounds it was faster.
    """

    lowering: str
    p50: float
    spread: tuple[float, float]
    ratio: float
    won: float


@dataclass(frozen=True)
class Tuned:
    """What `tune` measured and did; `str()` is a table.

    Attributes:
        lowering: what the bundle has now.
        before: what it had.
        candidates: what was measured, the present one first; empty where there is one way alone.
        refused: ways that cannot be taken, with the reason.
        what: what was timed, "run" or "push".
        sizes: of each axis.
        threads: how many.
        about: the hardware and versions.
    """

    lowering: str
    before: str
    candidates: tuple[Candidate, ...]
    refused: dict[str, str]
    what: str
    sizes: dict[str, int]
    threads: int
    about: dict[str, Any]

    def to_json(self) -> str:
        """One line of JSON with a "version"."""
        return json.dumps({"version": VERSION, **asdict(self)})

    def __str__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in self.sizes.items())
        what = "a push of a stream" if self.what == "push" else "a run"
        title = f"{self.about['hardware']}; {what} at {sizes or 'its size'}, threads {self.threads}"
        head = ("lowering", "p50, µs", "spread", "÷ present", "rounds won")
        rows = [
            (
                one.lowering,
                f"{one.p50 * 1e6:.1f}",
                f"{one.spread[0] * 1e6:.1f}-{one.spread[1] * 1e6:.1f}",
                f"{one.ratio:.2f}" if k else "-",
                f"{one.won:.0%}" if k else "-",
            )
            for k, one in enumerate(self.candidates)
        ]
        lines = [title, "", aligned([head, *rows]), ""] if rows else []
        lines += [f"not {name}: {reason}" for name, reason in self.refused.items()]
        if self.lowering != self.before:
            lines.append(f"written with lowering={self.lowering!r} in place of {self.before!r}, and verified again")
        elif rows:
            lines.append(f"kept lowering={self.before!r}: no other is faster by more than the noise")
        else:
            lines.append(f"kept lowering={self.before!r}: there is no other way to write its layers")
        return "\n".join(lines)


def tune(
    path: str | Path,
    target: str | None = None,
    *,
    weights: Path | None = None,
    sizes: Mapping[str, int] | None = None,
    threads: int = 1,
    rounds: int = 20,
    seconds: float = 0.1,
) -> Tuned:
    """Write the layers of a bundle in each way there is, time them in turns, and keep the fastest in the bundle.

    Each way is exported, so proven against the model in float64, and runs in a process of its own. Another way takes
    the present one's place where it takes 0.97 of its time or less and was faster in nine rounds of ten. What was
    measured is noted in the manifest under "tuned". The bundle is replaced as a whole, or left as it is.

    Args:
        path: the bundle.
        target: the model that it was exported from, as `rnn-export export` takes it.
        weights: a state dict for it.
        sizes: the size of each axis; the recorded example's where left out. With one step, pushes of a stream are
            timed.
        threads: for each.
        rounds: how often each has its turn.
        seconds: how long a turn lasts at least.

    Raises:
        BundleError: the bundle is missing or damaged.
        InputError: there is more than one way and no `target`, the target is another model, an axis is unknown, or a
            number is out of range.
        MismatchError: two ways give other results. One that leaves eager PyTorch is refused, and the others measured.
        Error: a process fails.
    """
    sealed = Bundle.open(Path(path))
    sealed.verify_files()
    check_target(sealed.path, overwrite=True)
    check_numbers(threads, rounds, seconds)
    options = _options(sealed)
    example = _golden.unpack(sealed.read(GOLDEN))[0].inputs
    (at,) = sizes_of(sealed, example, {axis: [size] for axis, size in (sizes or {}).items()})
    others, refused = _others(sealed, options)
    before = lowering = str(options["lowering"])
    over = sequences(sealed.signature, [str(layer["axis"]) for layer in sealed.manifest["layers"]])
    what = "push" if sealed.signature.states and over and all(at[axis] == 1 for axis in over) else "run"
    candidates: tuple[Candidate, ...] = ()
    with tempfile.TemporaryDirectory() as temporary, unsealed(sealed.path, overwrite=True) as new:
        folders = {before: sealed.path}
        if others:
            made, failed = _exported(sealed, target, weights, options, others, Path(temporary))
            folders, refused = folders | made, refused | failed
        if len(folders) > 1:
            inputs = Draw(sealed.signature, whole(sealed, example))(at)
            candidates = _measured(sealed, folders, what, inputs, at, Path(temporary), threads, rounds, seconds)
            lowering = _winner(candidates)
        about = {"hardware": hardware(), "versions": versions()}
        tuned = Tuned(lowering, before, candidates, refused, what, at, threads, about)
        _install(folders[lowering], new, tuned)
    return tuned


def _options(sealed: Bundle) -> dict[str, Any]:
    """What the bundle was exported with."""
    options = sealed.manifest.get("options")
    if not isinstance(options, dict) or options.get("lowering") not in LOWERINGS or ONNX not in sealed.files:
        raise InputError(
            f"{sealed.path} does not say how its graph was written, or has none: export the model again, with 'onnx' "
            "among its formats"
        )
    if options["lowering"] == "decomposed":
        raise InputError(f"{sealed.path} is decomposed for a target that knows less: there is nothing to choose")
    if options.get("target") is not None:
        raise InputError(
            f"{sealed.path} is for {options['target']}, and what is fast there is not measured here: export it without "
            "`target` for this machine"
        )
    if options["precision"] == "float16":
        raise InputError(
            f"{sealed.path} is float16, for CUDA, and what is fast is measured on the CPU here: export it without "
            "`precision` for this machine"
        )
    return options


def _others(sealed: Bundle, options: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The lowerings that write some layer otherwise than the bundle's own, and why others cannot be had."""
    layers = [Layer(**layer) for layer in sealed.manifest["layers"]]

    def ways(lowering: str) -> tuple[str, ...]:
        asked = "int8" if (options["precision"], lowering) == ("int8", "auto") else lowering
        return tuple(chosen(layer, asked, split_directions=options["split_directions"]) for layer in layers)

    seen, others, refused = {ways(options["lowering"])}, [], {}
    for lowering in LOWERINGS:
        if lowering == "decomposed":
            continue
        try:
            found = ways(lowering)
        except ExportError as error:
            refused[lowering] = str(error).rpartition(":")[0]  # what follows is advice for an export
            continue
        if found not in seen:
            seen.add(found)
            others.append(lowering)
    return others, refused


def _exported(
    sealed: Bundle,
    target: str | None,
    weights: Path | None,
    options: Mapping[str, Any],
    others: Sequence[str],
    folder: Path,
) -> tuple[dict[str, Path], dict[str, str]]:
    """A verified bundle of the same model for each lowering, in `folder`; and why some cannot be had."""
    from .cli._target import arguments, limited

    if target is None:
        raise InputError(
            f"the layers of {sealed.path} can be written as {' or '.join(map(repr, others))} too, which is proven "
            f"against the model again: name the TARGET that it was exported from"
        )
    declared = [Axis(axis, least, most) for axis, (least, most) in options.get("limits", {}).items()]
    options = {name: value for name, value in options.items() if name != "limits"}
    folders, refused = {}, {}
    for lowering in others:
        given = limited(arguments(target, weights), target, declared)
        made = {**given, **options, "lowering": lowering}
        try:
            folders[lowering] = export(path=folder / lowering, **made).path
        except (ExportError, MismatchError) as error:
            refused[lowering] = str(error).partition("\n")[0].removesuffix(":")
            continue
        _require_same(sealed, Bundle.open(folders[lowering]), target)
    return folders, refused


def _require_same(sealed: Bundle, other: Bundle, target: str) -> None:
    """Raises InputError where another model was exported than the one in the bundle."""
    if other.signature != sealed.signature:
        raise InputError(f"{target} is not the model in {sealed.path}: its inputs and outputs are others")
    model = load(other.path)
    for case in _golden.unpack(sealed.read(GOLDEN)):
        got = model.run(case.inputs)
        for name, want in case.outputs.items():
            # Both may be that far from eager float64.
            found = compare(got[name], want, 2 * max(sealed.tolerance[name], other.tolerance[name]))
            if not found.passed:
                raise InputError(
                    f"{target} is not the model in {sealed.path}: on the recorded example {name!r} differs by "
                    f"{found.error:.2g}. Give the same weights (--weights)"
                )


def _measured(
    sealed: Bundle,
    folders: Mapping[str, Path],
    what: str,
    inputs: Mapping[str, Any],
    sizes: Mapping[str, int],
    temporary: Path,
    threads: int,
    rounds: int,
    seconds: float,
) -> tuple[Candidate, ...]:
    """Each folder's bundle timed, the first of them the present one."""
    backend = "stream" if what == "push" else "onnxruntime"
    with ExitStack() as stack:
        workers = {}
        for name, bundle in folders.items():
            exchange = temporary / f"{name}.exchange"
            exchange.mkdir()
            np.savez(exchange / "inputs.npz", **inputs)
            workers[name] = stack.enter_context(Worker(backend, bundle, None, None, threads, exchange))
        require_equal(sealed, {name: worker.run() for name, worker in workers.items()}, sizes)
        turns = in_turns(workers, rounds, seconds, threads)
    medians = {name: np.array([np.median(turn) for turn in found]) for name, found in turns.items()}
    present = next(iter(medians.values()))
    return tuple(
        Candidate(
            name,
            float(np.median(found)),
            (float(found.min()), float(found.max())),
            float(np.median(found / present)),
            float(np.mean(found < present)),
        )
        for name, found in medians.items()
    )


def _winner(candidates: Sequence[Candidate]) -> str:
    """The fastest of those that are faster than the first by more than the noise, or the first."""
    present, *others = candidates
    better = [one for one in others if one.ratio <= WORTH and one.won >= ROUNDS_WON]
    return min(better, key=lambda one: one.ratio, default=present).lowering


def _install(source: Path, folder: Path, tuned: Tuned) -> None:
    """Copy a bundle into `folder`, with a note of what was measured."""
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    for name in manifest["files"]:
        shutil.copyfile(source / name, folder / name)
    manifest["tuned"] = json.loads(tuned.to_json())
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n", encoding="utf-8")
