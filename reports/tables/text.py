"""Rows as a table on a terminal, Markdown, LaTeX, CSV or JSON. One list of rows, one list of columns."""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from convbench.reports.columns import COLUMNS, NOTHING, Column

Row = dict[str, Any]
LINE_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")  # in a cell they would begin another row
OBEYED = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")  # at the start of a cell, by programs that calculate


def render(
    rows: Sequence[Row], keys: Sequence[str], form: str, notes: Sequence[str] = (), width: int | None = None
) -> str:
    """Rows as text.

    Args:
        keys: the columns of a table; JSON and CSV hold every key.
        form: "table" (a rich table), "plain" (the same without lines and colours), "markdown", "latex", "csv", "json".
        notes: lines under a table.
        width: of the terminal, for "table" and "plain".
    """
    if form == "json":
        return json.dumps(rows, indent=1)
    if form == "csv":
        return _csv(rows)
    if form == "latex":
        from .latex import latex

        return latex(rows, keys, notes)
    if not rows:
        return "\n".join(["nothing to show", *notes])
    constant, varying = split(rows, keys)
    cells = [[cell_text(row, key) for key in varying] for row in rows]
    above = ", ".join(f"{COLUMNS[key].header} {cell_text(rows[0], key)}" for key in constant)
    if form == "markdown":
        return "\n".join(filter(None, [above and f"{above}\n", _markdown(varying, cells), *(f"\n{n}" for n in notes)]))
    return _terminal(varying, cells, above, notes, form == "table", width)


def split(rows: Sequence[Row], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Conditions that all rows share stand above the table, once; columns nobody has a value for are left out."""
    conditions = {"res", "batch", "backend", "precision", "device", "threads", "weights", "repeat", "mode"}
    constant: list[str] = []
    varying: list[str] = []
    for key in keys:
        values = {cell_text(row, key) for row in rows}
        if values == {NOTHING}:
            continue
        same = key in conditions and len(values) == 1
        if not (same and (key == "repeat" or values == {"forward"})):
            (constant if same else varying).append(key)
    return constant, varying


def cell_text(row: Row, key: str) -> str:
    column = COLUMNS[key]
    value = column.of(row) if column.of else row.get(key)
    return NOTHING if value is None else LINE_BREAKS.sub(" ", column.text(value))


def _markdown(keys: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    head = [COLUMNS[key].header for key in keys]
    rule = ["---" if COLUMNS[key].left else "---:" for key in keys]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *escaped))


def _csv(rows: Sequence[Row]) -> str:
    """Every key that holds a number or a text; lists and nested values stay in JSON."""
    every = dict.fromkeys(key for row in rows for key in row)  # a row that was skipped has fewer
    keys = [key for key in every if not any(isinstance(row.get(key), list | dict) for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_csv_cell, keys))
    writer.writerows([_csv_cell(row.get(key)) for key in keys] for row in rows)
    return text.getvalue().rstrip("\n")


def _csv_cell(value: Any) -> Any:
    """The value; a text that a spreadsheet would take for a formula with an apostrophe before it. Numbers stay."""
    return f"'{value}" if isinstance(value, str) and OBEYED.match(value) else value


def _terminal(
    keys: Sequence[str],
    cells: Sequence[Sequence[str]],
    above: str,
    notes: Sequence[str],
    lines: bool,
    width: int | None,
) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=lines, highlight=False, markup=False)
    widths = [_least_width(COLUMNS[key], [row[i] for row in cells]) for i, key in enumerate(keys)]
    kept = _fitting(keys, widths, console.width)
    if len(kept) < len(keys):
        notes = [*notes, f"A wider terminal shows {len(keys) - len(kept)} more columns, --format json all keys."]
    # Two spaces between columns: with lines, one of them is the divider.
    gap = (0, 1, 0, 0) if lines else (0, 2, 0, 0)
    table = Table(box=box.SIMPLE_HEAD if lines else None, show_edge=False, pad_edge=False, padding=gap)
    texts = [[COLUMNS[keys[i]].header, *(row[i] for row in cells)] for i in kept]
    wanted = [max(map(len, column)) for column in texts]
    given = _shared([widths[i] for i in kept], wanted, console.width)
    if given == wanted and not lines:  # nothing to break into lines: a hundred times as fast as rich's table
        left = [COLUMNS[keys[i]].left for i in kept]
        body = [_line(line, given, left) for line in zip(*texts, strict=True)]
        return "\n".join([*([above] if above else []), *body, *notes])
    for i, width in zip(kept, given, strict=True):
        column = COLUMNS[keys[i]]
        table.add_column(column.header, justify="left" if column.left else "right", width=width, overflow="fold")
    for row in cells:
        table.add_row(*(row[i] for i in kept))
    if above:
        console.print(above, style="dim" if lines else None)
    console.print(table)
    for note in notes:
        console.print(note, style="dim" if lines else None)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    pairs = zip(cells, widths, left, strict=True)
    return "  ".join(cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in pairs).rstrip()


def _least_width(column: Column, cells: Sequence[str]) -> int:
    """A number is never broken, words are: the longest cell, or the longest word of the header or a long text."""
    words = [word for text in (column.header, *(cells if column.left else ())) for word in text.split()]
    return max(map(len, words if column.left else [*words, *cells]), default=1)


def _fitting(keys: Sequence[str], widths: Sequence[int], width: int) -> list[int]:
    """Which columns fit, the spare ones left out first."""
    kept = list(range(len(keys)))
    while sum(widths[i] for i in kept) + 2 * (len(kept) - 1) > width:
        last = max(kept, key=lambda i: (COLUMNS[keys[i]].spare, i))
        if not COLUMNS[keys[last]].spare:
            break
        kept.remove(last)
    return kept


def _shared(least: Sequence[int], wanted: Sequence[int], width: int) -> list[int]:
    """Each column's width: its least, and what is left of the line, one by one, to the column that lacks most."""
    given = list(least)
    for _ in range(width - sum(least) - 2 * (len(least) - 1)):
        most = max(range(len(given)), key=lambda i: wanted[i] - given[i])
        given[most] += given[most] < wanted[most]
    return given
