from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rnn_runtime._statistics import DECADES, statistics
from rnn_runtime._tolerances import DECISIONS, SLACK, TABLE, Tolerance, decides, precision, tolerance


def test_each_number_is_what_it_says() -> None:
    want = np.array([[1.0, 2.0, -4.0, 0.0]])
    got = np.array([[1.0, 2.5, -4.0, 0.25]], np.float32)
    found = statistics(got, want, 0.3)
    assert found is not None
    assert (found.count, found.over, found.first) == (4, 1, (0, 1))
    assert found.absolute == 0.5
    assert found.relative == 0.25  # 0.5 of 2; nothing is relative to 0
    assert found.quantiles[0] == 0.125
    assert found.ulp == pytest.approx(0.25 / float(np.spacing(np.finfo(np.float32).tiny)))
    assert found.snr == pytest.approx(10 * math.log10(21 / (0.25 + 0.0625)))
    assert found.cosine == pytest.approx((1 + 5 + 16) / math.sqrt((1 + 6.25 + 16 + 0.0625) * 21))
    assert (found.agreement, found.decisions) == (1.0, 1)
    counts = dict(zip(["below", *DECADES], found.histogram, strict=True))
    assert {key: count for key, count in counts.items() if count} == {"below": 2, -1: 2}


def test_one_unit_in_the_last_place_is_one() -> None:
    want = np.array([1.0, 300.0], np.float32)
    found = statistics(np.nextafter(want, np.float32(np.inf)), want.astype(np.float64), 0.0)
    assert found is not None
    assert found.ulp == 1.0
    assert found.over == 2


def test_what_is_equal_is_exact() -> None:
    same = np.array([[1.0, np.nan, np.inf], [2.0, 0.0, -1.0]], np.float32)
    found = statistics(same, same.astype(np.float64), 0.0)
    assert found is not None
    assert (found.absolute, found.over, found.first, found.snr, found.ulp) == (0.0, 0, None, math.inf, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_finite_on_one_side_alone_is_over(bad: float) -> None:
    got, want = np.array([1.0, bad], np.float32), np.array([1.0, 2.0])
    found = statistics(got, want, 1e9)
    assert found is not None
    assert (found.over, found.first, found.absolute) == (1, (1,), 0.0)


@pytest.mark.parametrize(
    ("got", "want"), [(np.zeros(2), np.zeros(3)), (np.zeros(2, int), np.zeros(2, int)), (np.zeros(0), np.zeros(0))]
)
def test_other_arrays_have_no_statistics(got: np.ndarray, want: np.ndarray) -> None:
    assert statistics(got, want, 0.0) is None


def test_the_table_has_a_line_and_a_reason_for_everything() -> None:
    assert tolerance("float32").error == 1e-5
    assert tolerance("float32", "onnxruntime-cuda").error == 1e-5
    assert tolerance("float64").error == 1e-12
    assert tolerance("float16").error == 2e-3
    assert tolerance("int64").error == tolerance("bool").error == 0.0
    assert tolerance("float32", "", "int8").error is None
    assert all(len(line.reason) > 20 for line in TABLE)
    assert precision({"DynamicQuantizeLSTM": 1, "Add": 2}) == "int8"
    assert precision({"LSTM": 1}) == ""


def test_low_precision_is_judged_by_noise_and_by_enough_decisions() -> None:
    line = Tolerance("", "", "", None, 20.0, 0.9, "a test")
    generator = np.random.default_rng(0)

    def judged(rows: int, noise: float, slack: float = 0.0) -> bool:
        want = generator.standard_normal((rows, 8))
        found = statistics((want + noise * generator.standard_normal(want.shape)).astype(np.float32), want, 0.0)
        assert found is not None
        return decides(found, line, slack)

    assert judged(4000, 0.02)
    assert not judged(4000, 0.12)  # 18 dB
    assert judged(4000, 0.12, slack=3.0)

    def deciding(rows: int, wrong: int) -> bool:
        want = np.tile([1.0, 0.999, 0.0], (rows, 1))
        got = want.astype(np.float32)
        got[:wrong, 0] = 0.998
        found = statistics(got, want, 0.0)
        assert found is not None
        return decides(found, line)

    assert deciding(DECISIONS, DECISIONS // 10)
    assert not deciding(DECISIONS, DECISIONS // 10 + 1)
    assert deciding(DECISIONS - 1, DECISIONS - 1)  # too few to say


@pytest.mark.parametrize(
    ("snr", "agreement", "strictly", "with_slack"),
    [
        (30.0, 0.9, True, True),
        (29.99, 0.9, False, True),
        (27.0, 0.9, False, True),
        (26.99, 1.0, False, False),
        (40.0, 0.899, False, True),
        (40.0, 0.859, False, True),  # of a tenth that may differ 1.41 times as many
        (40.0, 0.858, False, False),
    ],
)
def test_what_low_precision_may_lose_at_other_sizes(
    snr: float, agreement: float, strictly: bool, with_slack: bool
) -> None:
    same = statistics(np.ones((60, 2)), np.ones((60, 2)), 0.0)
    assert same is not None
    found = replace(same, snr=snr, agreement=agreement)
    line = tolerance("float32", "onnxruntime-cpu", "int8")
    assert decides(found, line) == strictly
    assert decides(found, line, SLACK) == with_slack
    assert decides(replace(found, decisions=DECISIONS - 1), line) == (snr >= 30)
