"""Drawings: curves and forecasts as inline SVG that follows the page's colours, and the loss curve as PNG.

The only module of the services that imports matplotlib; it is imported in the process that draws.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import dates as mpl_dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from services.result.report.content import Content, Point, Track

_dates: Any = mpl_dates  # the module has no annotations

INK, MUTED, GRID = "#11181c", "#687076", "#dfe3e6"
ACCENT, WARM, COOL = "#0d74ce", "#c2620e", "#2b8a57"
BAD = "#ce2c31"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", ACCENT: "accent", WARM: "warm", COOL: "cool", BAD: "bad"}
COLOURS = (ACCENT, WARM, COOL, "#8145b5", "#007e7e", "#ad5700")

MOST_SMALL = 12
MOST_TRACKS = 24

mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small, sharp, found by the browser's search
        "text.parse_math": False,  # names are the user's: a dollar sign is a dollar sign
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "legend.labelcolor": INK,
        "font.size": 9,
    }
)


def all_drawings(found: Content) -> dict[str, Any]:
    """Return every drawing of a report as SVG: `loss`, `others` and `tracks` by name."""
    drawings: dict[str, Any] = {"others": [], "tracks": []}
    if found.losses:
        drawings["loss"] = _loss_svg(found.losses, found.resumed)
    for number, (name, points) in enumerate(list(found.other_curves.items())[:MOST_SMALL]):
        drawings["others"].append(_small_svg(name, points, found.resumed, f"other{number}"))
    for number, track in enumerate(found.tracks[:MOST_TRACKS]):
        drawings["tracks"].append((track.name, _track_svg(track, f"track{number}")))
    return drawings


def loss_png(losses: Mapping[str, Sequence[Point]], title: str, resumed: Sequence[float] = ()) -> bytes:
    """Return the loss curve as a PNG of 1280 × 720; `resumed` are steps that later attempts went on from."""
    figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    _draw_curves(axes, losses, resumed)
    axes.set_title(_short(title, 90))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _loss_svg(losses: Mapping[str, Sequence[Point]], resumed: Sequence[float]) -> str:
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    _draw_curves(figure.add_subplot(), losses, resumed)
    return _svg(figure, "loss", f"Curves of {', '.join(losses)} by step")


def _small_svg(name: str, points: Sequence[Point], resumed: Sequence[float], salt: str) -> str:
    figure = Figure(figsize=(4.7, 2.2), layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, {name: points}, resumed, legend=False)
    axes.set_title(_short(name))
    return _svg(figure, salt, f"{name} by step")


def _draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[Point]], resumed: Sequence[float], *, legend: bool = True
) -> None:
    lines, names = [], []
    for step in resumed:
        axes.axvline(step, color=MUTED, linewidth=0.9, dashes=(4, 3), zorder=0)
    for colour, (name, points) in zip(COLOURS * 10, curves.items(), strict=False):
        steps, values = [point[0] for point in points], [_drawable(point[1]) for point in points]
        many = len(points) > 60
        style: dict[str, Any] = {"alpha": 0.3, "linewidth": 0.9} if many else {"linewidth": 1.6}
        marker = "o" if len(points) < 15 else ""
        (line,) = axes.plot(steps, values, color=colour, marker=marker, markersize=3, **style)
        if many:
            (line,) = axes.plot(steps, _smoothed(values), color=colour, linewidth=1.7)
        for step, value in points:
            if not math.isfinite(value):
                axes.axvline(step, color=BAD, linewidth=0.8, alpha=0.6)
        lines.append(line)
        names.append(_short(name))
    _scale(axes, curves)
    at = {step for points in curves.values() for step, _ in points}
    if len(at) == 1:  # one step has no width of its own: ticks would be fractions of it
        axes.set_xlim(min(at) - 1, min(at) + 1)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if legend:
        axes.legend(lines, names, loc="upper right", ncols=3)


def _drawable(value: float) -> float:
    """Return what an axis can hold: a gap for what is not finite or absurdly large."""
    return value if math.isfinite(value) and abs(value) < 1e200 else math.nan


def _scale(axes: Axes, curves: Mapping[str, Sequence[Point]]) -> None:
    """Choose a logarithmic axis for losses that fall over orders of magnitude; write numbers plainly."""
    values = [_drawable(value) for points in curves.values() for _, value in points]
    finite = [value for value in values if math.isfinite(value)]
    falls = bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 50
    if falls and all("loss" in name.lower() for name in curves):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return a centred moving mean over about a thirtieth of the curve; gaps stay gaps."""
    reach = max(1, len(values) // 60)
    smooth = []
    for index, value in enumerate(values):
        near = [v for v in values[max(0, index - reach) : index + reach + 1] if math.isfinite(v)]
        smooth.append(sum(near) / len(near) if near and math.isfinite(value) else math.nan)
    return smooth


def _track_svg(track: Track, salt: str) -> str:
    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    axes = figure.add_subplot()
    first_origin = min((rows[0][0] for rows in track.by_origin.values()), default=None)
    keep = _shown_from(track, first_origin)
    dates, actual = track.dates[keep:], [_drawable(value) for value in track.actual[keep:]]
    axes.plot(_dates.date2num(dates), actual, color=INK, linewidth=1.2, label="actual")
    label = "forecast"
    for origin, rows in sorted(track.by_origin.items()):
        _draw_rows(axes, rows, label)
        label = "_later"
        if origin:
            axes.axvline(_dates.date2num(rows[0][0]), color=GRID, linewidth=1.2, zorder=0)
    if track.future:
        left = _dates.date2num(track.dates[-1]) if track.dates else _dates.date2num(track.future[0][0])
        axes.axvspan(left, _dates.date2num(track.future[-1][0]), color=ACCENT, alpha=0.07, linewidth=0)
        _draw_rows(axes, track.future, label)
    locator = _dates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_dates.ConciseDateFormatter(locator))
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.margins(x=0.01)
    axes.legend(loc="upper left", ncols=3, bbox_to_anchor=(0, 1.16), borderaxespad=0)
    return _svg(figure, salt, f"Forecasts of {track.name} beside what happened")


def _draw_rows(axes: Axes, rows: Sequence[tuple[Any, float, float]], label: str) -> None:
    at = _dates.date2num([row[0] for row in rows])
    naive = label if label.startswith("_") else "seasonal naive"
    axes.plot(at, [_drawable(row[2]) for row in rows], color=WARM, linewidth=1.0, dashes=(3, 2), label=naive)
    axes.plot(at, [_drawable(row[1]) for row in rows], color=ACCENT, linewidth=1.9, label=label)


def _shown_from(track: Track, first_origin: Any) -> int:
    """Return where the drawing begins: enough before the first evaluation to see what it grew out of."""
    if first_origin is None:
        return max(0, len(track.dates) - 200)
    before = sum(1 for date in track.dates if date < first_origin)
    after = len(track.dates) - before
    return max(0, before - max(2 * after, 20))


def _thousands(value: float, _: Any) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


def _short(text: str, most: int = 40) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f"\u200b{text}" if text.startswith("_") else text  # a leading underscore would hide it


def _svg(figure: Figure, salt: str, title: str) -> str:
    """Return a figure as an SVG element: scalable, coloured by the page, with nothing that points outside."""
    from html import escape

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--sans)", svg)
    svg = re.sub(r" id=\"(?:figure|axes|patch|line2d|text|legend|xtick|ytick|matplotlib)[^\"]*\"", "", svg)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.replace(">", f' role="img"><title>{escape(title)}</title>', 1)
