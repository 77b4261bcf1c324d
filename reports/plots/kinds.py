"""MACs by kind of operator as stacked bars, from the JSON of ``convbench flops --by kind``."""

from typing import TYPE_CHECKING, Any

from ..runs import records
from .drawing import HATCHES, SHADES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SMALL = 0.005  # of every model's MACs: kinds under it are one, called rest


def macs_by_kind(table: "DataFrame") -> "Figure":
    """A bar a model and size: what share of its MACs each kind of operator has; the total stands behind the bar."""
    rows = records(table)
    bars = list(dict.fromkeys((row["model"], row["res"]) for row in rows))
    largest: dict[str, float] = {}
    for row in rows:
        largest[row["kind"]] = max(largest.get(row["kind"], 0.0), row["share"])
    kinds = [kind for kind in sorted(largest, key=lambda kind: -largest[kind]) if largest[kind] >= SMALL]
    kinds = kinds[: len(SHADES) - 1]
    figure, (axes,) = new_figure(8, 1.3 + 0.34 * len(bars))
    several = len({res for _, res in bars}) > 1
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
    axes.set_yticks(range(len(bars)), [f"{model}, {res} px" if several else model for model, res in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the MACs of one image, %; behind the bars: all of them")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _share(rows: list[dict[str, Any]], bar: tuple[str, int], kind: str, kinds: list[str]) -> float:
    own = [row for row in rows if (row["model"], row["res"]) == bar]
    if kind == "rest":
        return sum(row["share"] for row in own if row["kind"] not in kinds)
    return sum(row["share"] for row in own if row["kind"] == kind)
