from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import rnn_models
from rnn_export import export


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The bundle of each built-in model, exported once when it is first asked for."""
    folder = tmp_path_factory.mktemp("bundles")

    class Bundles(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            self[name] = export(path=folder / name, **rnn_models.get(name).export_arguments())
            return self[name]

    return Bundles()


@pytest.fixture
def eager64() -> Callable[..., list[np.ndarray]]:
    """Run a model in float64: eager64(model, *args)."""
    return _eager64


def _eager64(model: torch.nn.Module, *args: Any) -> list[np.ndarray]:
    """All tensors that the model returns in float64, flat and in order; float inputs are widened."""

    def wide(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(wide, value))
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    def flat(value: Any) -> list[np.ndarray]:
        if isinstance(value, tuple | list):
            return [array for item in value for array in flat(item)]
        return [value.numpy()]

    was = next(model.parameters()).dtype
    try:
        with torch.no_grad():
            return flat(model.double()(*map(wide, args)))
    finally:
        model.to(was)
