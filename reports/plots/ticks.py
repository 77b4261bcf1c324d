"""Ticks of logarithmic axes in plain numbers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORT = 5  # an axis whose end is less than so many times its start is too short for ticks at 1, 2, 5, 10


def ticks_at(axes: "Axes", values: Iterable[float], axis: str = "x") -> None:
    """Set ticks at the values themselves."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(FixedLocator(sorted(set(values))))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    chosen.set_minor_locator(NullLocator())


def plain_ticks(axes: "Axes", *which: str) -> None:
    """Set ticks in plain numbers on the axes "x" or "y", more than one however short the axis is."""
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
