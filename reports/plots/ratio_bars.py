"""Ratios with their 95 % intervals, and the band of what cannot be told apart."""

from typing import TYPE_CHECKING

from ..runs import frame, records
from .drawing import LOOKS, family, mark, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


CLEAR = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}  # so that no line crosses a number


def to_baseline(table: "DataFrame") -> "DataFrame":
    """The rows of ``beside_baseline`` that have a ratio, with ``label``, ``ratio`` and its interval."""
    keys = ("model", "verdict", "smallest_difference", "baseline")
    return frame(
        [
            {
                **{key: row[key] for key in keys},
                **{f"ratio{end}": row[f"baseline_ratio{end}"] for end in ("", "_low", "_high")},
                "label": row["model"],
            }
            for row in records(table)
            if row["baseline_ratio"] is not None
        ]
    )


def in_turns(table: "DataFrame") -> "DataFrame":
    """The rows that were timed in turns with another case, named after both."""
    return frame(
        [
            row | {"label": f"{row['case']}\nover {row['compared_with']}"}
            for row in records(table)
            if row["ratio"] is not None and row["ratio_low"] is not None
        ]
    )


def ratio_bars(table: "DataFrame", title: str = "") -> "Figure":
    """A point and a bar for each row; 1 is a line, and the band around it what the run cannot tell apart from it.

    ``table`` has ``label``, ``model``, ``ratio``, ``ratio_low``, ``ratio_high``; ``verdict`` and
    ``smallest_difference`` where known.
    """
    rows = records(table)
    figure, (axes,) = new_figure(7, 1.2 + 0.4 * max(len(rows), 1))
    least = max((row.get("smallest_difference") or 0.0 for row in rows), default=0.0)
    if least:
        axes.axvspan(1 - least, 1 + least, color="0.9", zorder=0, label=f"not told from 1 here (±{100 * least:.1f} %)")
        figure.legend(loc="outside lower right", frameon=False, fontsize=8)
    axes.axvline(1, color="0.3", lw=1)
    for place, row in enumerate(rows):
        colour, sign, _ = LOOKS[family(row["model"])]
        ratio = row["ratio"]
        low, high = row["ratio_low"] or ratio, row["ratio_high"] or ratio
        axes.errorbar(
            ratio,
            place,
            xerr=[[ratio - low], [high - ratio]],
            fmt=sign,
            ms=6,
            color=colour,
            capsize=3,
            **mark(row.get("verdict"), colour),
        )
        axes.annotate(
            f"{ratio:.2f}", (ratio, place), (0, 6), textcoords="offset points", ha="center", fontsize=8, bbox=CLEAR
        )
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ratio of images/s and 95 % interval\nhollow: SUSPECT")
    if title:
        axes.set_title(title, fontsize=9)
    return figure
