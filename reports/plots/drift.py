"""The errors along trajectories as a plot: one line for each backend and precision, over the steps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convbench.files import whole

Row = dict[str, Any]


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw the rows of ``sampling.drift.drift`` into a .png, .svg or .pdf, written whole or not at all.

    Errors are on a logarithmic axis, so a step without any error leaves a gap. The limit of each precision is dotted;
    a cross marks the first step that is wrong.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    walked = [row for row in rows if row["step"] is not None]
    limits: dict[str, Any] = {}
    for engine in dict.fromkeys((row["backend"], row["precision"]) for row in walked):
        own = [row for row in walked if (row["backend"], row["precision"]) == engine]
        first, precision = own[0], own[0]["precision"]
        steps, errors = [row["step"] + 1 for row in own], [row["error"] or math.nan for row in own]
        none = ": no error" if all(row["error"] == 0 for row in own) else ""
        (line,) = axes.plot(steps, errors, label=f"{', '.join(engine)}{none}", lw=1.4)
        wrong = next((row for row in own if row["verdict"] == "wrong"), None)
        if wrong and wrong["error"]:
            axes.plot(wrong["step"] + 1, wrong["error"], "x", color=line.get_color(), ms=9, mew=2)
        if precision not in limits:
            limits[precision] = axes.axhline(first["limit"], color="0.5", ls=":", lw=1)
            place, above = (first["steps"], first["limit"]), (0, 2)
            axes.annotate(
                f"limit of {precision}",
                place,
                above,
                textcoords="offset points",
                ha="right",
                color="0.4",
                fontsize=8,
            )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("relative error to fp32 eager")
    if walked:
        first = walked[0]
        axes.set_title(
            f"{first['model']}, {first['sampler']}, {first['steps']} steps, guidance {first['cfg_scale']:g}",
            fontsize=10,
        )
        figure.legend(loc="outside right upper", fontsize=8)
    axes.grid(alpha=0.3)
    with whole(file) as target:
        figure.savefig(target, format=file.suffix.removeprefix(".") or "png", dpi=150)
