"""Names beside the data: at the ends of lines and next to points, moved until none covers another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .figures import take_literally
from .style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # right first, then around


def _laid_out(axes: "Axes") -> Any:
    """The figure of the axes, laid out."""
    figure: Any = axes.figure
    take_literally(figure)
    figure.draw_without_rendering()
    return figure


def label_ends(axes: "Axes", ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Name lines at their right ends; names move up so that none covers another.

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
            parse_math=False,
            arrowprops=line,
        )


def label_points(
    axes: "Axes", points: Sequence[tuple[str, float, float, str, float]], bars: Sequence[tuple[float, ...]] = ()
) -> None:
    """Name points at the nearest place beside them where a name covers neither a point nor another name.

    Args:
        points: text, x, y, colour and the radius of the mark in points.
        bars: intervals as x0, y0, x1, y1, which names avoid too, like words that are already there.
    """
    from matplotlib.transforms import Bbox

    figure = _laid_out(axes)
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    taken = [Bbox(axes.transData.transform([bar[:2], bar[2:]])).padded(2 * scale) for bar in bars]
    taken += [text_box(text, renderer) for text in axes.texts]
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
                    parse_math=False,
                    arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5} if ring > 2 else None,
                )
                box = text_box(note, renderer)
                cost = sum(overlap(box, other) for other in taken) + 4 * (_area(box) - overlap(box, inside))
                if cost < least - 1e-6:
                    if best is not None:
                        best.remove()
                    best, least, best_box = note, cost, box
                else:
                    note.remove()
            if least <= 1e-6:
                break
        taken.append(best_box)


def text_box(note: Any, renderer: Any) -> Any:
    """The bounding box of the words alone, in pixels, without the line that leads to them."""
    from matplotlib.text import Annotation, Text

    if isinstance(note, Annotation):
        note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def overlap(one: Any, other: Any) -> float:
    """The area that two boxes share, in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def _area(box: Any) -> float:
    return float(box.width * box.height)
