"""How every picture of ours looks: colours and marks of families, labels beside the data, SVG with text and PNG."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench import catalogue
from convbench.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

# Colours by Okabe and Ito, which people with any colour vision tell apart; where print is grey, marks and dashes do.
LOOKS: dict[str, tuple[str, str, str]] = {  # family -> colour, mark, dashes
    "dic": ("#D55E00", "o", "-"),
    "dico": ("#0072B2", "s", "--"),
    "fcdm": ("#009E73", "D", "-."),
    "dit": ("#000000", "^", "-"),
    "dig": ("#CC79A7", "v", ":"),
    "uvit": ("#E69F00", "P", "--"),
    "": ("#666666", "X", ":"),  # any other
}
INK = {"#CC79A7": "#8C3A66", "#E69F00": "#8A5F00"}  # of words, where the mark's colour is too pale to read
SHADES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "++", "ooo")
SHORT = 5  # an axis whose end is less than so many times its start is too short for 1, 2, 5, 10
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and the page's font serves
    "svg.hashsalt": "convbench",  # the same picture is the same file
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "hatch.linewidth": 0.6,
}


def family(model: str) -> str:
    """The family of a model as far as colours go."""
    variant = catalogue.variants().get(model.partition("@")[0])
    name = variant.family.module if variant else model.partition("_")[0]
    return name if name in LOOKS else ""


def new_figure(width: float, height: float, columns: int = 1, **sharing: Any) -> tuple["Figure", list["Axes"]]:
    """A figure of inches, and its axes side by side."""
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


def svg(figure: "Figure") -> str:
    """The figure as SVG; the same bytes for the same data."""
    import matplotlib

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


def plain_ticks(axes: "Axes", values: Iterable[float], axis: str = "x") -> None:
    """Ticks of a logarithmic axis at the values themselves, in plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(FixedLocator(sorted(set(values))))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    chosen.set_minor_locator(NullLocator())


def plain_numbers(axes: "Axes", *which: str) -> None:
    """Ticks of a logarithmic axis in plain numbers, with more than one of them however short the axis is."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for axis in which:
        chosen = axes.xaxis if axis == "x" else axes.yaxis
        low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
        if high / low < SHORT:
            ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
            chosen.set_major_locator(FixedLocator(ticks))
        else:
            chosen.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        chosen.set_minor_formatter(NullFormatter())


def _laid_out(axes: "Axes") -> Any:
    """The figure, with everything in its final place."""
    figure: Any = axes.figure
    figure.draw_without_rendering()
    return figure


def label_ends(axes: "Axes", ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Name lines at their right ends, names moved up or down so that none covers another.

    Args:
        ends: text, x, y and colour of each.
    """
    figure = _laid_out(axes)
    height = 1.35 * 8 * figure.dpi / 72  # of a line of text, pixels
    placed: list[float] = []
    for text, x, y, colour in sorted(ends, key=lambda end: end[2]):
        wanted = float(axes.transData.transform((x, y))[1])
        at = max(wanted, placed[-1] + height) if placed else wanted
        placed.append(at)
        offset = (9, (at - wanted) * 72 / figure.dpi)
        line = {"arrowstyle": "-", "color": colour, "lw": 0.5} if at - wanted > height / 2 else None
        axes.annotate(
            text,
            (x, y),
            offset,
            textcoords="offset points",
            va="center",
            color=INK.get(colour, colour),
            fontsize=8,
            arrowprops=line,
        )


PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # right first, then around


def label_points(
    axes: "Axes", points: Sequence[tuple[str, float, float, str, float]], bars: Sequence[tuple[float, ...]] = ()
) -> None:
    """Name points beside them, where a name covers neither a point nor another name; the nearest free place is taken.

    Args:
        points: text, x, y, colour and the radius of the mark in points.
        bars: intervals as x0, y0, x1, y1, which names keep clear of too, as of words that stand there already.
    """
    from matplotlib.transforms import Bbox

    figure = _laid_out(axes)
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    taken = [Bbox(axes.transData.transform([bar[:2], bar[2:]])).padded(2 * scale) for bar in bars]
    taken += [_text_box(text, renderer) for text in axes.texts]
    for _, x, y, _, radius in points:
        px, py = axes.transData.transform((x, y))
        r = 0.8 * radius * scale
        taken.append(Bbox([[px - r, py - r], [px + r, py + r]]))
    inside = axes.get_window_extent(renderer)
    for text, x, y, colour, radius in points:
        best, least = None, float("inf")
        for ring in (2, 10, 20, 32):
            for dx, dy in PLACES:
                away = (radius + ring) * (1 if 0 in (dx, dy) else 0.75)
                note = axes.annotate(
                    text,
                    (x, y),
                    (dx * away, dy * away),
                    textcoords="offset points",
                    ha={1: "left", -1: "right", 0: "center"}[dx],
                    va={1: "bottom", -1: "top", 0: "center"}[dy],
                    color=INK.get(colour, colour),
                    fontsize=8,
                    arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5} if ring > 2 else None,
                )
                box = _text_box(note, renderer)
                cost = sum(_overlap(box, other) for other in taken) + 4 * (_area(box) - _overlap(box, inside))
                if cost < least - 1e-6:
                    if best is not None:
                        best.remove()
                    best, least, best_box = note, cost, box
                else:
                    note.remove()
            if least <= 1e-6:
                break
        taken.append(best_box)


def _text_box(note: Any, renderer: Any) -> Any:
    """The box of the words alone, without the line that leads to them."""
    from matplotlib.text import Annotation, Text

    if isinstance(note, Annotation):
        note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _overlap(one: Any, other: Any) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def _area(box: Any) -> float:
    return float(box.width * box.height)


def mark(verdict: str | None, colour: str) -> dict[str, Any]:
    """Filled where VALID, hollow where SUSPECT."""
    return {"mec": colour, "mfc": "white" if verdict == "SUSPECT" else colour}
