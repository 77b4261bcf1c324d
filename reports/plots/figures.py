"""Figures of one style: made, titled, and written as SVG with selectable text or as PNG."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.errors import UsageError
from convbench.files import write_whole

from .style import QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text and can be searched; the reader's own font draws it
    "svg.hashsalt": "convbench",  # the same picture is the same file
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # DejaVu and Verdana have almost the same widths
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}


def new_figure(width: float, height: float, columns: int = 1, **sharing: Any) -> tuple["Figure", list["Axes"]]:
    """A figure of ``width`` by ``height`` inches, and its axes side by side."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, columns, squeeze=False, **sharing)[0]
    for each in axes:
        each.grid(alpha=0.3, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, list(axes)


def new_grid(width: float, height: float, rows: int) -> tuple["Figure", list["Axes"]]:
    """A figure of ``width`` by ``height`` inches, and its axes one below the other."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for each in axes:
        each.grid(alpha=0.3, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def take_literally(figure: "Figure") -> None:
    """Draw every text as it is written, so that ``$\\frac$`` in a row is no formula. Powers of ten are."""
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                tick.label1.set_parse_math(True)


def save_as(figure: "Figure", path: Path) -> None:
    """Write a picture to a file, as SVG or PNG by its name. Raises UsageError for another name."""
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"{path} is not the name of a picture: it must end in .svg or .png")
    take_literally(figure)
    image = io.BytesIO()
    if path.suffix == ".png":
        figure.savefig(image, format="png", dpi=150)
    write_whole(path, svg(figure).encode() if path.suffix == ".svg" else image.getvalue())


def add_titles(figure: "Figure", title: str, subtitle: str) -> None:
    """Put a title above the figure, and in smaller print what all its rows share."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.axes[0].set_title(subtitle, loc="left", fontsize=8.5, color=QUIET)


def svg(figure: "Figure") -> str:
    """The figure as SVG; the same bytes for the same data."""
    import matplotlib

    take_literally(figure)
    text = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().decode("utf-8")


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write NAME.svg and NAME.png, each whole or not at all. Returns their paths."""
    vectors = svg(figure)  # first: every drawing lets the layout settle a little further
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    files = [folder / f"{name}.svg", folder / f"{name}.png"]
    write_whole(files[0], vectors.encode())
    write_whole(files[1], image.getvalue())
    return files
