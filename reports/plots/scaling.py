"""Throughput and latency against the batch, throughput against the resolution: a line a model, intervals as bars."""

from typing import TYPE_CHECKING, Any

from ..baseline import is_ranked
from ..runs import records
from .drawing import LOOKS, family, label_ends, mark, new_figure, plain_numbers, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]

AXES = ("batch", "res", "backend", "precision", "device", "threads", "mode")
HOLLOW = "hollow: SUSPECT"


def against_batch(table: "DataFrame") -> "Figure":
    """Images/s and milliseconds of a step against the batch. INVALID and unranked rows are left out."""
    figure, (speed, latency) = new_figure(9, 4, columns=2)
    rows = [row for row in records(table) if is_ranked(row)]
    _lines(speed, rows, "batch", "images_per_s", 1)
    _lines(latency, rows, "batch", "latency_s_p50", 1e3)
    speed.set_ylabel("images/s")
    latency.set_ylabel("latency of a step, ms")
    figure.suptitle(_title(rows, "batch"), fontsize=9)
    return figure


def against_resolution(table: "DataFrame") -> "Figure":
    """Images/s against the side of the image in pixels."""
    figure, (axes,) = new_figure(6, 4)
    rows = [row for row in records(table) if is_ranked(row)]
    _lines(axes, rows, "res", "images_per_s", 1)
    axes.set_xlabel("side of the image, pixels")
    axes.set_ylabel("images/s")
    figure.suptitle(_title(rows, "res"), fontsize=9)
    return figure


def lines(rows: list[Row], along: str) -> dict[str, list[Row]]:
    """The rows of each line by its name: the model, and those conditions that differ between rows."""
    differ = [key for key in AXES if key != along and len({row[key] for row in rows}) > 1]
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[along]):
        name = " ".join([row["model"], *(_words(key, row[key]) for key in differ)])
        found.setdefault(name, []).append(row)
    return found


def _words(key: str, value: Any) -> str:
    return {"batch": f"batch {value}", "res": f"{value} px", "threads": f"{value} threads"}.get(key, str(value))


def _lines(axes: "Axes", rows: list[Row], along: str, key: str, unit: float) -> None:
    ends = []
    seen: dict[str, int] = {}
    for name, own in lines(rows, along).items():
        which = family(own[0]["model"])
        colour, sign, dashes = LOOKS[which]
        seen[which] = seen.get(which, 0) + 1
        width = 1.6 if seen[which] == 1 else 1.0
        x, y = [row[along] for row in own], [unit * row[key] for row in own]
        axes.plot(x, y, dashes, color=colour, lw=width, label=name, zorder=2)
        for row, at, value in zip(own, x, y, strict=True):
            low, high = _bar(row, key, value)
            bar = [[value - low], [high - value]]
            axes.errorbar(at, value, bar, fmt=sign, ms=5, color=colour, capsize=2, **mark(row["verdict"], colour))
        ends.append((name, x[-1], y[-1], colour))
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_ticks(axes, [row[along] for row in rows])
    axes.set_xlabel(along)
    if rows:
        low, high = min(row[along] for row in rows), max(row[along] for row in rows)
        longest = max(len(name) for name, *_ in ends)
        span = max(high / low, 1.5)
        axes.set_xlim(low / span**0.05, high * span ** (0.05 + 0.028 * longest))
        plain_numbers(axes, "y")
        label_ends(axes, ends)


def _bar(row: Row, key: str, value: float) -> tuple[float, float]:
    """The interval of images/s, or what it makes of a latency."""
    low, high = (row[f"images_per_s_{end}"] / row["images_per_s"] for end in ("low", "high"))
    return (value * low, value * high) if key == "images_per_s" else (value / high, value / low)


def _title(rows: list[Row], along: str) -> str:
    if not rows:
        return "nothing to draw"
    same = [_words(key, rows[0][key]) for key in AXES if key != along and len({row[key] for row in rows}) == 1]
    hollow = [HOLLOW] if any(row["verdict"] == "SUSPECT" for row in rows) else []
    return ", ".join([*(word for word in same if word not in ("None", "None threads", "forward")), *hollow])
