"""A report as JUnit XML, which CI systems show as test results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from ._report import Check, Report, Row

# What XML 1.0 has no way to write, though an error's text may hold it.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(report: Report) -> str:
    """One test suite for each backend; a test case for each shape and output, and for each property."""
    root = ElementTree.Element("testsuites", name="rnn-export verify")
    backends = dict.fromkeys([row.backend for row in report.rows] + [check.backend for check in report.checks])
    for backend in backends:
        rows = [row for row in report.rows if row.backend == backend]
        checks = [check for check in report.checks if check.backend == backend]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=backend,
            tests=str(len(rows) + len(checks)),
            failures=str(sum(not row.passed for row in rows) + sum(check.verdict == "failed" for check in checks)),
            skipped=str(sum(check.verdict == "skipped" for check in checks)),
            errors="0",
            time=f"{sum(check.seconds for check in checks):.3f}",
        )
        for row in rows:
            _row(suite, row)
        for check in checks:
            _check(suite, check)
        places = [str(found) for found in report.divergences if found.backend == backend]
        if places:
            ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(places))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _row(suite: ElementTree.Element, row: Row) -> None:
    sizes = " ".join(f"{axis}={size}" for axis, size in row.shape.items())
    case = ElementTree.SubElement(suite, "testcase", classname=f"{row.backend}.grid", name=f"{row.output} {sizes}")
    if not row.passed:
        message = f"error {row.error:.3g}, allowed {row.bound:.3g}" + (f" ({row.note})" if row.note else "")
        ElementTree.SubElement(case, "failure", message=_clean(message)).text = _clean(row.place())


def _check(suite: ElementTree.Element, check: Check) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"{check.backend}.properties",
        name=check.property,
        time=f"{check.seconds:.3f}",
    )
    if check.verdict == "skipped":
        ElementTree.SubElement(case, "skipped", message=_clean(check.note))
    elif check.verdict == "failed":
        failure = ElementTree.SubElement(case, "failure", message=_clean(check.text()))
        failure.text = _clean("\n".join(filter(None, [check.promise, check.command])))


def _clean(text: str) -> str:
    return _UNWRITABLE.sub("?", text)
