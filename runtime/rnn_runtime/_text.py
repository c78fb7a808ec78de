"""A report as text: tables, what failed, and how to see it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._report import Check, Divergence, Report, Row

Table = list[tuple[str, ...]]
"""Rows of cells, the head first."""

_SHOWN = 20
"""How many failed comparisons are listed."""


def plain(report: Report) -> str:
    """All parts of a report, tables with their columns aligned."""
    texts = [aligned(part) if isinstance(part, list) else part for part in parts(report)]
    return "\n\n".join(texts) or "nothing was compared"


def parts(report: Report) -> list[Table | str]:
    """What a report shows, in order: tables and texts."""
    found: list[Table | str] = []
    if report.rows:
        backends: dict[str, list[Row]] = {}
        for row in report.rows:
            backends.setdefault(row.backend, []).append(row)
        head = ("backend", "shapes", "largest error", "where", "eager float32", "verdict")
        found.append([head, *(_summary(backend, rows) for backend, rows in backends.items())])
    if report.failures:
        lines = [f"{len(report.failures)} of {len(report.rows)} comparisons failed:"]
        lines += [f"  {_failure(row)}" for row in report.failures[:_SHOWN]]
        if len(report.failures) > _SHOWN:
            lines.append(f"  and {len(report.failures) - _SHOWN} more")
        found.append("\n".join(lines))
    if report.checks:
        found.append(_properties(report.checks))
    for group in failed(report.broken):
        first = group[0]
        lines = [f"{first.property} fails on {listed(group)}: {first.promise}", f"  {first.text()}"]
        if first.inputs is not None:
            lines.append(f"  inputs: {brief(first.inputs)}")
        found.append("\n".join([*lines, *([f"  {first.command}"] if first.command else [])]))
    found += [str(place) for place in places(report.divergences)]
    found += [f"{backend}: {text}" for backend, text in report.about.get("near", {}).items()]
    found += [f"warning: {text}" for text in report.warnings]
    if report.about.get("left_out"):
        reasons = (f"  {name}: {str(why).partition(': ')[0]}" for name, why in report.about["left_out"].items())
        found.append("\n".join(["left out:", *reasons]))
    return found


def failed(checks: Sequence[Check]) -> list[list[Check]]:
    """Failures, those together that several backends share."""
    shared: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        shared.setdefault((check.property, f"{check.where} {check.trial}"), []).append(check)
    return list(shared.values())


def places(divergences: Sequence[Divergence]) -> list[Divergence]:
    """Each place once, with the names of all backends that leave the yardstick there."""
    shared: dict[tuple[Any, ...], list[Divergence]] = {}
    for found in divergences:
        place = (found.place, found.module, found.layer, found.direction, found.step, found.reason)
        shared.setdefault(place, []).append(found)
    return [replace(group[0], backend=listed(group)) for group in shared.values()]


def listed(group: Sequence[Check] | Sequence[Divergence]) -> str:
    """The backends of several findings."""
    return ", ".join(dict.fromkeys(item.backend for item in group))


def brief(inputs: Mapping[str, Any]) -> str:
    """Inputs in a line: numbers with six digits, and arrays of zeros in a word."""

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(item) for item in value]
        if isinstance(value, float):
            return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else str(value)
        return value

    def zero(value: Any) -> bool:
        return all(map(zero, value)) if isinstance(value, list) else value == 0

    return ", ".join(
        f"{name} = {'zeros' if zero(value) else json.dumps(rounded(value))}" for name, value in inputs.items()
    )


def _properties(checks: Sequence[Check]) -> Table:
    """Properties with one verdict on several backends in one line; the last column is free."""
    table: Table = [("property", "verdict", "trials", "largest error", "allowed", "on")]
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for check in checks:
        note = check.note if check.verdict != "failed" else ""
        groups.setdefault((check.property, check.verdict, note), []).append(check)
    for (name, verdict, note), group in groups.items():
        worst = max(group, key=lambda check: check.error)
        if verdict == "skipped":
            everywhere = sum(check.property == name for check in checks) == len(group)
            table.append((name, "not applicable", "-", "-", "-", note if everywhere else f"{listed(group)}: {note}"))
        else:
            trials = str(sum(check.trials for check in group))
            said = "FAILED" if verdict == "failed" else verdict
            where = f"{listed(group)}: {note}" if note else listed(group)
            table.append((name, said, trials, f"{worst.error:.2g}", f"{worst.bound:.2g}", where))
    return table


def _summary(backend: str, rows: list[Row]) -> tuple[str, ...]:
    worst = max(rows, key=lambda row: row.error)
    shapes = {tuple(row.shape.items()) for row in rows}
    eager = [row.eager_error for row in rows if row.eager_error is not None]
    failed = sum(not row.passed for row in rows)
    return (
        backend,
        str(len(shapes)),
        f"{worst.error:.2g}",
        worst.place() if worst.error > 0 else "-",
        f"{max(eager):.2g}" if eager else "-",
        f"FAILED ({failed} of {len(rows)})" if failed else "passed",
    )


def _failure(row: Row) -> str:
    note = f" ({row.note})" if row.note else ""
    return f"{row.backend}: {row.place()}: error {row.error:.3g}, allowed {row.bound:.3g}{note}"


def aligned(rows: Table) -> str:
    """A table as lines, with a line under its head as long as the last column's shorter cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = max(len(row[-1]) for row in rows if len(row[-1]) <= _WIDEST)
    lines = [rows[0], tuple("-" * width for width in widths), *rows[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines
    )


_WIDEST = 24
