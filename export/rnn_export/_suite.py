"""The verification suite: a grid of sizes, every property on every backend, and where one leaves eager PyTorch."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rnn_runtime import Check, InputError, Report, Row
from rnn_runtime._bundle import Bundle
from rnn_runtime._properties import ALONE, EFFORTS, Draw, Effort, OutOfDomain, Property, broken, examine, reads_padding
from rnn_runtime._tolerances import SLACK, precision
from rnn_runtime._verify import Progress, hardware

from . import _backends
from ._backends import Backend
from ._compare import compare
from ._locate import locate
from ._properties import Drift, Held, everything
from ._properties._held import Yardstick
from ._reference import Case, Reference, grid
from ._versions import versions

STEPS = {"quick": 1_000, "default": 10_000, "full": 10_000}
"""How long the sequence of the drift is, by level."""

SECONDS = 30.0
"""How long all searches together may take at level "default"."""

LONG = 60.0
"""Seconds; what is thought to take longer says so first."""

MODELS_OWN = ("rows", "split", "padding", "state")
"""Properties that a model may lack by itself: eager PyTorch is asked whether it has them."""


@dataclass
class Suite:
    """What `rnn_export.verify` was asked to do, and with what; see there.

    Attributes:
        sealed: the bundle.
        reference: the live model.
        traced: the size of each axis that the model is traced with.
        over: the axes that recurrent layers run over.
    """

    sealed: Bundle
    reference: Reference
    traced: Mapping[str, int]
    over: Collection[str]
    device: str
    tolerance: float | None
    level: str
    seed: int
    only: str | None
    backend: str | None
    trial: Mapping[str, int] | None
    trace: bool
    command: str
    progress: Progress | None
    _start: float = field(default_factory=time.monotonic)

    def run(self) -> Report:
        """The grid, the properties, and where backends leave the yardstick."""
        backends = _backends.sealed(self.sealed, self.device)
        others, left_out = _backends.others(self.sealed) if self.device == "cpu" else ([], {})
        backends = self._chosen([*backends, *others])
        properties = self._properties()
        drift = next((prop for prop in properties if isinstance(prop, Drift)), None)
        self._tell("a grid of sizes", 0, 1)
        cases = self._cases() if self.only is None else []
        before = time.monotonic()
        report = compare(cases, backends, self.tolerance, self._precision, SLACK) if cases else Report(())
        pairs = [(prop, backend) for prop in properties for backend in backends if self._asked(prop, backend)]
        effort = self._effort(len(pairs))
        estimate = _estimate(time.monotonic() - before, len(cases), len(pairs), effort)
        if estimate > LONG:
            self._tell(f"about {estimate:.0f} s", 0, len(pairs))
        checks = self._checks(pairs, effort)
        self._tell("where backends leave eager PyTorch", len(pairs), len(pairs))
        wrong = {row.backend for row in report.failures} | {check.backend for check in checks if _traceable(check)}
        looked = [backend for backend in backends if self.trace or backend.name in wrong]
        found, near = locate(looked, self._telling(cases, report, checks), self.sealed, self.reference, self.tolerance)
        return replace(
            report,
            checks=tuple(checks),
            divergences=tuple(found),
            series=tuple(drift.series) if drift is not None else (),
            warnings=warnings(self._live, lacking(self._live)) if self.only is None else (),
            about={
                **self.about(),
                "estimate": round(estimate, 1),
                "left_out": left_out,
                "near": near,
                "axes": [self._subject(backends[0]).batch, self._subject(backends[0]).sequence],
            },
        )

    def about(self) -> dict[str, Any]:
        """Of what a report is, and with what."""
        return {
            "bundle": str(self.sealed.path),
            "level": self.level,
            "seed": self.seed,
            "seconds": round(time.monotonic() - self._start, 3),
            "versions": versions(),
            "hardware": hardware(),
        }

    @property
    def _precision(self) -> str:
        return str(self.sealed.manifest.get("precision") or precision(self.sealed.manifest["operators"]))

    def _chosen(self, backends: list[Backend]) -> list[Backend]:
        """Those that were asked for. Raises InputError where there are none."""
        chosen = [backend for backend in backends if self.backend in (None, backend.name)]
        if not chosen:
            raise InputError(
                f"there is no backend {self.backend!r} here: {', '.join(backend.name for backend in backends)}"
            )
        return chosen

    def _properties(self) -> list[Property]:
        known = everything(STEPS[self.level])
        chosen = [prop for prop in known if self.only in (None, prop.name)]
        if not chosen:
            raise InputError(f"there is no property {self.only!r}: {', '.join(prop.name for prop in known)}")
        return chosen

    def _asked(self, prop: Property, backend: Backend) -> bool:
        """Second opinions are about values, unless everything was asked for."""
        return not backend.aside or prop.name == "values" or self.level == "full" or self.only is not None

    def _cases(self) -> list[Case]:
        """The grid, further sizes that the export was compared at, and ten times the traced sizes."""
        *shapes, traced = grid(self.traced, self.over, self.sealed.signature.limits)
        shapes += [shape for shape in self._exported() if shape not in (*shapes, traced)]
        shapes.append(traced)
        if self.level != "quick":
            far = {axis: self.sealed.signature.limit(axis).nearest(10 * size) for axis, size in self.traced.items()}
            shapes.insert(0, far)
        return self.reference.cases(shapes)[0]

    def _exported(self) -> list[dict[str, int]]:
        """The sizes that the bundle records, where they are of the axes that this model has.

        Among them are those at which the model compares sizes, which only a trace tells.
        """
        found = self.sealed.manifest["verified"].get("shapes", ())
        return [dict(shape) for shape in found if shape.keys() == self.traced.keys()]

    def _effort(self, count: int) -> Effort:
        effort = EFFORTS[self.level]
        if self.level == "default" and count:
            effort = replace(effort, seconds=min(effort.seconds, SECONDS / count))
        return effort

    def _checks(self, pairs: list[tuple[Property, Backend]], effort: Effort) -> list[Check]:
        checks = []
        for k, (prop, backend) in enumerate(pairs):
            self._tell(f"{prop.name} on {backend.name}", k, len(pairs))
            checks.append(
                examine(
                    prop,
                    self._subject(backend),
                    effort,
                    seed=self.seed,
                    command=self.command + ("" if self.level == "default" else f" --{self.level}"),
                    live=self._live if prop.name in MODELS_OWN and not self._promised(prop) else None,
                    only=None if self.trial is None else dict(self.trial),
                )
            )
        return checks

    def _promised(self, prop: Property) -> bool:
        """Whether the export promised a property, so that no lack of the model's own excuses a bundle."""
        return prop.name == "split" and self.reference.lifted

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)

    @functools.cached_property
    def _live(self) -> Held:
        allowed = self.sealed.tolerance
        if self.tolerance is not None:
            allowed = dict.fromkeys(allowed, self.tolerance)
        made = live(self.reference, self.over, allowed, self.sealed.manifest["operators"])
        return replace(made, given=self.tolerance, precision=self._precision)

    def _subject(self, backend: Backend) -> Held:
        return replace(
            self._live,
            backend=backend.name,
            run=backend.run,
            omit=backend.run if backend.omits else None,
            shared=backend.shared,
            threaded=backend.threaded,
            folder=backend.folder,
            device=backend.device,
        )

    def _telling(self, cases: list[Case], report: Report, checks: list[Check]) -> dict[str, list[Case]]:
        """For each backend the inputs to look at: those of failures, the smallest first; else those of the grid."""
        found: dict[str, list[Case]] = {}
        yardstick = self._subject_case
        for check in checks:
            if _traceable(check) and check.trial is not None:
                found.setdefault(check.backend, []).append(yardstick(check.trial))
        for row in sorted(report.failures, key=_size):
            found.setdefault(row.backend, []).extend(case for case in cases if case.sizes == row.shape)
        few = self._live.within(dict.fromkeys(self.traced, 2))
        plain = cases or [yardstick({**few, "values": 4, "seed": 0})]
        return {"": plain[-1:], **found}

    def _subject_case(self, trial: Mapping[str, int]) -> Case:
        return self._live.case(self._live.inputs(dict(trial)))


def _size(row: Row) -> int:
    return sum(row.shape.values())


def _traceable(check: Check) -> bool:
    """Whether the inputs of a failure are inputs of one plain run."""
    return check.verdict == "failed" and check.property == "values"


def _estimate(grid: float, cases: int, pairs: int, effort: Effort) -> float:
    """Seconds that a suite takes, from those that its grid took: a property makes a dozen runs before its search."""
    run = grid / max(1, cases)
    return grid + pairs * (min(12 * run / 3, 60.0) + min(effort.seconds, effort.trials * run))


def live(
    reference: Reference, over: Collection[str], tolerance: Mapping[str, float], operators: Mapping[str, int]
) -> Held:
    """The live model as a subject of its own: eager PyTorch in float64."""
    signature = reference.signature
    yardstick = Yardstick(reference)
    example = dict(zip([spec.name for spec in signature.inputs], reference.example(), strict=True))
    return Held(
        backend="eager",
        signature=signature,
        run=yardstick.wide,
        draw=_draw(Draw(signature, example), yardstick, over),
        tolerance=tolerance,
        sequences=tuple(axis for axis in signature.axis_names if axis in over),
        reference=yardstick.wide,
        operators=operators,
        case=yardstick.case,
    )


def _draw(draw: Draw, yardstick: Yardstick, over: Collection[str]) -> Draw:
    """A draw whose lengths the model takes: in any order, sorted, or full."""
    lengths = draw.signature.lengths
    if lengths is None:
        return draw
    wanted = {axis: 7 if axis in over else 4 for axis in draw.signature.axis_names}
    sizes = {axis: draw.signature.limit(axis).nearest(size) for axis, size in wanted.items()}
    for choice in (draw, replace(draw, sorted_lengths=True), replace(draw, sorted_lengths=True, full_lengths=True)):
        if lengths.full and not choice.full_lengths:
            continue
        try:
            for seed in range(4):
                yardstick.case(choice(sizes, seed))
        except OutOfDomain:
            continue
        return choice
    return draw


def lacking(model: Held) -> dict[str, str]:
    """Properties that need no reference and that the model itself does not have, and how it does not."""
    found = {prop.name: broken(prop, model) for prop in ALONE if prop.name in MODELS_OWN}
    return {name: text for name, text in found.items() if text is not None}


def warnings(model: Held, lacks: Mapping[str, str]) -> tuple[str, ...]:
    """What a user of the model should know, though every backend is right."""
    return tuple(reads_padding(model, lacks.get("padding")))
