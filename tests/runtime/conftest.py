"""What the tests of rnn_runtime share. Nothing here or in the tests needs torch, nor onnx where it is not asked for."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_runtime import Signature
from rnn_runtime._bundle import FORMAT_VERSION
from rnn_runtime._golden import Case, pack
from rnn_runtime._model import load

INPUT, HIDDEN = 4, 3


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """As in make_fixtures.py: numbers that are the same on every machine."""
    return (((np.arange(np.prod(shape)) * 37 + seed) % 64 - 32) / 64).reshape(shape).astype(np.float32)


def vanilla_rnn(
    x: np.ndarray, h_0: np.ndarray | None = None, lengths: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The fixtures' network in float64: x (sequence, batch, 4) -> output (sequence, batch, 3) and h_n (1, batch, 3)."""
    w, r = numbers(HIDDEN, INPUT, seed=3).astype(np.float64), numbers(HIDDEN, HIDDEN, seed=11).astype(np.float64)
    b = numbers(2, HIDDEN, seed=23).astype(np.float64).sum(axis=0)
    h = np.zeros((x.shape[1], HIDDEN)) if h_0 is None else h_0[0].astype(np.float64)
    steps = np.asarray([len(x)] * x.shape[1] if lengths is None else lengths)
    output = np.zeros((*x.shape[:2], HIDDEN))
    for t, x_t in enumerate(x.astype(np.float64)):
        valid = (t < steps)[:, None]
        h = np.where(valid, np.tanh(x_t @ w.T + h @ r.T + b), h)
        output[t] = np.where(valid, h, 0)
    return output, h[None]


@pytest.fixture(scope="session")
def files() -> Path:
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def expected() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return vanilla_rnn


@pytest.fixture(scope="session")
def make_numbers() -> Callable[..., np.ndarray]:
    return numbers


@pytest.fixture(scope="session")
def rnn_signature(files: Path) -> Signature:
    return load(files / "rnn.onnx").signature


def seal(folder: Path, **changes: Any) -> Path:
    """Write a manifest over all files that are in the folder."""
    contents = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    contents.pop("manifest.json", None)
    signature = changes.pop("signature")
    tolerance = changes.pop("tolerance", 1e-5)
    manifest = {
        "format_version": FORMAT_VERSION,
        "signature": signature.to_dict(),
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in contents.items()
        },
        "layers": [],
        "versions": {},
        "lifted": [],
        "operators": {},
        "tolerance": {spec.name: tolerance for spec in signature.outputs},
        "verified": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def reseal() -> Callable[..., Path]:
    return seal


@pytest.fixture
def bundle(tmp_path: Path, files: Path, rnn_signature: Signature) -> Path:
    """A bundle of the RNN with two recorded cases, the second with a state of its own."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((files / "rnn.onnx").read_bytes())
    (folder / "model.pt").write_bytes(b"never read here")
    cases = []
    for sequence, batch, given in ((1, 1, False), (13, 2, True)):
        x, h_0 = numbers(sequence, batch, INPUT, seed=5), numbers(1, batch, HIDDEN, seed=7) * given
        output, h_n = (array.astype(np.float32) for array in vanilla_rnn(x, h_0))
        cases.append(Case({"x": x, "h_0": h_0} if given else {"x": x}, {"output": output, "h_n": h_n}))
    (folder / "golden.npz").write_bytes(pack(cases))
    return seal(folder, signature=rnn_signature)
