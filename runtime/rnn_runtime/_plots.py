"""The plots of a report, as SVG that takes its colours from the page's CSS variables. By matplotlib, imported here."""

from __future__ import annotations

import importlib
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from ._errors import DependencyError
from ._report import Report, Row, Series
from ._statistics import DECADES

# matplotlib knows no CSS variables: each stands as a colour that nothing else has, and is replaced in the SVG.
_INK, _MUTED, _LINE, _BAD, _PAGE = "#010203", "#010204", "#010205", "#010206", "#010207"
_SERIES = tuple(f"#0102{16 + k:02x}" for k in range(8))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line", _BAD: "--bad", _PAGE: "--page"} | {
    colour: f"--s{k}" for k, colour in enumerate(_SERIES)
}
_DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))

_WIDTH = 5.4  # inches
_DECADES = 5
"""How many decades below what is allowed the colours tell apart."""

_FLOOR = 1e-17
"""Where an error of 0 is drawn on a logarithmic axis."""


def require() -> None:
    """Raises DependencyError where matplotlib is missing."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise DependencyError('matplotlib is not installed: pip install "rnn-export[report]"') from None


def heat_maps(report: Report) -> list[tuple[str, str]]:
    """(backend, SVG) for each backend: the largest error at each size of batch and sequence.

    The brighter, the nearer to what is allowed; what fails is red.
    """
    axes = _two_axes(report)
    if axes is None:
        return []
    return [(backend, _heat_map(rows, *axes)) for backend, rows in _grouped(report.rows, "backend").items()]


def along(report: Report, backends: Sequence[str]) -> list[tuple[str, str]]:
    """(output, SVG) for each output: the error along a long sequence, a line for each backend."""
    return [(output, _lines(series, backends)) for output, series in _grouped(report.series, "output").items()]


def histograms(report: Report, backends: Sequence[str]) -> list[tuple[str, str]]:
    """(output, SVG) for each output: how large how many errors are, a line for each backend."""
    counted = [row for row in report.rows if row.statistics is not None]
    return [(output, _histogram(rows, backends)) for output, rows in _grouped(counted, "output").items()]


def _grouped(items: Sequence[Any], key: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(getattr(item, key), []).append(item)
    return groups


def _two_axes(report: Report) -> tuple[str, str] | None:
    """The axes of the heat map: batch and sequence where they are known, else the first two."""
    names = list(dict.fromkeys(axis for row in report.rows for axis in row.shape))
    known = [axis for axis in report.about.get("axes", ()) if axis in names]
    ordered = [*known, *(axis for axis in names if axis not in known)]
    return (ordered[0], ordered[1]) if len(ordered) > 1 else None


def _figure(height: float) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none"})
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_MUTED, labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_LINE)
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids are its hashes, and one page has many plots
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'<metadata>.*?</metadata>|id="(?:figure|axes|patch|line2d|text|matplotlib|PolyCollection|QuadMesh|xtick|ytick|legend)_[\w.]+"',
        "",
        text,
        flags=re.DOTALL,
    )
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # Its size is the page's business; the view box keeps the proportions.
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )


def _heat_map(rows: Sequence[Row], across: str, along: str) -> str:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    cells: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.shape[across], row.shape[along]), []).append(row)
    ys, xs = (sorted({cell[k] for cell in cells}) for k in (0, 1))
    figure, axes = _figure(0.55 + 0.34 * len(ys))
    colours = colormaps["viridis"]
    for (y, x), found in cells.items():
        error = max(row.error for row in found)
        share = max((row.error / row.bound for row in found if row.bound and row.error > 0), default=0.0)
        near = (
            1 + math.log10(share) / _DECADES if 0 < share < math.inf else 0.0
        )  # 0: far below what is allowed; 1: at it
        shade = colours(0.1 + 0.85 * min(1.0, max(0.0, near)))
        passed = all(row.passed for row in found)
        place = (xs.index(x), ys.index(y))
        corner = (place[0] + 0.04, place[1] + 0.06)
        axes.add_patch(Rectangle(corner, 0.92, 0.88, facecolor=shade if passed else _BAD, edgecolor="none"))
        bright = 0.2126 * shade[0] + 0.7152 * shade[1] + 0.0722 * shade[2] > 0.45
        ink = _PAGE if not passed else "#111111" if bright else "#ffffff"
        said = "fails" if math.isinf(error) else "0" if error == 0 else f"{error:.0e}".replace("e-0", "e-")
        axes.text(place[0] + 0.5, place[1] + 0.5, said, ha="center", va="center", size=8, color=ink)
    axes.set(xlim=(0, len(xs)), ylim=(0, len(ys)), xlabel=along, ylabel=across)
    axes.set_xticks([k + 0.5 for k in range(len(xs))], map(str, xs))
    axes.set_yticks([k + 0.5 for k in range(len(ys))], map(str, ys))
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return _svg(figure, f"heat {rows[0].backend}")


def _style(backend: str, backends: Sequence[str]) -> dict[str, Any]:
    k = list(backends).index(backend) if backend in backends else 0
    return {"color": _SERIES[k % len(_SERIES)], "linestyle": _DASHES[k % len(_DASHES)], "linewidth": 1.6}


def _lines(series: Sequence[Series], backends: Sequence[str]) -> str:
    figure, axes = _figure(2.6)
    for one in series:
        errors = [max(error, _FLOOR) if math.isfinite(error) else math.nan for error in one.errors]
        axes.plot(one.steps, errors, label=one.backend, **_style(one.backend, backends))
    shown = [max(error, _FLOOR) for one in series for error in one.errors if math.isfinite(error)] or [_FLOOR]
    axes.set_yscale("log")
    axes.set_ylim(10.0 ** math.floor(math.log10(min(shown))), 10.0 ** math.ceil(math.log10(max(shown)) + 0.01))
    axes.minorticks_off()
    axes.set(xlabel="time step", ylabel="largest error")
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    _legend(figure, axes)
    return _svg(figure, f"along {series[0].output}")


def _histogram(rows: Sequence[Row], backends: Sequence[str]) -> str:
    figure, axes = _figure(2.6)
    used = [0] * (len(DECADES) + 1)
    shares = {}
    for backend, own in _grouped(rows, "backend").items():
        counts = [sum(row.statistics.histogram[k] for row in own) for k in range(len(DECADES) + 1)]
        used = [a + b for a, b in zip(used, counts, strict=True)]
        shares[backend] = [100 * count / max(1, sum(counts)) for count in counts]
    inside = [k for k, count in enumerate(used) if count]
    first, last = max(0, min(inside, default=0) - 1), min(len(DECADES), max(inside, default=0) + 1)
    for backend, share in shares.items():
        places = range(first, last + 1)
        axes.step(places, [share[k] for k in places], where="mid", label=backend, **_style(backend, backends))
    labels = {k: "exact" if k == 0 else f"1e{DECADES[k - 1]}" for k in range(first, last + 1)}
    axes.set_xticks(list(labels), labels.values(), rotation=0 if len(labels) < 8 else 45)
    axes.set(xlabel="absolute error, from", ylabel="share of the elements, %")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    _legend(figure, axes)
    return _svg(figure, f"histogram {rows[0].output}")


def _legend(figure: Any, axes: Any) -> None:
    """Below the plot, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(labels) / 3))
    figure.legend(
        handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=8, labelcolor=_INK, handlelength=2.6
    )
