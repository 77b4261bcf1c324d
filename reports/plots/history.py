"""A metric over time: points, the levels between steps, and the environment change beside each step."""

from typing import TYPE_CHECKING

from ..columns import COLUMNS
from ..history import Series, changes, commit
from ..labels import case_parts, short_labels
from .figures import add_titles, new_grid
from .style import LOOKS, QUIET, family

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6  # series of one picture
WORDS = 46  # characters of an environment change beside a step


def over_time(series: list[Series], metric: str) -> "Figure":
    """One panel a series, those with steps first; at most MOST."""
    chosen = sorted(series, key=lambda each: (-len(each.steps), -len(each.points)))[:MOST]
    labels = short_labels([case_parts(each.case) for each in chosen])
    figure, axes = new_grid(8, 0.6 + 2.1 * len(chosen), rows=len(chosen))
    for each, panel, label in zip(chosen, axes, labels.each, strict=True):
        _draw(panel, each)
        panel.set_ylabel(COLUMNS[metric].header if metric in COLUMNS else metric)
        panel.set_title(f"{label}, {each.machine}", loc="left", fontsize=8.5, color=QUIET)
    axes[-1].set_xlabel("measurement, in the order of time")
    add_titles(figure, f"{metric} over time", "")
    for panel, each, label in zip(axes, chosen, labels.each, strict=True):
        words = ", ".join(filter(None, [label, labels.shared, each.machine]))
        panel.set_title(words, loc="left", fontsize=8.5, color=QUIET)
    return figure


def _draw(axes: "Axes", series: Series) -> None:
    colour, _, _ = LOOKS[family(case_parts(series.case)["model"])]
    values = [point.value for point in series.points]
    axes.plot(range(len(values)), values, ".", ms=3, color=colour, alpha=0.6)
    edges = [0, *(step.position for step in series.steps), len(values)]
    levels = [series.steps[0].before, *(step.after for step in series.steps)] if series.steps else []
    for start, end, level in zip(edges, edges[1:], levels, strict=False):
        axes.plot([start - 0.5, end - 0.5], [level, level], color="black", lw=1.2)
    for step in series.steps:
        axes.axvline(step.position - 0.5, color=QUIET, lw=0.8, ls=":")
        found = changes(series, step.position)
        here = commit(series.environment(step.position))
        words = f"{100 * (step.ratio - 1):+.1f} %" + "".join(f"\n{each}"[:WORDS] for each in [here, *found[:2]] if each)
        late = step.position > 0.7 * len(values)
        axes.annotate(
            words,
            (step.position, 0.97),
            (-4 if late else 4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            ha="right" if late else "left",
            fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
    axes.margins(y=0.35)
