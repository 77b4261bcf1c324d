"""MACs by kind of operator as stacked bars, from the JSON of ``convbench flops --by kind``."""

from typing import TYPE_CHECKING, Any

from ..labels import short_labels
from ..runs import records
from .figures import add_titles, new_figure
from .style import HATCHES, SHADES

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SMALL = 0.005  # share of the MACs; kinds below it in every model are drawn as one, "rest"


def macs_by_kind(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """A bar a model and size: the share of each kind of operator in its MACs, and the total to the right."""
    rows = records(table)
    bars = list(dict.fromkeys((row["model"], row["res"]) for row in rows))
    largest: dict[str, float] = {}
    for row in rows:
        largest[row["kind"]] = max(largest.get(row["kind"], 0.0), row["share"])
    kinds = [kind for kind in sorted(largest, key=lambda kind: -largest[kind]) if largest[kind] >= SMALL]
    kinds = kinds[: len(SHADES) - 1]
    figure, (axes,) = new_figure(8, 1.3 + 0.34 * len(bars))
    labels = short_labels([{"model": model, "res": res} for model, res in bars])
    left = dict.fromkeys(bars, 0.0)
    for number, kind in enumerate([*kinds, "rest"]):
        shares = {bar: _share(rows, bar, kind, kinds) for bar in bars}
        if not any(shares.values()):
            continue
        axes.barh(
            range(len(bars)),
            [100 * shares[bar] for bar in bars],
            left=[100 * left[bar] for bar in bars],
            color=SHADES[number],
            hatch=HATCHES[number],
            edgecolor="black",
            linewidth=0.5,
            label=kind,
        )
        left = {bar: left[bar] + shares[bar] for bar in bars}
    for number, bar in enumerate(bars):
        total = sum(row["macs"] for row in rows if (row["model"], row["res"]) == bar)
        axes.text(101, number, f"{total / 1e9:.4g} G", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), labels.each)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the MACs of one image, %; right of the bars: their total")
    figure.legend(loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    add_titles(figure, title, subtitle or labels.shared)
    return figure


def _share(rows: list[dict[str, Any]], bar: tuple[str, int], kind: str, kinds: list[str]) -> float:
    own = [row for row in rows if (row["model"], row["res"]) == bar]
    if kind == "rest":
        return sum(row["share"] for row in own if row["kind"] not in kinds)
    return sum(row["share"] for row in own if row["kind"] == kind)
