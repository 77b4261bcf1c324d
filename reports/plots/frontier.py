"""Images/s against the Fréchet distance of ways to sample, with the frontier of those that nothing else beats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convbench.files import whole

Row = dict[str, Any]

COLOURS = {"same": "tab:green", "better": "tab:blue", "worse": "tab:red", "inconclusive": "0.6", None: "black"}
MARKS = {"reference": "*", "fewer steps": "o", "method": "s"}


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw rows of ``convbench pareto`` of one model into a .png, .svg or .pdf, written whole or not at all.

    The colour is the verdict on quality, the mark what kind of way it is; bars are 95 % intervals. A way that was
    stopped early is hollow.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    drawn = [row for row in rows if row.get("images_per_s") and row.get("frechet") is not None]
    figure = Figure(figsize=(9.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row in drawn:
        x, y, colour = row["images_per_s"], row["frechet"], COLOURS[row.get("quality")]
        across = [[max(0.0, x - (row["images_per_s_low"] or x))], [max(0.0, (row["images_per_s_high"] or x) - x)]]
        along = [[max(0.0, y - (row["frechet_low"] or 0.0))], [max(0.0, (row["frechet_high"] or y) - y)]]
        axes.errorbar(x, y, xerr=across, yerr=along, color=colour, lw=0.8, capsize=2, zorder=2)
        hollow = row["images"] < row["planned"]
        size = 14 if row["role"] == "reference" else 7
        axes.plot(
            x, y, MARKS[row["role"]], color=colour, ms=size, mfc="white" if hollow else colour, zorder=3, ls="none"
        )
        axes.annotate(_label(row), (x, y), (6, 4), textcoords="offset points", fontsize=6.5, color="0.25")
    best = sorted((row for row in drawn if row.get("on_frontier")), key=lambda row: row["images_per_s"])
    axes.plot([row["images_per_s"] for row in best], [row["frechet"] for row in best], color="0.4", lw=1, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("finished images/s")
    axes.set_ylabel("Fréchet distance from the real images")
    axes.grid(alpha=0.3, which="both")
    keys = [Line2D([], [], marker=mark, color="0.3", ls="none", label=role) for role, mark in MARKS.items()]
    words = {row.get("quality") for row in drawn}
    keys += [
        Line2D([], [], marker="o", color=colour, ls="none", label=f"quality: {word}")
        for word, colour in COLOURS.items()
        if word and word in words
    ]
    keys += [Line2D([], [], color="0.4", lw=1, label="frontier")]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=8)
    if drawn:
        first = drawn[0]
        count = max(row["images"] for row in drawn)
        axes.set_title(f"{first['model']}, {first['device']}, {count} images, seed {first['seed']}", fontsize=10)
    with whole(file) as target:
        figure.savefig(target, format=file.suffix.removeprefix(".") or "png", dpi=150)


def _label(row: Row) -> str:
    """The plan in a few words."""
    parts = dict(part.partition("=")[::2] for part in row["sampling"].split(","))
    words = [f"{parts.get('sampler', '')} {parts.get('steps', '')}"]
    words += [parts["cache"]] if "cache" in parts else []
    words += [f"cfg {parts['cfg-interval']}"] if "cfg-interval" in parts else []
    engine = f"{row['backend']}/{row['precision']}"
    return "\n".join([*words, *([engine] if engine != "eager/fp32" else [])])
