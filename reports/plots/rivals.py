"""Frontiers of today's rivals: printed FID over MACs and over measured images/s.

A picture holds one resolution, with or without guidance. A line joins the models of one set of equal,
stated conditions that no other of them beats; nothing joins two sets.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convbench import catalogue

from ..runs import records
from .annotations import label_points
from .figures import add_titles, new_figure
from .style import CONVOLUTIONAL, INCONCLUSIVE, LOOKS, QUIET, explained, family, mark
from .ticks import plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]

RIVAL_LOOKS = {  # family -> colour, mark; those of style.LOOKS for the families of the papers
    "flowdcn": ("#D55E00", "P"),
    "lightningdit": ("#56B4E9", "*"),
    "ddt": ("#6A3D9A", "h"),
    "edm2": ("#009E73", "X"),
    "jit": ("#E69F00", "<"),
    "mdtv2": ("#CC79A7", ">"),
    "sana": ("#8A5F00", "p"),
}
INK = {"#E69F00": "#8A5F00", "#56B4E9": "#21709B", "#CC79A7": "#8C3A66"}  # of words, where the mark is too pale
PANELS = {"unguided": "without guidance", "guided": "with guidance"}
SHORT = {"autoguidance": "autoguidance", "unconditional XS": "XS guides", " in [": "interval"}  # guidance, on a point
SOURCE = "FID as printed; a line joins equal conditions only"
FEW = 20  # points of a picture that are all named; of more, the rivals and the frontiers


def drawable(rows: Sequence[Row], res: int, panel: str, key: str) -> list[Row]:
    """The rows of one resolution of ImageNet and one of PANELS with a value of ``key``."""
    fits = {"unguided": lambda row: row["guidance"] == "none", "guided": _guided}[panel]
    return [
        row for row in rows if (row["data"], row["res"]) == ("ImageNet", res) and fits(row) and row[key] is not None
    ]


def _guided(row: Row) -> bool:
    return row["guidance"] not in ("none", catalogue.NOT_STATED)


def over_macs(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """FID over the MACs of one image and forward pass. ``table``: rows of ``tables.rivals.rival_rows``."""
    words = "GMACs of one image (the papers' FLOPs)"
    return _frontiers(records(table), title, subtitle, "macs", 1e9, words, "on_macs")


def over_speed(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """FID over the images/s of one run, with intervals."""
    words = "measured images/s of one forward pass"
    return _frontiers(records(table), title, subtitle, "our_images_per_s", 1, words, "on_speed")


def _frontiers(rows: list[Row], title: str, subtitle: str, key: str, unit: float, words: str, leading: str) -> "Figure":
    figure, (axes,) = new_figure(8, 5.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.14)
    named: set[str] = set()
    points: list[tuple[str, float, float, str, float]] = []
    taken: list[tuple[float, ...]] = []
    for row in rows:
        which = catalogue.find_in_zoo(row["model"]).family
        colour, sign = _look(row["model"])
        x = row[key] / unit
        quiet = len(rows) > FEW and not (which.module in RIVAL_LOOKS or row[leading])
        bar, edges = None, {}
        if key == "our_images_per_s":
            bar = [[x - row[f"{key}_low"]], [row[f"{key}_high"] - x]]
            edges = mark(row["our_verdict"], colour)
            taken.append((row[f"{key}_low"], row["fid"], row[f"{key}_high"], row["fid"]))
        label = None if which.name in named else which.name
        named.add(which.name)
        size = 5 if quiet else 8
        axes.errorbar(x, row["fid"], xerr=bar, fmt=sign, ms=size, color=colour, capsize=2, label=label, **edges)
        taken.append((x, row["fid"], x, row["fid"]))
        if not quiet:
            points.append((_name(row), x, row["fid"], INK.get(colour, colour), 4.5))
    for line in _lines(rows, leading):
        ends = [(row[key] / unit, row["fid"]) for row in line]
        axes.plot(*zip(*ends, strict=True), color=QUIET, lw=1, ls="--", zorder=1)
        taken += _along(ends)
    axes.set_xlabel(words)
    axes.set_ylabel(f"FID-50K, as printed ({INCONCLUSIVE})")
    add_titles(figure, title, ", ".join(filter(None, [subtitle, explained(SOURCE, _verdicts(rows, key))])))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5, handletextpad=0.3)
    if points:
        plain_ticks(axes, "x", "y")
        label_points(axes, list(dict.fromkeys(points)), taken)
    return figure


def _verdicts(rows: Sequence[Row], key: str) -> set[str | None]:
    return {row["our_verdict"] for row in rows} if key == "our_images_per_s" else set()


def _along(ends: Sequence[tuple[float, float]]) -> list[tuple[float, ...]]:
    """Places along a line of straight pieces on logarithmic axes, which names should not cover."""
    places: list[tuple[float, ...]] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(ends):
        for step in range(1, 20):
            x, y = x0 * (x1 / x0) ** (step / 20), y0 * (y1 / y0) ** (step / 20)
            places.append((x, y, x, y))
    return places


def _lines(rows: Sequence[Row], leading: str) -> list[list[Row]]:
    """The frontiers: the leading rows of each set of conditions, from the highest FID to the lowest."""
    sets: dict[str, list[Row]] = {}
    for row in rows:
        if row[leading]:
            sets.setdefault(row["conditions"], []).append(row)
    return [sorted(each, key=lambda row: -row["fid"]) for each in sets.values() if len(each) > 1]


def _look(model: str) -> tuple[str, str]:
    rival = RIVAL_LOOKS.get(catalogue.find_in_zoo(model).family.module)
    if rival:
        return rival
    name = family(model)
    return LOOKS[name][:2] if name in CONVOLUTIONAL else ("0.55", LOOKS[name][1])


def _name(row: Row) -> str:
    """The label, and the conditions that differ within a picture: training, guidance other than "cfg", and an aid."""
    guidance = "" if row["guidance"] in ("none", "cfg") else str(row["guidance"])
    guidance = next((short for word, short in SHORT.items() if word in guidance), guidance)
    training = "" if row["training"] == catalogue.NOT_STATED else row["training"].replace(" images", " img")
    return ", ".join(filter(None, [row["label"], training, guidance, "DINOv2" if "DINOv2" in row["aid"] else ""]))
