"""The model of a seed: the first that is drawn and that eager PyTorch runs on an example."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from . import eager
from .case import Call, Case
from .model import Model, draw

LONGER = (24, 70)
"""Examples for models that need more steps than people usually give."""


def generate(seed: int) -> Model:
    """The model of a seed, whose source runs in eager PyTorch at the example's sizes."""
    for again in itertools.count():
        model = draw(seed, again)
        for steps in (model.options.time, *LONGER):
            fitting = replace(model, options=replace(model.options, time=steps))
            if not refusal(fitting):
                return fitting
    raise AssertionError("unreachable")


def refusal(model: Model) -> str:
    """What eager PyTorch raises for the example, or ""."""
    with tempfile.TemporaryDirectory(prefix="fuzz-models-") as folder:
        path = Path(folder) / f"drawn_{model.seed}.py"
        path.write_text(model.text())
        case, made = Case.read(path)
        torch.manual_seed(model.seed)
        arguments = case.arguments(Call(case.example), torch.Generator().manual_seed(model.seed))
        said = eager.run(made().eval(), [arguments])
    return said if isinstance(said, str) else ""
