import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_runtime import Report, Row
from rnn_runtime._report import compare

F = np.float32
NAN, INF = math.nan, math.inf


def row(backend: str = "onnxruntime-cpu", error: float = 1e-7, passed: bool = True, **changes: Any) -> Row:
    values = {"shape": {"batch": 2, "sequence": 13}, "output": "output", "bound": 1e-5, "where": (1, 2), "note": ""}
    return Row(backend=backend, error=error, passed=passed, **(values | changes))


@pytest.mark.parametrize(
    ("want", "error", "passed"),
    [
        ([0.5, 1.0], 0.25, True),
        ([0.5, 1.0], 0.2500001, False),
        ([0.5, -8.0], 2.0, True),  # the bound grows with the largest |want| ...
        ([0.5, -8.0], 2.000001, False),
        ([0.5, INF], 0.25, True),  # ... that is finite
        ([0.5, INF], 0.2500001, False),
        ([0.5, NAN], 0.25, True),
        ([0.5, 1000.0], 250.0, True),  # a value may be a thousand times as large and still round along
        ([0.5, 1000.0], 250.0001, False),
        ([0.5, 1000.001], 0.25, True),  # beyond, as the -1e9 of a mask, it lends nothing
        ([0.5, 1000.001], 0.2500001, False),
        ([0.5, -1e9, 8.0], 2.0, True),
        ([0.5, -1e9, 8.0], 2.000001, False),
        ([3.0, -1e9, 3000.0], 750.0, True),
        ([3.0, -1e9, 3001.0], 0.75, True),
        ([3.0, -1e9, 3001.0], 0.7500001, False),
    ],
)
def test_both_sides_of_the_bound(want: list[float], error: float, passed: bool) -> None:
    wanted = np.array(want)
    got = wanted.copy()
    got[0] += error
    found = compare(got, wanted, 0.25)
    assert found.passed is passed
    assert found.error == pytest.approx(error)
    assert found.where == (0,)


@pytest.mark.parametrize(
    ("got", "want", "note"),
    [
        ([NAN, 1.0], [1.0, 1.0], "NaN in 1 places"),
        ([1.0, 1.0], [1.0, NAN], "NaN in 1 places"),
        ([INF], [1.0], "an infinity differs"),
        ([1.0], [INF], "an infinity differs"),
        ([-INF], [INF], "an infinity differs"),
        ([INF], [NAN], "NaN in 1 places"),
    ],
)
def test_nan_and_infinity_stand_where_they_should(got: list[float], want: list[float], note: str) -> None:
    found = compare(np.array(got, F), np.array(want, F), 1e9)
    assert not found.passed
    assert found.error == INF
    assert note in found.note
    assert compare(np.array(want, F), np.array(want, F), 0.0).passed


def test_each_element_is_held_against_its_own_measure() -> None:
    """The largest error is that of the mask, where it is rounding; the one that counts is small."""
    want = np.array([0.5, -1e9], F)
    found = compare(np.array([0.5 + 1e-3, -1e9 + 640], F), want, 1e-5)
    assert (found.passed, found.where, found.measure) == (False, (0,), 1.0)
    assert found.error == pytest.approx(1e-3, rel=1e-4)
    assert found.bound == pytest.approx(1e-5)
    assert compare(np.array([0.5 + 1e-6, -1e9 + 640], F), want, 1e-5).passed


def test_shape_and_dtype_must_be_the_same() -> None:
    assert compare(np.zeros((2, 1), F), np.zeros((1, 2), F), 1.0).note == "shape (2, 1), expected (1, 2)"
    assert compare(np.zeros(2, F), np.zeros(2), 1.0).note == "dtype float32, expected float64"
    assert not compare(np.zeros((), F), np.zeros(1, F), 1.0).passed
    assert "cannot be compared" in compare(np.array(["a"]), np.array(["a"]), 1.0).note


def test_integers_and_bools_are_exact() -> None:
    big = np.array([2**62, 2**62], np.int64)
    assert compare(big, big, 0.0).passed
    found = compare(big + np.array([0, 1]), big, 1e9)
    assert (found.passed, found.error, found.where) == (False, 1.0, (1,))
    assert compare(np.array([3, 9], np.uint8), np.array([3, 4], np.uint8), 9.0).error == 5.0
    assert not compare(np.array([True]), np.array([False]), 9.0).passed


def test_nothing_and_scalars() -> None:
    assert compare(np.zeros((0, 3), F), np.zeros((0, 3), F), 0.0).passed
    assert compare(F(1.5), F(1.0), 0.0).where == ()
    assert compare(np.zeros(3, F), np.zeros(3, F), 0.0).where is None


def test_float16_and_huge_values_neither_overflow_nor_pass() -> None:
    assert compare(np.array([60000], np.float16), np.array([-60000], np.float16), 1.0).error == 120000
    big = np.finfo(np.float64).max
    assert not compare(np.array([big]), np.array([-big]), 2.0).passed


@given(st.lists(st.floats(width=32), min_size=1), st.floats(0, 1))
def test_an_array_equals_itself(values: list[float], tolerance: float) -> None:
    found = compare(np.array(values, F), np.array(values, F), tolerance)
    assert (found.passed, found.error, found.where) == (True, 0.0, None)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1), st.floats(0, 1))
def test_it_is_the_formula(pairs: list[tuple[float, float]], tolerance: float) -> None:
    got, want = np.array(pairs).T
    found = compare(got, want, tolerance)
    measures = [max(1.0, *(abs(v) for v in want if abs(v) <= 1000 * max(1.0, abs(w)))) for w in want]
    errors = np.abs(got - want)
    assert found.passed == all(e <= tolerance * m for e, m in zip(errors, measures, strict=True))
    assert found.error / found.measure == max(errors / measures)
    if found.where is not None:
        assert errors[found.where] == found.error
        assert found.bound == tolerance * measures[found.where[0]]


def test_a_report_that_compares_nothing_does_not_pass() -> None:
    assert not Report(()).passed
    assert str(Report(())) == "nothing was compared"
    assert Report((row(),)).passed


def test_the_table_is_one_line_per_backend() -> None:
    rows = [row(eager_error=2e-7), row(error=3e-6, shape={"batch": 1}, where=(0,)), row("torchscript", 0.0, where=None)]
    assert str(Report(tuple(rows))).splitlines() == [
        "backend          shapes  largest error  where                 eager float32  verdict",
        "---------------  ------  -------------  --------------------  -------------  -------",
        "onnxruntime-cpu  2       3e-06          output[0] at batch=1  2e-07          passed",
        "torchscript      1       0              -                     -              passed",
    ]


def test_failures_are_listed_up_to_twenty() -> None:
    failed = row(error=INF, passed=False, where=None, note="shape (1,), expected (2,)")
    text = str(Report((row(), failed)))
    assert "FAILED (1 of 2)" in text
    assert "1 of 2 comparisons failed:" in text
    assert (
        "  onnxruntime-cpu: output at batch=2 sequence=13: error inf, allowed 1e-05 (shape (1,), expected (2,))" in text
    )
    assert str(Report((failed,) * 20)).count("error inf") == 20
    assert "more" not in str(Report((failed,) * 20))
    assert str(Report((failed,) * 23)).endswith("\n  and 3 more")


def test_json_is_strict_and_versioned() -> None:
    report = Report((row(), row(error=INF, passed=False)))
    data = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert data["version"] == 1
    assert data["passed"] is False
    assert data["rows"][0] == {
        "backend": "onnxruntime-cpu", "shape": {"batch": 2, "sequence": 13}, "output": "output", "error": 1e-7,
        "bound": 1e-5, "where": [1, 2], "passed": True, "eager_error": None, "note": "",
        "statistics": None,
    }  # fmt: skip
    assert data["rows"][1]["error"] == "inf"
    assert report.failures == (report.rows[1],)
