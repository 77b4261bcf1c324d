"""FID over MACs, with bubbles for parameters, and over measured throughput. FID is quoted from the papers."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convbench import catalogue

from ..baseline import is_ranked
from ..runs import frame, records
from ..tables.papers import id_of
from .annotations import label_points
from .figures import add_titles, new_figure
from .style import INCONCLUSIVE, LOOKS, explained, family, mark
from .ticks import plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]

SETTING = {"res": 256, "training": "400K", "guidance": "none"}  # of the FIDs, shared by most lines of the papers
FID_LABEL = f"FID-50K, from the papers: 400K steps, no guidance\n({INCONCLUSIVE})"
FROM = ("dic", "dico", "fcdm")


def printed_quality(measured: Mapping[str, Row] | None = None) -> "DataFrame":
    """A row a model: label, FID as printed, MACs and parameters as counted, and its images/s of ``measured``.

    Of several printed FIDs of a model, the one of its own paper is taken, else that of the first paper.
    """
    found: dict[str, Row] = {}
    for paper in FROM:
        for line in catalogue.printed_lines():
            model = id_of(line)
            fits = line["paper"] == paper and all(line.get(key) == value for key, value in SETTING.items())
            if not fits or model is None or "fid" not in line or "@" in model or model in found:
                continue
            variant = catalogue.find(model)
            own = (measured or {}).get(model, {})
            keys = ("images_per_s", "images_per_s_low", "images_per_s_high", "verdict")
            found[model] = {
                **{"model": model, "label": variant.name, "fid": line["fid"], "paper": paper},
                **{"macs": variant.macs, "params": variant.params},
                **{key: own.get(key) for key in keys},
            }
    return frame(list(found.values()))


def fid_over_macs(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """FID over the MACs of one image and forward pass; the area of a bubble is proportional to the parameters."""
    figure, (axes,) = new_figure(7.5, 5)
    points = []
    for row in records(table):
        colour, _, _ = LOOKS[family(row["model"])]
        area = 0.6e-6 * row["params"]
        x = row["macs"] / 1e9
        axes.scatter(x, row["fid"], s=area, facecolor=colour, edgecolor="black", lw=0.6, alpha=0.75, zorder=2)
        points.append((row["label"], x, row["fid"], colour, math.sqrt(area / math.pi)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.12)
    axes.set_xlabel("GMACs of one image (the papers' FLOPs)")
    axes.set_ylabel(FID_LABEL)
    add_titles(figure, title, subtitle or "256 px; bubble area: parameters")
    plain_ticks(axes, "x", "y")
    label_points(axes, points)
    for number, text in ((100e6, "100 M"), (700e6, "700 M")):
        axes.scatter([], [], s=0.6e-6 * number, facecolor="white", edgecolor="black", lw=0.6, label=text)
    axes.legend(loc="upper right", labelspacing=1.6, borderpad=1.0, handletextpad=1.2, frameon=False, fontsize=8)
    return figure


def fid_over_throughput(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """The papers' FID over images/s of one run, with intervals."""
    figure, (axes,) = new_figure(7.5, 5)
    points, bars = [], []
    shown = [row for row in records(table) if row["images_per_s"] is not None]
    for row in shown:
        colour, sign, _ = LOOKS[family(row["model"])]
        x = row["images_per_s"]
        bar = [[x - row["images_per_s_low"]], [row["images_per_s_high"] - x]]
        axes.errorbar(x, row["fid"], xerr=bar, fmt=sign, ms=7, color=colour, capsize=3, **mark(row["verdict"], colour))
        bars.append((row["images_per_s_low"], row["fid"], row["images_per_s_high"], row["fid"]))
        points.append((row["label"], x, row["fid"], colour, 5.0))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.15)
    axes.set_xlabel("measured images/s of one forward pass")
    axes.set_ylabel(FID_LABEL)
    add_titles(figure, title, explained(subtitle or "256 px", {row["verdict"] for row in shown}))
    if points:
        plain_ticks(axes, "x", "y")
        label_points(axes, points, bars)
    return figure


def usable(row: Row) -> bool:
    """True for a measurement that fits the setting of these FIDs."""
    return is_ranked(row) and row["res"] == SETTING["res"] and (row["mode"] or "forward") == "forward"
