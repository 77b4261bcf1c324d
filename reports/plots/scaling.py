"""Throughput and latency over the batch size, throughput over the resolution: one line a case, intervals as bars."""

from typing import TYPE_CHECKING, Any

from ..baseline import is_ranked
from ..labels import Labels, short_labels
from ..runs import records
from .annotations import label_ends
from .figures import add_titles, new_figure
from .style import LOOKS, explained, family, mark
from .ticks import plain_ticks, ticks_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]


def over_batch(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """Images/s and milliseconds of a step over the batch size. INVALID and unranked rows are left out."""
    figure, (speed, latency) = new_figure(9, 4, columns=2)
    rows = [row for row in records(table) if is_ranked(row)]
    _draw_lines(speed, rows, "batch", "images_per_s", 1)
    _draw_lines(latency, rows, "batch", "latency_s_p50", 1e3)
    speed.set_ylabel("images/s")
    latency.set_ylabel("latency of a step, ms")
    for axes in (speed, latency):
        axes.set_xlabel("batch size")
    add_titles(figure, title, explained(subtitle or labels(rows, "batch").shared, {row["verdict"] for row in rows}))
    return figure


def over_resolution(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """Images/s over the side of the image in pixels."""
    figure, (axes,) = new_figure(6, 4)
    rows = [row for row in records(table) if is_ranked(row)]
    _draw_lines(axes, rows, "res", "images_per_s", 1)
    axes.set_xlabel("side of the image, pixels")
    axes.set_ylabel("images/s")
    add_titles(figure, title, explained(subtitle or labels(rows, "res").shared, {row["verdict"] for row in rows}))
    return figure


def labels(rows: list[Row], along: str) -> Labels:
    """Labels of the rows without the condition that is an axis."""
    return short_labels([{**row, along: None} for row in rows])


def _draw_lines(axes: "Axes", rows: list[Row], along: str, key: str, unit: float) -> None:
    lines: dict[str, list[Row]] = {}
    for label, row in sorted(zip(labels(rows, along).each, rows, strict=True), key=lambda pair: pair[1][along]):
        lines.setdefault(label, []).append(row)
    ends = []
    drawn: dict[str, int] = {}
    for name, own in lines.items():
        which = family(own[0]["model"])
        colour, sign, dashes = LOOKS[which]
        drawn[which] = drawn.get(which, 0) + 1
        width = 1.6 if drawn[which] == 1 else 1.0
        x, y = [row[along] for row in own], [unit * row[key] for row in own]
        axes.plot(x, y, dashes, color=colour, lw=width, label=name, zorder=2)
        for row, at, value in zip(own, x, y, strict=True):
            low, high = _interval(row, key, value)
            bar = [[value - low], [high - value]]
            axes.errorbar(at, value, bar, fmt=sign, ms=5, color=colour, capsize=2, **mark(row["verdict"], colour))
        ends.append((name, x[-1], y[-1], colour))
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks_at(axes, [row[along] for row in rows])
    if rows:
        low, high = min(row[along] for row in rows), max(row[along] for row in rows)
        longest = max(len(name) for name, *_ in ends)
        span = max(high / low, 1.5)
        axes.set_xlim(low / span**0.05, high * span ** (0.05 + 0.028 * longest))
        plain_ticks(axes, "y")
        label_ends(axes, ends)


def _interval(row: Row, key: str, value: float) -> tuple[float, float]:
    """The interval of images/s, or the latency's that follows from it."""
    low, high = (row[f"images_per_s_{end}"] / row["images_per_s"] for end in ("low", "high"))
    return (value * low, value * high) if key == "images_per_s" else (value / high, value / low)
