"""The roofline: FLOP/s of models and kernels over their arithmetic intensity, below the machine's measured rates.

Intensity is FLOPs over bytes moved: weights once a step, inputs and outputs of every operator unfused, as
``convbench flops`` counts them, at the width of the precision; for a kernel, its least traffic.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..baseline import is_ranked
from ..labels import short_labels
from ..runs import frame, records
from .annotations import label_points
from .figures import add_titles, new_figure
from .style import LOOKS, QUIET, explained, family, mark
from .ticks import plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]

WIDTH = {"bf16": 2, "fp16": 2}  # bytes of a number, where not 4
CEILINGS = (  # key of ``rates``, name, dashes
    ("conv3x3_flops_per_s", "3x3 convolutions", "-"),
    ("conv1x1_flops_per_s", "1x1 convolutions", "--"),
    ("matmul_flops_per_s", "matrix products", ":"),
)


def roofline_points(counted: Iterable[Row], measurements: Iterable[Row], kernels: Iterable[Row] = ()) -> "DataFrame":
    """A row a model or kernel: ``label``, ``intensity`` (FLOP/B), ``flops_per_s`` with its interval, ``rates``.

    The bytes of a model come from the counts of ``convbench flops --format json`` among the files; a model without a
    count has no row. All measurements and kernels should be of one machine and precision.
    """
    counts = {(row["model"], row["res"]): row for row in counted}
    usable = [
        row
        for row in measurements
        if (row["model"], row["res"]) in counts and is_ranked(row) and row["flops_per_s"] is not None
    ]
    rows = []
    for row, label in zip(usable, short_labels(usable).each, strict=True):
        count = counts[row["model"], row["res"]]
        scale = WIDTH.get(row["precision"], 4) / 4
        moved = scale * (count["weight_bytes"] / row["batch"] + count["activation_bytes"])
        share = {end: row[f"images_per_s_{end}"] / row["images_per_s"] for end in ("low", "high")}
        rows.append(
            {
                **{"label": label, "model": row["model"], "kind": "model", "verdict": row["verdict"]},
                **{"intensity": count["flops"] / moved, "flops_per_s": row["flops_per_s"], "rates": row["rates"]},
                **{f"flops_per_s_{end}": row["flops_per_s"] * share[end] for end in share},
            }
        )
    rows += [_of_kernel(row) for row in kernels if row.get("status") == "ok" and row.get("flops")]
    return frame(rows)


def _of_kernel(row: Row) -> Row:
    return {
        **{"label": row["kernel"], "model": row["model"], "kind": "kernel", "verdict": None},
        **{"intensity": row["flops"] / row["min_bytes"], "flops_per_s": row["flops_per_s"]},
        **{"flops_per_s_low": row["flops"] / row["cold_s_p80"], "flops_per_s_high": row["flops"] / row["cold_s_p20"]},
        "rates": {"matmul_flops_per_s": row["peak_flops_per_s"], "copy_bytes_per_s": row["copy_bytes_per_s"]},
    }


def roofline(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """GFLOP/s over FLOP/B. Large marks: models; small marks: kernels, each named at its fastest shape."""
    figure, (axes,) = new_figure(7.5, 5)
    rows = records(table)
    ceilings = {name: max((row["rates"].get(name) or 0.0 for row in rows), default=0.0) for name, _, _ in CEILINGS}
    copy = max((row["rates"].get("copy_bytes_per_s") or 0.0 for row in rows), default=0.0)
    fastest = {row["label"]: row for row in sorted(rows, key=lambda row: row["flops_per_s"])}
    points, bars = [], []
    for row in rows:
        colour, sign, _ = LOOKS[family(row["model"])]
        value = row["flops_per_s"] / 1e9
        low, high = row["flops_per_s_low"] / 1e9, row["flops_per_s_high"] / 1e9
        axes.errorbar(
            row["intensity"],
            value,
            [[max(0.0, value - low)], [max(0.0, high - value)]],
            fmt=sign,
            ms=7 if row["kind"] == "model" else 4,
            color=colour,
            capsize=2,
            zorder=3,
            **mark(row["verdict"], colour),
        )
        bars.append((row["intensity"], low, row["intensity"], high))
        if row["kind"] == "model" or row is fastest[row["label"]]:
            points.append((row["label"], row["intensity"], value, colour, 5.0))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.2)
    axes.set_xlabel("FLOPs over bytes moved, FLOP/B")
    axes.set_ylabel("GFLOP/s")
    lines = "lines: rates measured in the same run"
    add_titles(figure, title, explained(", ".join(filter(None, [subtitle, lines])), {row["verdict"] for row in rows}))
    peak = max(ceilings.values())
    if rows and copy and peak:
        ridge = peak / copy
        low = min(ridge, *(row["intensity"] for row in rows)) / 3
        high = max(ridge, *(row["intensity"] for row in rows)) * 8
        axes.set_xlim(low, high)
        axes.plot([low, ridge], [copy * low / 1e9, peak / 1e9], color=QUIET, lw=1.2)
        middle = (low * ridge) ** 0.5
        axes.annotate(
            f"copy, {copy / 1e9:.0f} GB/s",
            (middle, copy * middle / 1e9),
            (8, -4),
            textcoords="offset points",
            va="top",
            color=QUIET,
            fontsize=8,
        )
        for name, _, dashes in CEILINGS:
            if ceilings[name]:
                rate = ceilings[name] / 1e9
                axes.plot([rate * 1e9 / copy, high], [rate, rate], dashes, color=QUIET, lw=1.2)
        _name_ceilings(axes, ceilings, high)
        plain_ticks(axes, "x", "y")
        label_points(axes, points, bars)
    return figure


def _name_ceilings(axes: Any, ceilings: dict[str, float], right: float) -> None:
    """Name ceilings above their lines, or below where the next line is too close."""
    above = float("inf")
    for name, words, _ in sorted(CEILINGS, key=lambda ceiling: -ceilings[ceiling[0]]):
        if rate := ceilings[name] / 1e9:
            near = above / rate < 1.12
            axes.annotate(
                f"{words}, {rate:.4g} GFLOP/s",
                (right, rate),
                (-2, -3 if near else 3),
                textcoords="offset points",
                ha="right",
                va="top" if near else "bottom",
                color=QUIET,
                fontsize=8,
            )
            above = rate
