"""Failures that were kept: a file each, of which none has the same text as another but for its numbers."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from .attempt import Verdict
from .model import Model

CORPUS = Path(__file__).parent.parent / "corpus"


def files(folder: Path = CORPUS) -> list[Path]:
    """The cases kept in a folder."""
    return sorted(path for path in folder.glob("*.py"))


def keep(model: Model, verdict: Verdict, folder: Path = CORPUS) -> Path | None:
    """Write a model that fails to the folder; None where one of the same shape is there."""
    text = model.text()
    if shape(text) in {shape(path.read_text()) for path in files(folder)}:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    kinds = "_".join(type(feature).__name__.lower() for feature in model.features)
    path = folder / f"{kinds}_{model.seed}.py"
    why = re.sub(r'[\\"]', "'", verdict.why)[:100]
    path.write_text(f'"""{verdict.word}: {why}"""\n\n{text}FAILS = "{verdict.word}"\n')
    return path


def shape(text: str) -> str:
    """What two models have in common that differ by numbers, and by what is said of them, alone."""
    model = text[text.index("import torch") : text.rindex("\nSEED")]
    return re.sub(r"\d+(\.\d+)?", "0", model)


def slice_of(paths: Sequence[Path], seed: int, most: int = 6) -> list[Path]:
    """A few of the files, others for another seed."""
    return sorted(random.Random(seed).sample(list(paths), min(most, len(paths))))
