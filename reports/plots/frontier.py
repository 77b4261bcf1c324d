"""Images/s against the Fréchet distance of ways to sample, with the frontier of those that nothing else beats."""

from typing import TYPE_CHECKING, Any

from ..runs import records
from . import figures
from .annotations import label_points
from .ticks import plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]

COLOURS = {"better": "#0072B2", "same": "#009E73", "worse": "#D55E00", "inconclusive": "#999999", None: "#000000"}
MARKS = {"reference": "*", "fewer steps": "o", "method": "s"}


def frontier(table: "DataFrame", title: str, subtitle: str) -> "Figure":
    """Draw rows of ``convbench pareto`` of one model and seed.

    The colour is the verdict on quality, the mark what kind of way it is; bars are 95 % intervals. Hollow marks without
    a name were stopped early, with fewer images.
    """
    from matplotlib.lines import Line2D

    drawn = [row for row in records(table) if row.get("images_per_s") and row.get("frechet")]
    figure, (axes,) = figures.new_figure(9.5, 6)
    for row in drawn:
        x, y, colour = row["images_per_s"], row["frechet"], COLOURS.get(row.get("quality"), "#000000")
        bars: dict[str, Any] = {"color": colour, "lw": 0.8, "capsize": 2, "zorder": 2}
        axes.errorbar(x, y, xerr=_reach(row, "images_per_s"), yerr=_reach(row, "frechet"), **bars)
        face = "white" if row["images"] < row["planned"] else colour
        size = 13 if row["role"] == "reference" else 7
        axes.plot(x, y, MARKS.get(row["role"], "x"), color=colour, ms=size, mfc=face, zorder=3, ls="none")
    best = sorted((row for row in drawn if row.get("on_frontier")), key=lambda row: row["images_per_s"])
    axes.plot([row["images_per_s"] for row in best], [row["frechet"] for row in best], color="0.4", lw=1, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_ticks(axes, "x", "y")
    axes.set_xlabel("finished images/s")
    axes.set_ylabel("Fréchet distance from real images, smaller is better")
    keys = [Line2D([], [], marker=mark, color="0.3", ls="none", label=role) for role, mark in MARKS.items()]
    words = {row.get("quality") for row in drawn}
    keys += [
        Line2D([], [], marker="o", color=colour, ls="none", label=f"quality: {word}")
        for word, colour in COLOURS.items()
        if word and word in words
    ]
    keys += [Line2D([], [], color="0.4", lw=1, label="frontier")]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=8, frameon=False)
    figures.add_titles(figure, title, subtitle)
    named = [row for row in drawn if row["images"] >= row["planned"]]
    label_points(axes, [(label(row), row["images_per_s"], row["frechet"], "#444444", 5.0) for row in named])
    return figure


def _reach(row: Row, key: str) -> list[list[float]]:
    """Lengths of the two halves of an error bar; of no length where an end is not known."""
    value = float(row[key])
    low, high = (float(value if row.get(f"{key}_{end}") is None else row[f"{key}_{end}"]) for end in ("low", "high"))
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def label(row: Row) -> str:
    """The plan in a few words: "ddim 25, deep:every=2, cfg 0.2..0.8"."""
    parts = dict(part.partition("=")[::2] for part in str(row["sampling"]).split(","))
    words = [f"{parts.get('sampler', '')} {parts.get('steps', '')}"]
    words += [parts["cache"]] if "cache" in parts else []
    words += [f"cfg {parts['cfg-interval']}"] if "cfg-interval" in parts else []
    engine = f"{row['backend']}/{row['precision']}"
    return ", ".join([*words, *([engine] if engine != "eager/fp32" else [])])
