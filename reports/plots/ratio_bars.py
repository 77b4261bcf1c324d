"""Ratios with their 95 % intervals, and the band of ratios that cannot be distinguished from 1."""

from typing import TYPE_CHECKING, Any

from ..labels import case_parts, short_labels
from ..runs import frame, records
from .figures import add_titles, new_figure
from .style import LOOKS, QUIET, explained, family, mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

KEYS = ("model", "verdict", "smallest_difference", "ratio", "ratio_low", "ratio_high")
CLEAR = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}  # so that no line crosses a number


def to_baseline(table: "DataFrame") -> "DataFrame":
    """The rows of ``beside_baseline`` that have a ratio: ``label``, ``shared``, ``ratio`` and its interval."""
    rows = [row for row in records(table) if row["baseline_ratio"] is not None]
    renamed = [row | {f"ratio{end}": row[f"baseline_ratio{end}"] for end in ("", "_low", "_high")} for row in rows]
    return _labelled(renamed, [])


def to_counterparts(table: "DataFrame") -> "DataFrame":
    """The rows that were compared with a counterpart, labelled "case vs counterpart"."""
    rows = [row for row in records(table) if row["ratio"] is not None and row["ratio_low"] is not None]
    return _labelled(rows, [case_parts(row["compared_with"]) for row in rows])


def _labelled(rows: list[dict[str, Any]], counterparts: list[dict[str, Any]]) -> "DataFrame":
    labels = short_labels(rows, counterparts)
    return frame(
        [
            {**{key: row.get(key) for key in KEYS}, "label": label, "shared": labels.shared}
            for row, label in zip(rows, labels.each, strict=True)
        ]
    )


def ratio_bars(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """A point and an interval for each row; a line at 1, and around it the band that cannot be distinguished from it.

    ``table`` has ``label``, ``model``, ``ratio``, ``ratio_low``, ``ratio_high``; ``shared``, ``verdict`` and
    ``smallest_difference`` where known.
    """
    rows = records(table)
    figure, (axes,) = new_figure(7, 1.3 + 0.34 * max(len(rows), 1))
    least = max((row.get("smallest_difference") or 0.0 for row in rows), default=0.0)
    if least:
        words = f"no difference can be claimed here (1 ± {100 * least:.1f} %)"
        axes.axvspan(1 - least, 1 + least, color="0.9", zorder=0, label=words)
        figure.legend(loc="outside lower right", frameon=False, fontsize=8)
    axes.axvline(1, color=QUIET, lw=1)
    for place, row in enumerate(rows):
        colour, sign, _ = LOOKS[family(row["model"])]
        ratio = row["ratio"]
        low, high = row["ratio_low"] or ratio, row["ratio_high"] or ratio
        bar = [[ratio - low], [high - ratio]]
        style = mark(row.get("verdict"), colour)
        axes.errorbar(ratio, place, xerr=bar, fmt=sign, ms=6, color=colour, capsize=3, **style)
        axes.annotate(
            f"{ratio:.2f}", (high, place), (7, 0), textcoords="offset points", va="center", fontsize=8, bbox=CLEAR
        )
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ratio of images/s, with its 95 % interval; above 1 is faster")
    shared = subtitle or next((row["shared"] for row in rows if row.get("shared")), "")
    add_titles(figure, title, explained(shared, {row.get("verdict") for row in rows}))
    return figure
