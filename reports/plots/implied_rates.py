"""The audit as a picture: the FLOP/s that printed throughputs imply, against the data-sheet peaks of the GPU."""

from typing import TYPE_CHECKING, Any

from ..runs import records
from .drawing import LOOKS, family, new_figure, plain_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]

NAMES = {"dic": "DiC", "dico": "DiCo", "fcdm": "FCDM", "dit": "DiT", "dig": "DiG", "uvit": "U-ViT", "": "others"}
PEAKS = (("fp32", "FP32"), ("tf32", "TF32"), ("fp16", "FP16 and BF16"))


def implied_rates(table: "DataFrame") -> "Figure":
    """TFLOP/s over GMACs: a point for each printed throughput of a model and size; filled at 256 pixels."""
    rows = [row for row in records(table) if row["implied_flops_per_s"] is not None]
    figure, (axes,) = new_figure(8, 5)
    drawn: set[tuple[Any, ...]] = set()
    named: set[str] = set()
    for row in sorted(rows, key=lambda row: list(LOOKS).index(family(row["model"] or ""))):
        macs = row["macs"] if row["macs"] is not None else 1e9 * row["gmacs_printed"]
        point = (row["model"] or row["label"], row["res"], row["images_per_s"])
        if point in drawn:  # one number, printed in several tables
            continue
        drawn.add(point)
        which = family(row["model"] or "")
        colour, sign, _ = LOOKS[which]
        axes.plot(
            macs / 1e9,
            row["implied_flops_per_s"] / 1e12,
            sign,
            ms=6,
            mec=colour,
            mfc=colour if row["res"] == 256 else "white",
            alpha=0.85,
            label=None if which in named else NAMES[which],
        )
        named.add(which)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("GMACs of one image")
    axes.set_ylabel("implied TFLOP/s: 2 · MACs · printed images/s")
    gpus = ", ".join(dict.fromkeys(row["peaks_of"] for row in rows))
    axes.set_title(f"Lines: data-sheet peaks of the {gpus}. Filled: 256 pixels, hollow: other sizes", fontsize=9)
    for precision, name in PEAKS:
        peaks = {
            round(row["implied_flops_per_s"] / row[f"share_{precision}"] / 1e12, 3)
            for row in rows
            if row.get(f"share_{precision}")
        }
        for peak in sorted(peaks):
            axes.axhline(peak, color="0.3", lw=1, ls={"fp32": "-", "tf32": "--", "fp16": ":"}[precision], zorder=1)
            axes.annotate(
                f"{name}, {peak:g}",
                (0.995, peak),
                (0, 2),
                xycoords=("axes fraction", "data"),
                ha="right",
                fontsize=8,
                textcoords="offset points",
                color="0.3",
            )
    if rows:
        plain_numbers(axes, "x", "y")
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
