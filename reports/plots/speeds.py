"""Images/s of one machine and set of conditions with their intervals, sorted, ties with the fastest marked."""

from typing import TYPE_CHECKING

from convbench.errors import printable

from ..labels import short_labels
from ..recommend import Recommendation
from .figures import add_titles, new_figure
from .style import LOOKS, explained, family, mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 30  # rows of one picture
SHOWN = ("model", "backend", "weights")


def sorted_speeds(found: Recommendation) -> "Figure":
    """A point and an interval for each row, the fastest first; those that cannot be told apart from it in a band."""
    rows = list(found.rows[:MOST])
    figure, (axes,) = new_figure(7, 1.3 + 0.3 * len(rows))
    labels = [
        " ".join(printable(each).split())
        for each in short_labels([{key: row.get(key) for key in SHOWN} for row in rows]).each
    ]
    if found.ties > 1:
        axes.axhspan(-0.5, min(found.ties, len(rows)) - 0.5, color="0.92", zorder=0)
    for place, row in enumerate(rows):
        colour, sign, _ = LOOKS[family(row["model"])]
        value, low, high = (row[f"images_per_s{end}"] for end in ("", "_low", "_high"))
        style = mark(row["verdict"], colour)
        axes.errorbar(
            value, place, xerr=[[value - low], [high - value]], fmt=sign, ms=6, color=colour, capsize=3, **style
        )
        words = f"{value:.4g}" + (" (tie)" if found.ties > 1 and place < found.ties else "")
        axes.annotate(words, (high, place), (7, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(row["images_per_s_high"] for row in rows))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("images/s, with its 95 % interval")
    add_titles(figure, "Images/s, fastest first", explained(found.where, {row["verdict"] for row in rows}))
    return figure
