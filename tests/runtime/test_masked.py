"""Arrays with masked values are refused everywhere: the values behind a mask are not the caller's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnn_runtime
from rnn_runtime import InputError, StreamPool

MASKED = np.ma.masked_invalid(np.array([[[1.0, np.nan, 2.0, 3.0]]], np.float32))
STATE = np.ma.masked_array(np.zeros((1, 1, 3), np.float32), mask=[[[False, True, False]]])


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.run(MASKED),
        lambda model: model.run(MASKED.filled(0), state={"h_0": STATE}),
        lambda model: model.stream().push(MASKED),
        lambda model: model.stream(initial={"h_0": STATE}),
    ],
)
def test_a_masked_array_is_refused(use: Callable[[Any], object], files: Path) -> None:
    model = rnn_runtime.load(files / "rnn.onnx", threads=1)
    model.run(MASKED.filled(0))
    model.stream().push(MASKED.filled(0))  # its shape is known by now
    with pytest.raises(InputError, match="masked array"):
        use(model)


def test_a_pool_refuses_it_too(files: Path) -> None:
    with StreamPool(rnn_runtime.load(files / "rnn.onnx", threads=1), 2) as pool, pool.open() as stream:
        stream.push(MASKED.filled(0))
        with pytest.raises(InputError, match="masked array"):
            stream.push(MASKED)
        with pytest.raises(InputError, match="masked array"):
            pool.open({"h_0": STATE})
