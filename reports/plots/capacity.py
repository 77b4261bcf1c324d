"""Cost over load: what each way to serve a demand costs a million images, from a tenth to ten times of it."""

import math
from typing import TYPE_CHECKING, Any

from ..labels import model_name
from .annotations import label_ends
from .figures import add_titles, new_figure
from .style import LOOKS, QUIET, family
from .ticks import plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

MOST = 6  # measured ways that are drawn
STEPS = 400
SPAN = 10.0  # loads from the demand over this to the demand times this


def cost_over_load(rows: list[Row], images_per_day: float) -> "Figure":
    """A line for each of the cheapest ways and the modelled ones; a vertical line at the demand.

    Without prices, the number of devices.
    """
    met = [row for row in rows if row["devices"] is not None and row["reason"] is None]
    measured = [row for row in met if row["rank"] is not None]
    best: dict[tuple[Any, ...], Row] = {}
    for row in measured:  # of a model and backend on a device, the cheapest
        best.setdefault((row["model"], row["backend"], row["planned_device"]), row)
    modelled = {
        row["planned_device"]: row for row in reversed(met) if row["rank"] is None
    }  # of each device the cheapest
    chosen = [*list(best.values())[:MOST], *modelled.values()]
    priced = any(row["cost_per_million"] is not None for row in chosen)
    chosen = [row for row in chosen if not priced or row["cost_per_million"] is not None]
    figure, (axes,) = new_figure(8, 4.4)
    loads = [images_per_day * SPAN ** (2 * step / STEPS - 1) for step in range(STEPS + 1)]
    ends = []
    for row in chosen:
        colour, _, dashes = LOOKS[family(row["model"])]
        is_modelled = row["rank"] is None
        counts = [max(1, math.ceil(load / row["images_per_day_per_device"] - 1e-9)) for load in loads]
        unit = row["cost_per_million"] / row["devices"] * images_per_day if priced else 1.0
        values = [unit * count / (load if priced else 1.0) for count, load in zip(counts, loads, strict=True)]
        shown, line = ("0.55", ":") if is_modelled else (colour, dashes)
        axes.plot(loads, values, drawstyle="steps-mid", lw=1.4, color=shown, ls=line)
        ends.append((_label(row), loads[-1], values[-1], "0.4" if is_modelled else colour))
    axes.axvline(images_per_day, color=QUIET, lw=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(loads[0], loads[-1] * 5)
    axes.annotate(
        "demand",
        (images_per_day, 1),
        (3, -3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=QUIET,
    )
    axes.set_xlabel("images a day")
    axes.set_ylabel("cost of a million images" if priced else "devices")
    plain_ticks(axes, "y")
    label_ends(axes, ends)
    what = (
        "grey and dotted: modelled from data-sheet peaks, not measured"
        if any(r["rank"] is None for r in chosen)
        else ""
    )
    add_titles(figure, "Cost over load", what)
    return figure


def _label(row: Row) -> str:
    parts = [
        model_name(row["model"]),
        row["backend"],
        row["planned_device"],
        "(modelled)" if row["rank"] is None else "",
    ]
    return " ".join(filter(None, parts))
