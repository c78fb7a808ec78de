"""What settles a reported problem: a case is exported once, run at sizes never traced, and held against float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnn_runtime
from rnn_export import Bundle, export

BOUND = {torch.float16: 5e-3, torch.float32: 1e-5, torch.float64: 1e-12}
"""Largest absolute error, times the largest value where that is above 1."""

TRACED = {"batch": 3, "sequence": 5}
SIZES = ({"batch": 1, "sequence": 1}, {"batch": 11, "sequence": 17}, {"batch": 2, "sequence": 37})
"""Sizes never traced, which collide neither with one another nor with the sizes of the cases' layers."""

Axis = int | str


@dataclass(frozen=True)
class Ids:
    """Whole numbers below `below`."""

    below: int
    shape: tuple[Axis, ...]


@dataclass(frozen=True)
class Lengths:
    """Lengths of rows in any order; `longest` steps fewer than the axis has, at most."""

    axis: str = "sequence"
    batch: str = "batch"
    short_by: int = 0
    sort: bool = False
    dtype: torch.dtype = torch.int64


Input = tuple[Axis, ...] | Ids | Lengths


@dataclass(frozen=True)
class Case:
    """One reported usage.

    Attributes:
        rows: the rows of the table that it settles.
        model: makes the model as the thread describes it; it is seeded here.
        inputs: for each tensor its shape, in which a word is a dynamic axis.
        nest: from the flat tensors (or what stands for each) to forward's arguments.
        traced, sizes: what is traced, and what is run.
        axes: of the inputs, where they are not all that `inputs` says.
        options: further arguments of export.
        also: what else is to be true of the bundle.
        name: tells cases of one row apart.
        formats: of the bundle.
        open: why the row is not settled yet, where it is not.
        theirs: whether PyTorch's own exporters can be given this case.
        twice: the model keeps something from call to call, so the second call counts.
    """

    rows: tuple[str, ...]
    model: Callable[[], nn.Module]
    inputs: Mapping[str, Input]
    nest: Callable[..., tuple[Any, ...]] = lambda *flat: flat
    traced: Mapping[str, int] = field(default_factory=lambda: TRACED)
    sizes: Sequence[Mapping[str, int]] = SIZES
    dtype: torch.dtype = torch.float32
    axes: Mapping[str, Mapping[int, str]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    also: Callable[[Bundle], None] = lambda bundle: None
    name: str = ""
    formats: tuple[str, ...] = ("onnx", "torchscript")
    open: str = ""
    theirs: bool = True
    twice: bool = False

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.model().to(self.dtype)

    def draw(self, sizes: Mapping[str, int]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(sum(1000**k * size for k, size in enumerate(sizes.values())))

        def one(spec: Input) -> Tensor:
            if isinstance(spec, Lengths):
                longest = max(1, sizes[spec.axis] - spec.short_by)
                lengths = torch.randint(1, longest + 1, (sizes[spec.batch],), generator=generator)
                lengths[sizes[spec.batch] // 2] = longest
                return (lengths.sort(descending=True).values if spec.sort else lengths).to(spec.dtype)
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in getattr(spec, "shape", spec)]
            if isinstance(spec, Ids):
                return torch.randint(spec.below, shape, generator=generator)
            return torch.randn(shape, generator=generator).to(self.dtype)

        return [one(spec) for spec in self.inputs.values()]

    @property
    def all_axes(self) -> dict[str, dict[int, str]]:
        if self.axes is not None:
            return {name: dict(dimensions) for name, dimensions in self.axes.items()}
        return {
            name: {0: spec.batch}
            if isinstance(spec, Lengths)
            else {dim: axis for dim, axis in enumerate(getattr(spec, "shape", spec)) if isinstance(axis, str)}
            for name, spec in self.inputs.items()
        }

    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.build(),
            "example_inputs": self.nest(*self.draw(self.traced)),
            "axes": self.all_axes,
            "formats": list(self.formats),
            **self.options,
        }

    def eager(self, flat: Sequence[Tensor], wide: nn.Module | None = None) -> list[np.ndarray]:
        """All results of eager PyTorch in float64, flat; of a model that has run before, where one is given."""
        wide = wide or copy.deepcopy(self.build()).eval().double()
        with torch.no_grad():
            arguments = self.nest(*[t.double() if t.is_floating_point() else t for t in flat])
            return flatten(wide(*arguments))


def flatten(value: Any) -> list[np.ndarray]:
    if isinstance(value, Tensor):
        return [value.numpy()]
    return [array for item in value for array in flatten(item)]


def runners(bundle: Bundle) -> dict[str, Callable[[Sequence[Tensor]], list[np.ndarray]]]:
    """Ways of running all files of a bundle on flat tensors."""
    files = {file.name for file in bundle.path.iterdir()}
    found: dict[str, Callable[[Sequence[Tensor]], list[np.ndarray]]] = {}
    if "model.onnx" in files:
        model = rnn_runtime.load(bundle)
        names = [spec.name for spec in bundle.signature.inputs]
        found["onnx"] = lambda flat: list(
            model.run({name: t.numpy() for name, t in zip(names, flat, strict=True)}).values()
        )
    if "model.pt" in files:
        found["torchscript"] = on_torch(torch.jit.load(bundle.path / "model.pt"))
    if "model.pt2" in files:
        found["pt2"] = on_torch(torch.export.load(bundle.path / "model.pt2").module())
    return found


def on_torch(module: Any) -> Callable[[Sequence[Tensor]], list[np.ndarray]]:
    def run(flat: Sequence[Tensor]) -> list[np.ndarray]:
        with torch.no_grad():
            return flatten(module(*flat))

    return run


def close(got: Sequence[np.ndarray], want: Sequence[np.ndarray], bound: float, where: str = "") -> None:
    """All of `got` equal `want`, in shape too."""
    assert len(got) == len(want), where
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape, f"{where}: output {k} has shape {a.shape}, expected {b.shape}"
        error = np.abs(a.astype(np.float64) - b).max()
        assert error <= bound * max(1.0, np.abs(b).max()), f"{where}: output {k} is off by {error}"


def right(case: Case, folder: Path) -> Bundle:
    """Export a case and see that every file equals eager float64 at every size."""
    bundle = export(path=folder / "bundle", **case.arguments())
    assert bundle.report.passed
    declared = {axis for spec in bundle.signature.inputs for axis in spec.axes if isinstance(axis, str)}
    assert declared == set(case.traced), "a dynamic axis was lost"
    for name, run in runners(bundle).items():
        for sizes in (case.traced, *case.sizes):
            flat = case.draw(sizes)
            close(run(flat), case.eager(flat), BOUND[case.dtype], f"{name} at {dict(sizes)}")
    case.also(bundle)
    return bundle


def params(cases: Sequence[Case]) -> list[Any]:
    """The cases as parameters of a test, marked by their rows; those that are open by why."""
    found = []
    for case in cases:
        marks = [pytest.mark.reported(row, "R") for row in case.rows]
        if case.open:
            marks.append(pytest.mark.xfail(reason=case.open, strict=True))
        found.append(pytest.param(case, marks=marks, id="-".join([*case.rows, *([case.name] if case.name else [])])))
    return found
