"""A report as one page of HTML: no network, no script, light or dark as the reader has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from . import _plots, _text

if TYPE_CHECKING:
    from ._report import Check, Report


def write(report: Report) -> str:
    """The page. Raises DependencyError where matplotlib is missing."""
    _plots.require()
    backends = list(dict.fromkeys([row.backend for row in report.rows] + [check.backend for check in report.checks]))
    title = f"{'Passed' if report.passed else 'FAILED'}: {report.about.get('bundle', 'rnn-export verify')}"
    body = [
        _verdict(report, backends),
        _failures(report),
        "".join(f"<p class=found>warning: {escape(text)}</p>" for text in report.warnings),
        _properties(report, backends),
        _plotted(
            "Largest error over the grid of sizes",
            "backend",
            _plots.heat_maps(report),
            "The brighter, the nearer to what is allowed; red fails.",
        ),
        _plotted("Error along a long sequence", "output", _plots.along(report, backends)),
        _plotted("How large the errors are", "output", _plots.histograms(report, backends)),
        _statistics(report),
        _about(report),
    ]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(filter(None, body)))


def _verdict(report: Report, backends: list[str]) -> str:
    kind = "good" if report.passed else "bad"
    checks = [check for check in report.checks if check.verdict != "skipped"]
    trials = sum(check.trials for check in checks) + len({tuple(row.shape.items()) for row in report.rows})
    wrong = sorted({row.backend for row in report.failures} | {check.backend for check in report.broken})
    said = (
        f"{len(backends)} backends, {len({check.property for check in checks})} properties, {trials:,} inputs"
        if report.passed
        else f"{', '.join(wrong)}: {len(report.failures)} of {len(report.rows)} comparisons and "
        f"{len(report.broken)} of {len(checks)} checks failed"
    )
    facts = [str(report.about[key]) for key in ("bundle",) if key in report.about]
    if "seconds" in report.about:
        facts.append(f"level {report.about.get('level')}, seed {report.about.get('seed')}, {report.about['seconds']} s")
    return (
        f'<header class="{kind}"><h1>{"Passed" if report.passed else "Failed"}</h1><p>{escape(said)}</p>'
        f'<p class="muted">{escape(" · ".join(facts))}</p></header>'
    )


def _failures(report: Report) -> str:
    parts = [f"<p class=found>{escape(str(found))}</p>" for found in _text.places(report.divergences)]
    for group in _text.failed(report.broken):
        first = group[0]
        inputs = "" if first.inputs is None else f"<pre>{escape(_text.brief(first.inputs))}</pre>"
        command = f"<pre>{escape(first.command)}</pre>" if first.command else ""
        parts.append(
            f"<details open><summary><b>{escape(first.property)}</b> fails on {escape(_text.listed(group))}</summary>"
            f"<p>{escape(first.promise)}</p><p>{escape(first.text())}</p>{inputs}{command}</details>"
        )
    if not parts and not report.failures:
        return ""
    rows = report.failures[:_SHOWN]
    more = len(report.failures) - len(rows)
    table = _table(
        ("backend", "where", "error", "allowed", "note"),
        ([row.backend, row.place(), _number(row.error), _number(row.bound), row.note] for row in rows),
    )
    rest = f"<p class=muted>and {more} more</p>" if more else ""
    return _section("What failed", "".join(parts) + (table + rest if rows else ""))


_SHOWN = 30


def _properties(report: Report, backends: list[str]) -> str:
    if not report.checks:
        return ""
    known = {(check.property, check.backend): check for check in report.checks}
    names = list(dict.fromkeys(check.property for check in report.checks))
    reasons: dict[str, int] = {}
    lines = []
    for backend in backends:
        checks = [known.get((name, backend)) for name in names]
        if any(checks):
            cells = "".join(_cell(check, reasons) for check in checks)
            lines.append(f"<tr><th scope=row>{escape(backend)}</th>{cells}</tr>")
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in ("", *names))
    notes = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    promises = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(promise)}</dd>"
        for name, promise in {check.property: check.promise for check in report.checks}.items()
    )
    return _section(
        "Properties",
        f"<div class=wide><table class=matrix><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        "<p class=muted>In each cell: the largest error, and how many inputs were tried.</p>"
        f"<ol class=muted>{notes}</ol><details><summary>What each promises</summary><dl>{promises}</dl></details>",
    )


def _cell(check: Check | None, reasons: dict[str, int]) -> str:
    """A verdict; what there is to say of it is numbered in `reasons`."""
    if check is None:
        return "<td class=muted>·</td>"
    note = ""
    if check.note and check.verdict != "failed":
        note = f" <sup>{reasons.setdefault(check.note, len(reasons) + 1)}</sup>"
    if check.verdict == "skipped":
        return f"<td class=muted>n/a{note}</td>"
    kind, mark = ("good", "passed") if check.verdict == "passed" else ("bad", "FAILED")
    size = f"<small>{_number(check.error)} · {check.trials}</small>"
    return f'<td class="{kind}">{mark}{note}<br>{size}</td>'


def _plotted(title: str, what: str, plots: Iterable[tuple[str, str]], text: str = "") -> str:
    figures = "".join(
        f'<figure role=img aria-label="{escape(f"{title}, {what} {name}")}">'
        f"<figcaption>{escape(name)}</figcaption>{svg}</figure>"
        for name, svg in plots
    )
    said = f"<p class=muted>{escape(text)}</p>" if text else ""
    return _section(title, f"{said}<div class=plots>{figures}</div>") if figures else ""


def _statistics(report: Report) -> str:
    """Of each output on each backend, at the size where it is furthest off."""
    worst: dict[tuple[str, str], Any] = {}
    for row in report.rows:
        if row.statistics is not None:
            before = worst.get((row.output, row.backend))
            worst[row.output, row.backend] = row if before is None or row.error > before.error else before
    if not worst:
        return ""
    head = (
        "output",
        "backend",
        "absolute",
        "relative",
        "median",
        "99.9 %",
        "cosine",
        "SNR, dB",
        "ulp",
        "over",
        "first",
    )
    lines = []
    for (output, backend), row in worst.items():
        found = row.statistics
        lines.append(
            [
                output,
                backend,
                _number(found.absolute),
                _number(found.relative),
                _number(found.quantiles[0]),
                _number(found.quantiles[-1]),
                f"{found.cosine:.9f}",
                "exact" if found.snr == math.inf else f"{found.snr:.1f}",
                _number(found.ulp),
                f"{found.over} of {found.count}",
                "-" if found.first is None else str(list(found.first)),
            ]
        )
    return _section("Each output, at the size where it is furthest off", _table(head, lines))


def _about(report: Report) -> str:
    versions: Mapping[str, Any] = report.about.get("versions", {})
    lines = [[name, str(version)] for name, version in versions.items()]
    lines += [["hardware", str(report.about["hardware"])]] if "hardware" in report.about else []
    lines += [[f"left out: {name}", str(why)] for name, why in report.about.get("left_out", {}).items()]
    return _section("Versions and hardware", _table(("what", "which"), lines)) if lines else ""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<div class=wide><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root {
  --page: #fcfcfb; --ink: #16181d; --muted: #5c626e; --line: #dcdee3; --good: #14713d; --bad: #b3261e;
  --good-page: #e7f4ec; --bad-page: #fdeceb; --code: #f1f2f4;
  --s0: #6b7280; --s1: #1f6fd1; --s2: #c2570c; --s3: #13795b; --s4: #8a3ffc; --s5: #b3246b; --s6: #7a6200;
  --s7: #0b7285;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --ink: #eceef2; --muted: #a2a9b6; --line: #343a44; --good: #6fd699; --bad: #ff8b82;
    --good-page: #16301f; --bad-page: #3a1a18; --code: #20242b;
    --s0: #9aa2b1; --s1: #6cb0ff; --s2: #ff9f5a; --s3: #4cd1a1; --s4: #c1a0ff; --s5: #ff86bd; --s6: #e0c24a;
    --s7: #5fd0e3;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 20px 16px 48px; }
header { border-radius: 10px; padding: 16px 20px; margin-bottom: 8px; }
header.good { background: var(--good-page); } header.bad { background: var(--bad-page); }
header h1 { margin: 0; font-size: 30px; line-height: 1.2; }
header.good h1 { color: var(--good); } header.bad h1 { color: var(--bad); }
header p { margin: 4px 0 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 10px; }
.muted, small, figcaption { color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
.matrix td { white-space: nowrap; }
td.good { color: var(--good); } td.bad { color: var(--bad); font-weight: 700; }
td small { font-size: 12px; font-weight: 400; }
ol { padding-left: 22px; } dt { font-weight: 600; } dd { margin: 0 0 6px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 18px 28px; }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: 13px; margin-bottom: 2px; }
figure svg text { font-family: system-ui, sans-serif !important; }
pre { background: var(--code); border-radius: 6px; padding: 8px 10px; overflow-x: auto; font-size: 13px; }
details { border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; margin: 10px 0; }
summary { cursor: pointer; } details p { margin: 6px 0; overflow-wrap: anywhere; }
p.found { border-left: 3px solid var(--bad); padding-left: 10px; overflow-wrap: anywhere; }
"""
