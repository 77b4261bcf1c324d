"""A table for a terminal: fitted to its width, numbers never broken over lines."""

import io
from collections.abc import Sequence

from ..columns import COLUMNS, Column


def terminal(
    keys: Sequence[str],
    cells: Sequence[Sequence[str]],
    above: str,
    notes: Sequence[str],
    colours: bool,
    width: int | None,
) -> str:
    """Lay out a table.

    Args:
        keys: one a column; ``cells``: rows of as many texts.
        above, notes: lines before and after the table.
        colours: dim lines and a rule under the header; without them the text is plain.
        width: characters of a line; None for those of this terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=colours, highlight=False, markup=False, emoji=False)
    widths = [_least_width(COLUMNS[key], [row[i] for row in cells]) for i, key in enumerate(keys)]
    kept = _fitting(keys, widths, console.width)
    if len(kept) < len(keys):
        notes = [*notes, f"A wider terminal shows {len(keys) - len(kept)} more columns, --format json all keys."]
    # Two spaces between columns: with lines, one of them is the divider.
    gap = (0, 1, 0, 0) if colours else (0, 2, 0, 0)
    table = Table(box=box.SIMPLE_HEAD if colours else None, show_edge=False, pad_edge=False, padding=gap)
    texts = [[COLUMNS[keys[i]].header, *(row[i] for row in cells)] for i in kept]
    wanted = [max(map(len, column)) for column in texts]
    given = _shared_widths([widths[i] for i in kept], wanted, console.width)
    if given == wanted and not colours:  # nothing to break into lines: a hundred times as fast as rich's table
        left = [COLUMNS[keys[i]].left for i in kept]
        body = [_line(line, given, left) for line in zip(*texts, strict=True)]
        return "\n".join([*([above] if above else []), *body, *notes])
    for i, width in zip(kept, given, strict=True):
        column = COLUMNS[keys[i]]
        table.add_column(column.header, justify="left" if column.left else "right", width=width, overflow="fold")
    for row in cells:
        table.add_row(*(row[i] for i in kept))
    if above:
        console.print(above, style="dim" if colours else None)
    console.print(table)
    for note in notes:
        console.print(note, style="dim" if colours else None)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    pairs = zip(cells, widths, left, strict=True)
    return "  ".join(cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in pairs).rstrip()


def _least_width(column: Column, cells: Sequence[str]) -> int:
    """The longest number, or the longest word of a header or a text, which may be broken between words."""
    words = [word for text in (column.header, *(cells if column.left else ())) for word in text.split()]
    return max(map(len, words if column.left else [*words, *cells]), default=1)


def _fitting(keys: Sequence[str], widths: Sequence[int], width: int) -> list[int]:
    """Positions of the columns that fit; the spare ones are dropped first."""
    kept = list(range(len(keys)))
    while sum(widths[i] for i in kept) + 2 * (len(kept) - 1) > width:
        last = max(kept, key=lambda i: (COLUMNS[keys[i]].spare, i))
        if not COLUMNS[keys[last]].spare:
            break
        kept.remove(last)
    return kept


def _shared_widths(least: Sequence[int], wanted: Sequence[int], width: int) -> list[int]:
    """Each column's width: its least, and the rest of the line, one by one, to the column that lacks most."""
    given = list(least)
    for _ in range(width - sum(least) - 2 * (len(least) - 1)):
        most = max(range(len(given)), key=lambda i: wanted[i] - given[i])
        given[most] += given[most] < wanted[most]
    return given
