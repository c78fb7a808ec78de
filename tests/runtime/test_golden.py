import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_runtime import BundleError, _golden
from rnn_runtime._golden import Case, pack, unpack

CASES = [Case({"x": np.arange(6.0).reshape(2, 3)}, {"a/b": np.array(True)}), Case({}, {"y": np.zeros((0, 2), np.int8)})]
DATA = pack(CASES)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{key.replace("__", "/"): array for key, array in arrays.items()})
    return file.getvalue()


def test_cases_come_back_as_they_were() -> None:
    found = unpack(DATA)
    assert len(found) == 2
    for got, want in zip(found, CASES, strict=True):
        for side in ("inputs", "outputs"):
            assert getattr(got, side).keys() == getattr(want, side).keys()
            for name, array in getattr(want, side).items():
                np.testing.assert_array_equal(getattr(got, side)[name], array, strict=True)


def test_the_eleventh_case_is_the_eleventh() -> None:
    assert [case.inputs["x"] for case in unpack(pack([Case({"x": np.array(k)}) for k in range(11)]))] == list(range(11))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04", "damaged"),
        (npz(), "it is empty"),
        (npz(x=np.ones(1)), "an array 'x'"),
        (npz(__in__x=np.ones(1)), "an array '/in/x'"),
        (npz(a__in__x=np.ones(1)), "an array 'a/in/x'"),
        (npz(**{"0__on__x": np.ones(1)}), "an array '0/on/x'"),
        (npz(**{"0__in__": np.ones(1)}), "an array '0/in/'"),
        (npz(**{"1__in__x": np.ones(1)}), r"the cases \[1\]"),
        (npz(**{"0__in__x": np.array([{}], dtype=object)}), "allow_pickle"),
    ],
)
def test_damage_is_a_bundle_error(data: bytes, text: str) -> None:
    with pytest.raises(BundleError, match=rf"golden.npz is damaged: .*{text}" if text != "damaged" else text):
        unpack(data)


def test_a_shape_beyond_all_memory() -> None:
    file, member = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0/in/x.npy", member.getvalue())
    with pytest.raises(BundleError, match=r"golden.npz is damaged"):
        unpack(file.getvalue())


def test_members_that_are_no_arrays() -> None:
    single, text = io.BytesIO(), io.BytesIO()
    np.save(single, np.ones(3))
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("0/in/x", "text")
    for file in (single, text):
        with pytest.raises(BundleError, match=r"not an array|single array"):
            unpack(file.getvalue())


@given(st.integers(0, len(DATA) - 1), st.binary(min_size=1, max_size=4))
def test_a_cut_or_spoilt_file_gives_cases_or_a_bundle_error(at: int, spoilt: bytes) -> None:
    for data in (DATA[:at], DATA[:at] + spoilt + DATA[at + len(spoilt) :]):
        with contextlib.suppress(BundleError):
            unpack(data)


def test_a_recording_that_would_unpack_to_more_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _golden.pack([_golden.Case({"x": np.zeros(1000)}, {"y": np.zeros(1000)})])
    assert len(data) < 2000
    monkeypatch.setattr(_golden, "LIMIT", 10_000)
    with pytest.raises(BundleError, match="it would unpack to 16256 bytes, of 10000 at most"):
        _golden.unpack(data)
    monkeypatch.setattr(_golden, "LIMIT", 16_256)
    assert _golden.unpack(data)


@pytest.mark.parametrize("number", ["1" * 5000, "0000000000"])
def test_a_case_with_a_number_of_many_digits_is_refused(number: str) -> None:
    file = io.BytesIO()
    np.savez(file, **{f"{number}/in/x": np.zeros(1)})
    with pytest.raises(BundleError, match=r"golden\.npz is damaged"):
        _golden.unpack(file.getvalue())
