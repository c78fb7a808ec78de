"""The table and the tests name the same rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rows import ROWS

NAMED = {
    row
    for file in Path(__file__).parent.glob("test_*.py")
    for row in re.findall(r'(?:reported\(|Case\(\s*\(|, )"([A-Z]\d+)"', file.read_text(encoding="utf-8"))
}


def test_every_row_has_a_test_or_says_why_not():
    assert {name for name, row in ROWS.items() if not row.left} <= NAMED


def test_no_test_names_a_row_that_is_not_there():
    assert set(ROWS) >= NAMED
    assert len(ROWS) == 81  # eighty, and one that was seen while probing


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_where_and_what(name):
    row = ROWS[name]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+|seen while probing", row.thread)
    assert row.kind in "CLGN" and row.problem and "|" not in row.problem + row.left
