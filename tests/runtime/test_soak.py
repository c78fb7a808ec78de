"""The soak's own checks, for a moment: what it finds and that it can find it. `make soak` runs it in full."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def soak() -> ModuleType:
    path = Path(__file__).parent.parent / "soak" / "run.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["rnn", "words"])
def test_threads_mix_up_nothing(soak: ModuleType, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.threads(name, 0.5)
    assert "mixed up 0, hanging 0, failures none" in capsys.readouterr().out


def test_what_is_mixed_up_is_found(soak: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from rnn_runtime._rows import Rows

    real = Rows.results
    monkeypatch.setattr(Rows, "results", lambda self, piece: real(self, piece)[::-1])
    assert not soak.threads("rnn", 0.3)


def test_a_client_that_fails_is_found(soak: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "chunk_of", lambda name, random: "no array")
    assert not soak.threads("rnn", 0.1)


def test_memory_that_grows_is_found(soak: ModuleType) -> None:
    assert soak.memory(1000)
    assert not soak.memory(1000, limit=-1e9)
