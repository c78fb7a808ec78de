import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_runtime import BundleError, load
from rnn_runtime._external import check, locations

FILES = Path(__file__).parent / "fixtures"
EXTERNAL = (FILES / "external" / "model.onnx").read_bytes()


def moved(location: str) -> bytes:
    """The external fixture with another location of the same number of bytes."""
    assert len(location.encode()) == len("weights.bin")
    return EXTERNAL.replace(b"weights.bin", location.encode())


def test_locations_are_found_once_and_only_where_there_are_any() -> None:
    assert locations(EXTERNAL) == ["weights.bin"]
    assert locations((FILES / "rnn.onnx").read_bytes()) == []
    assert locations(b"") == []


@given(st.binary(max_size=200))
def test_random_bytes_give_names_or_a_bundle_error(data: bytes) -> None:
    try:
        assert all(isinstance(name, str) for name in locations(data))
    except BundleError as error:
        assert "damaged" in str(error) or "not UTF-8" in str(error)


@given(st.integers(0, len(EXTERNAL) - 1), st.binary(max_size=8))
def test_a_cut_or_spoilt_model_gives_names_or_a_bundle_error(at: int, spoilt: bytes) -> None:
    for data in (EXTERNAL[:at], EXTERNAL[:at] + spoilt + EXTERNAL[at + len(spoilt) :]):
        with contextlib.suppress(BundleError):
            assert all(isinstance(name, str) for name in locations(data))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x08", "in the middle of a number"),
        (b"\x3a\x05\x01", "in the middle of a field"),
        (b"\x09\x01", "in the middle of a field"),
        (b"\x0d\x01", "in the middle of a field"),
        (b"\x00\x00", "the number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (EXTERNAL.replace(b"weights.bin", b"weights.\xff\xff\xff"), "not UTF-8"),
    ],
)
def test_damage_is_named(data: bytes, text: str) -> None:
    with pytest.raises(BundleError, match=text):
        locations(data)


def field(number: int, payload: bytes) -> bytes:
    """One length-delimited field of a protobuf message."""
    encoded, size = bytes([number << 3 | 2]), len(payload)
    while size >= 0x80:
        encoded += bytes([size & 0x7F | 0x80])
        size >>= 7
    return encoded + bytes([size]) + payload


def test_deep_nesting_takes_no_recursion() -> None:
    graph = field(5, field(13, field(1, b"location") + field(2, b"deep")))  # an initializer
    for _ in range(2000):
        graph = field(1, field(5, field(6, graph)))  # a node's attribute that holds the graph
    assert locations(field(7, graph)) == ["deep"]


@pytest.mark.parametrize("chdir", [True, False])
def test_a_bare_model_with_external_data_runs_from_any_folder(
    chdir: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Callable, make_numbers: Callable
) -> None:
    shutil.copytree(FILES / "external", tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model" if chdir else tmp_path)
    x = make_numbers(5, 2, 4)
    result = load("model.onnx" if chdir else "model/model.onnx").run(x)
    np.testing.assert_allclose(result["output"], expected(x)[0], atol=1e-6)


@pytest.fixture
def folder(tmp_path: Path, rnn_signature: object, reseal: Callable) -> Path:
    """A bundle with external data."""
    shutil.copytree(FILES / "external", tmp_path / "bundle")
    reseal(tmp_path / "bundle", signature=rnn_signature)
    return tmp_path / "bundle"


def test_a_bundle_with_external_data_runs_and_its_weights_are_verified(
    folder: Path, tmp_path: Path, rnn_signature: object, reseal: Callable, expected: Callable, make_numbers: Callable
) -> None:
    x = make_numbers(5, 2, 4)
    np.testing.assert_allclose(load(folder).run(x)["output"], expected(x)[0], atol=1e-6)

    weights = bytearray((folder / "weights.bin").read_bytes())
    weights[7] ^= 1
    (folder / "weights.bin").write_bytes(weights)
    with pytest.raises(BundleError, match=r"weights.bin has the SHA-256"):
        load(folder)

    (folder / "weights.bin").rename(tmp_path / "kept")
    reseal(folder, signature=rnn_signature)
    (tmp_path / "kept").rename(folder / "weights.bin")
    with pytest.raises(BundleError, match=r"has no file 'weights.bin'; its manifest lists model.onnx"):
        load(folder)


def test_a_link_in_a_bundle_does_not_move_where_its_weights_are_looked_for(
    folder: Path, expected: Callable, make_numbers: Callable
) -> None:
    (folder / "sub").mkdir()
    (folder / "model.onnx").rename(folder / "sub" / "model.onnx")
    (folder / "model.onnx").symlink_to("sub/model.onnx")
    (folder / "sub" / "weights.bin").write_bytes(
        bytes(len((folder / "weights.bin").read_bytes()))
    )  # not the sealed ones
    x = make_numbers(5, 2, 4)
    np.testing.assert_allclose(load(folder).run(x)["output"], expected(x)[0], atol=1e-6)


@pytest.mark.parametrize(
    "location", ["../weights8", "/etc/weight", "..\\weights8", "C:weights88", "a/../../b/c", "*/_ORT_MEM_"]
)
def test_a_location_outside_is_refused_or_missing(location: str, tmp_path: Path) -> None:
    (tmp_path / "weights8").write_bytes((FILES / "external" / "weights.bin").read_bytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(moved(location))
    with pytest.raises(BundleError, match=r"names the file|is missing"):
        load(tmp_path / "model" / "model.onnx")


def test_a_location_that_is_a_link_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(EXTERNAL)
    with pytest.raises(BundleError, match=r"weights.bin is missing; the model keeps weights in it: copy it"):
        load(tmp_path / "model" / "model.onnx")
    (tmp_path / "model" / "weights.bin").symlink_to(FILES / "external" / "weights.bin")
    with pytest.raises(BundleError, match="is a link that leaves the folder"):
        check(EXTERNAL, tmp_path / "model")
