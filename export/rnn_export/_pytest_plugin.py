"""The pytest plugin: the fixture `parity` and the option --parity-device. Imports no PyTorch before a test asks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from rnn_runtime import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --parity-device."""
    parser.getgroup("rnn-export").addoption(
        "--parity-device",
        action="append",
        metavar="DEVICE",
        help="where tests with the fixture 'parity' run: cpu (default), cuda or cuda:N; may be given several times",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the fixture once for each device."""
    if "parity" in metafunc.fixturenames:
        metafunc.parametrize("parity", metafunc.config.getoption("--parity-device") or ["cpu"], indirect=True)


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`parity(model, example_inputs, axes=...)`: rnn_export.testing.assert_parity on each device asked for."""
    from .testing import assert_parity

    parity: Any = functools.partial(assert_parity, device=request.param)
    return parity  # type: ignore[no-any-return]
