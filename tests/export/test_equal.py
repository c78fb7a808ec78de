"""The one equality of tensors."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rnn_export
from rnn_export._equal import FLOAT64, all_equal, equal

NAN, INF = math.nan, math.inf
SOME = [1.0, -2.5, 0.0]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE, torch.bool, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0, 3), (2, 3)])
def test_a_tensor_equals_its_copy(dtype, shape):
    tensor = torch.ones(shape).to(dtype)
    assert equal(tensor.clone(), tensor)
    assert equal(tensor.clone(), tensor, FLOAT64)


@pytest.mark.parametrize("special", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_has_to_be_in_the_same_places(special, dtype):
    want = torch.tensor([1.0, special, 3.0], dtype=dtype)
    assert equal(want.clone(), want)
    assert equal(want.clone(), want, 1e9)
    for other in (0.0, 1.0, *({NAN, INF, -INF} - {special})):
        got = torch.tensor([1.0, other, 3.0], dtype=dtype)
        assert equal(got, want, 1e9) == (math.isnan(other) and math.isnan(special))
        assert equal(want, got, 1e9) == (math.isnan(other) and math.isnan(special))


@pytest.mark.parametrize("special", [NAN, INF, -INF])
def test_an_infinity_or_nan_does_not_widen_the_tolerance(special):
    want = torch.tensor([1.0, special], dtype=torch.float64)
    assert not equal(torch.tensor([1.001, special], dtype=torch.float64), want, 1e-9)
    assert equal(torch.tensor([1 + 5e-10, special], dtype=torch.float64), want, 1e-9)


def test_nan_is_not_zero():
    assert not equal(torch.tensor([NAN]), torch.tensor([0.0]))
    assert not equal(torch.tensor([0.0]), torch.tensor([NAN]))


def test_minus_zero_is_zero():
    assert equal(torch.tensor([-0.0]), torch.tensor([0.0]))


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (torch.tensor(SOME), torch.tensor(SOME, dtype=torch.float64)),
        (torch.tensor([1, 0]), torch.tensor([True, False])),
        (torch.tensor([1, 0]), torch.tensor([1, 0], dtype=torch.int32)),
        (torch.tensor(SOME), torch.tensor([SOME])),
        (torch.zeros(1), torch.zeros(())),
        (torch.zeros(0, 3), torch.zeros(3, 0)),
        (torch.zeros(3), torch.zeros(1)),
        (torch.tensor(SOME), torch.tensor(SOME, dtype=torch.complex64)),
    ],
)
def test_shape_and_dtype_count(got, want):
    assert not equal(got, want, 1e9)
    assert not equal(want, got, 1e9)


@pytest.mark.parametrize("dtype", [*WHOLE, torch.bool])
def test_whole_numbers_and_booleans_are_equal_or_not(dtype):
    want = torch.tensor([0, 1, 1]).to(dtype)
    assert not equal(torch.tensor([0, 1, 0]).to(dtype), want, 1e9)


def test_large_whole_numbers_that_float64_cannot_tell_apart_differ():
    assert not equal(torch.tensor([2**62 + 1]), torch.tensor([2**62]), 1e9)


@pytest.mark.parametrize("part", [1.0, 1j])
def test_both_parts_of_complex_numbers_count(part):
    want = torch.tensor([1 + 2j, NAN + 0j])
    assert equal(want.clone(), want)
    assert equal(want.conj(), torch.tensor([1 - 2j, NAN + 0j]))
    assert not equal(want + torch.tensor([1e-3 * part, 0]), want, 1e-5)
    assert equal(want + torch.tensor([1e-6 * part, 0]), want, 1e-5)


@given(st.floats(1e-3, 1e6), st.floats(0, 4), st.sampled_from([1e-9, 1e-6, 1e-3]))
def test_the_tolerance_is_a_share_of_each_value_above_1(largest, times, tolerance):
    want = torch.tensor([0.0, -1e9, INF], dtype=torch.float64)  # a masked score beside it hides nothing
    got = torch.tensor([times * tolerance, -1e9, INF], dtype=torch.float64)
    assert equal(got, want, tolerance) == (float(got[0]) <= tolerance)
    want, off = torch.tensor([largest], dtype=torch.float64), times * tolerance * max(1.0, largest)
    assert equal(want + 0.5 * off, want, tolerance) or times > 1
    assert not equal(want + 2 * off, want, tolerance) or times < 1


def test_rows_of_tensors_are_as_long_and_equal_each_to_each():
    a, b = torch.ones(2), torch.zeros(2)
    assert all_equal([a, b], [a.clone(), b.clone()])
    assert not all_equal([a, b], [b, a])
    assert not all_equal([a], [a, b])
    assert not all_equal([a, b], [a])
    assert all_equal([], [])


def test_no_other_file_compares_tensors_by_hand():
    package = Path(rnn_export.__file__).parent
    by_hand = re.compile(r"allclose\(|nan_to_num\(|torch\.equal\(|\.isclose\((?!.*(rel_tol|abs_tol))")
    files = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    assert "_equal.py" in files
    assert [name for name, text in files.items() if by_hand.search(text)] == ["_equal.py"]
