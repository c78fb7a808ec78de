"""The report as text, JSON, JUnit XML and HTML."""

from __future__ import annotations

import json
import math
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from rnn_runtime import Check, DependencyError, Divergence, Report, Row, Series
from rnn_runtime._statistics import statistics


def row(backend: str, batch: int, sequence: int, error: float, *, passed: bool = True) -> Row:
    shape = {"batch": batch, "sequence": sequence}
    more = statistics(np.array([1 + error, 2], np.float32), np.array([1.0, 2.0]), 1e-5)
    return Row(backend, shape, "y", error, 1e-5, (0,), passed, statistics=more)


def report(*, good: bool) -> Report:
    rows = [row("one", b, s, 1e-7) for b in (1, 7) for s in (1, 13)]
    checks = [
        Check("rows", "one", "rows are apart", "passed", trials=3, error=1e-7, bound=2e-5, seconds=0.5),
        Check("padding", "one", "padding is nothing", "skipped", note="no <lengths> & none"),
    ]
    divergences = []
    if not good:
        rows.append(row("two", 7, 13, math.inf, passed=False))
        text = "a\x00b <script>"
        checks.append(
            Check(
                *("rows", "two", "rows are apart", "failed", text, 4, 0.5, 2e-5, "y[0]"),
                trial={"batch": 2, "seed": 0},
                inputs={"x": [[0.0], [1.0]], "h": [0.0, 0.0], "n": [math.nan]},
                command="rnn-export verify DIR --property rows",
            )
        )
        divergences.append(Divergence("two", "in", "lstm", "LSTM", 1, "backward", 4, 0.5, {"batch": 2}, "no bias"))
    series = [Series("one", "y", (0, 100), (1e-8, 2e-7))]
    about = {"bundle": "build/x", "level": "quick", "seed": 0, "seconds": 1.5, "axes": ["batch", "sequence"]}
    about |= {"versions": {"numpy": "2"}, "hardware": "a chip", "left_out": {"three": "missing: pip install three"}}
    return Report(tuple(rows), tuple(checks), tuple(divergences), tuple(series), about)


def test_a_failed_check_fails_the_report() -> None:
    assert report(good=True).passed
    assert not report(good=False).passed
    failed = Check("rows", "one", "", "failed")
    assert not Report((row("one", 1, 1, 0.0),), checks=(failed,)).passed
    # Skipped checks alone show nothing.
    assert not Report((), checks=(Check("rows", "one", "", "skipped"),)).passed
    assert Report((), checks=(Check("rows", "one", "", "passed"),)).passed


def test_the_text_says_what_failed_and_how_to_see_it_again() -> None:
    text = str(report(good=False))
    assert "rows fails on two: rows are apart" in text
    assert "  y[0] at batch=2 seed=0: error 0.5, allowed 2e-05" in text
    assert '  inputs: x = [[0.0], [1.0]], h = zeros, n = ["nan"]' in text
    assert "  rnn-export verify DIR --property rows" in text
    assert (
        "two first leaves eager PyTorch in 'lstm' (LSTM), layer 1, backward direction, at time step 4 "
        "(error 0.5, batch=2): no bias"
    ) in text
    assert text.endswith("left out:\n  three: missing")


def test_what_several_backends_share_is_said_once() -> None:
    places = [Divergence(name, "in", "lstm", "LSTM", 0, "forward", 0, 0.5, {"batch": 1}) for name in ("a", "b")]
    checks = [Check("rows", name, "p", "failed", where="y", trial={"batch": 2}) for name in ("a", "b")]
    text = str(Report((), tuple(checks), tuple(places)))
    assert text.count("first leave") == 1
    assert "a, b first leave eager PyTorch" in text
    assert text.count("rows fails on a, b: p") == 1


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("before", "first leaves eager PyTorch in the input of 'm' (GRU), layer 0, at time step 2 (error 1, n=1)"),
        (
            "after",
            "first leaves eager PyTorch in the output 'm', after the last recurrent layer that can be seen into, "
            "at time step 2",
        ),
    ],
)
def test_a_place_that_is_no_layer_is_said_as_one(place: str, text: str) -> None:
    assert text in str(Divergence("x", place, "m", "GRU", 0, "", 2, 1.0, {"n": 1}))


def test_json_is_strict_and_holds_everything() -> None:
    found = json.loads(report(good=False).to_json(), parse_constant=pytest.fail)
    assert (found["version"], found["passed"]) == (1, False)
    assert found["rows"][-1]["error"] == "inf"
    assert found["checks"][-1]["inputs"] == {"x": [[0.0], [1.0]], "h": [0.0, 0.0], "n": ["nan"]}
    assert found["divergences"][0]["text"].startswith("two first leaves eager PyTorch")
    assert found["series"] == [{"backend": "one", "output": "y", "steps": [0, 100], "errors": [1e-8, 2e-7]}]
    assert found["about"]["left_out"] == {"three": "missing: pip install three"}


def test_junit_counts_and_can_be_read() -> None:
    root = ElementTree.fromstring(report(good=False).to_junit())
    suites = {suite.attrib["name"]: suite for suite in root}
    assert suites["one"].attrib | {"time": ""} == {
        "name": "one", "tests": "6", "failures": "0", "skipped": "1", "errors": "0", "time": "",
    }  # fmt: skip
    assert (suites["two"].attrib["tests"], suites["two"].attrib["failures"]) == ("2", "2")
    for suite in suites.values():
        assert len(suite.findall("testcase")) == int(suite.attrib["tests"])
        assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"])
    assert "first leaves eager PyTorch in 'lstm'" in suites["two"].findtext("system-out", "")
    assert "a?b <script>" in suites["two"].findall("testcase/failure")[-1].attrib["message"]


class Page(HTMLParser):
    """The tags of a page, and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("good", [True, False])
def test_the_page_holds_everything_and_needs_no_network(good: bool) -> None:
    pytest.importorskip("matplotlib")
    page = Page(report(good=good).to_html())
    kinds = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "image"} & set(kinds)
    for _, attributes in page.tags:
        for name, value in attributes.items():
            # Links stay in the page; names of XML's vocabularies are no addresses.
            assert name.startswith("xmlns") or not (value or "").startswith(("http", "//")), (name, value)
    assert ("Passed" if good else "Failed") in page.text[: page.text.index("Properties")]
    backends = 1 if good else 2
    assert kinds.count("svg") == backends + 1 + 1  # a heat map for each backend, a line, a histogram
    for text in ("numpy", "a chip", "left out: three", "What each promises", "padding is nothing"):
        assert text in page.text
    if not good:
        assert "rnn-export verify DIR --property rows" in page.text
        assert "layer 1, backward direction, at time step 4" in page.text


def test_a_page_without_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r'matplotlib is not installed: pip install "rnn-export\[report\]"'):
        report(good=True).to_html()
