"""The audit as a picture: the FLOP/s that printed throughputs imply, and the data-sheet peaks of the GPU."""

from typing import TYPE_CHECKING, Any

from convbench.papers.findings import MARGIN

from ..labels import word
from ..runs import records
from .annotations import label_points
from .figures import add_titles, new_figure
from .style import CONVOLUTIONAL, FAMILY_NAMES, LOOKS, QUIET, family
from .ticks import plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]

PEAKS = (("fp32", "FP32", "-"), ("tf32", "TF32", "--"), ("fp16", "FP16 and BF16", ":"))
SAME = 0.002  # two printed numbers of one model and size closer than this are one number, rounded in one of the papers
ROOM = 3  # on the left, for the names of the peaks: the axis begins at the smallest model over this


def implied_rates(table: "DataFrame", title: str = "", subtitle: str = "") -> "Figure":
    """TFLOP/s over GMACs: a point for each printed throughput of a model and size; filled at 256 pixels.

    ``table``: rows of ``convbench audit --format json``.
    """
    points = printed_points(records(table))
    figure, (axes,) = new_figure(8, 4.1)
    named: set[str] = set()
    for row in sorted(points, key=lambda row: list(LOOKS).index(_family(row))):
        which = _family(row)
        colour, sign, _ = LOOKS[which]
        axes.plot(
            _gmacs(row),
            row["implied_flops_per_s"] / 1e12,
            sign,
            ms=6,
            mec=colour,
            mfc=colour if row["res"] == 256 else "white",
            alpha=0.85,
            label=None if which in named else FAMILY_NAMES[which],
        )
        named.add(which)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("GMACs of one image")
    axes.set_ylabel("TFLOP/s = 2 · MACs · images/s")
    add_titles(figure, title or finding(table), subtitle or f"{_above_are(points)}filled: 256 px, hollow: other sizes")
    peaks = _draw_peaks(axes, points)
    if points:
        axes.set_xlim(left=min(map(_gmacs, points)) / ROOM)
        plain_ticks(axes, "x", "y")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5, handletextpad=0.3)
        figure.draw_without_rendering()
        left, right = axes.get_xlim()
        marks = [(x, y, x, y) for _, x, y, _, _ in map(_named, points)]
        label_points(axes, [_named(row) for row in fastest(points)], [*marks, *((left, y, right, y) for y in peaks)])
    return figure


def finding(table: "DataFrame") -> str:
    """The title: the number of rates above the FP32 peak (by more than ``findings.MARGIN``) and of all rates."""
    points = [row for row in printed_points(records(table)) if row["share_fp32"] is not None]
    gpus = " and ".join(dict.fromkeys(row["peaks_of"] for row in points))
    return f"{len(_above(points))} of {len(points)} printed throughputs imply more FLOP/s than the {gpus}'s FP32 peak"


def printed_points(rows: list[Row]) -> list[Row]:
    """The rows with a rate; a number that several tables print counts once."""
    points: list[Row] = []
    for row in rows:
        if row["implied_flops_per_s"] is not None and not any(_same_number(row, other) for other in points):
            points.append(row)
    return points


def _above(points: list[Row]) -> list[Row]:
    return [row for row in points if row["share_fp32"] is not None and row["share_fp32"] > MARGIN]


def _above_are(points: list[Row]) -> str:
    """The words that say of which networks the rates above the FP32 peak are, where one word fits all of them."""
    above = [_family(row) in CONVOLUTIONAL for row in _above(points)]
    return "above it: convolutional networks only; " if above and all(above) else ""


def fastest(points: list[Row]) -> list[Row]:
    """The point with the highest rate of each family that has a look of its own."""
    best: dict[str, Row] = {}
    for row in points:
        which = _family(row)
        if which and (which not in best or row["implied_flops_per_s"] > best[which]["implied_flops_per_s"]):
            best[which] = row
    return list(best.values())


def _same_number(row: Row, other: Row) -> bool:
    names = [(each["model"] or each["label"], each["res"]) for each in (row, other)]
    close = abs(row["images_per_s"] - other["images_per_s"]) <= SAME * other["images_per_s"]
    return names[0] == names[1] and close


def _family(row: Row) -> str:
    """The family of a model, or of a variant that only a paper has, such as "DiCo (iso.)"."""
    return family(row["model"] or row["label"].partition(" ")[0].lower())


def _gmacs(row: Row) -> float:
    return float(row["gmacs_printed"] if row["macs"] is None else row["macs"] / 1e9)


def _named(row: Row) -> tuple[str, float, float, str, float]:
    name = row["label"] if row["res"] == 256 else f"{row['label']}, {word('res', row['res'])}"
    return name, _gmacs(row), row["implied_flops_per_s"] / 1e12, LOOKS[_family(row)][0], 3.0


def _draw_peaks(axes: "Axes", points: list[Row]) -> list[float]:
    """Draw a line at every peak of the GPUs, named at the left end, where no mark is. Returns their TFLOP/s."""
    drawn: list[float] = []
    for precision, name, dashes in PEAKS:
        peaks = {
            round(row["implied_flops_per_s"] / row[f"share_{precision}"] / 1e12, 3)
            for row in points
            if row.get(f"share_{precision}")
        }
        for peak in sorted(peaks):
            drawn.append(peak)
            axes.axhline(peak, color=QUIET, lw=1.2, ls=dashes, zorder=1)
            axes.annotate(
                f"{name}: {peak:g} TFLOP/s",
                (0.005, peak),
                (0, 2),
                xycoords=("axes fraction", "data"),
                fontsize=8.5,
                textcoords="offset points",
                color=QUIET,
            )
    return drawn
