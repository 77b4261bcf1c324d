"""``convbench.report``: stored runs as a table, a page and pictures, from Python."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convbench.files import require_writable

from . import selection
from .baseline import BASELINE
from .runs import Runs, read_runs

if TYPE_CHECKING:
    import pandas as pd


def report(
    runs: str | Path | Sequence[str | Path],
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    where: Sequence[str] = (),
    baseline: str | None = None,
    html: str | Path | None = None,
    plots: str | Path | None = None,
) -> "pd.DataFrame":
    """Report on stored runs, as ``convbench report`` does.

    Args:
        runs: files of ``--out`` and of ``--format json``, folders or globs of them, or stores.
        columns: keys of the columns to return, in that order; all of them by default.
        sort: key to sort by, the largest first where more is better; "-key" reverses the order.
        where: conditions such as "res=256"; of two conditions on one key, one has to hold.
        baseline: model that ratios are to (dit_xl_2 by default, if it was measured).
        html: file to write the page to.
        plots: folder to draw every picture in that the files hold enough data for.

    Returns a row per measurement with the keys of ``convbench report --format json``, in base units.

    Raises:
        NothingMeasured: the files hold no measurement.
        UsageError: a file that cannot be read, or an unknown key or model.
    """
    import pandas as pd

    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if html is not None:
        require_writable(Path(html))
    read = read_runs(paths, where)
    for note in read.notes:
        warnings.warn(note, stacklevel=2)
    rows = selection.sorted_rows(selection.compared_rows(read, where, baseline), sort)
    keys = selection.shown_columns(columns, list(rows[0]) if rows else (), rows, "json")
    if plots is not None:
        draw_plots(read, Path(plots), where, baseline)
    if html is not None:
        from .page.build import write_page

        write_page(read, Path(html), columns, sort, where, baseline)
    return pd.DataFrame(selection.narrowed(rows, keys), columns=keys)


def draw_plots(runs: Runs, folder: Path, where: Sequence[str] = (), baseline: str | None = None) -> list[Path]:
    """Draw every picture for which the rows that meet the conditions suffice; return the files."""
    from .plots.pictures import draw

    selection.require_baseline(runs, baseline)
    kept = replace(runs, measurements=selection.where(runs.measurements, where))
    return list(draw(kept, folder, baseline or BASELINE))
