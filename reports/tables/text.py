"""Rows as a table on a terminal, Markdown, LaTeX, CSV or JSON. One list of rows, one list of columns."""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from ..columns import COLUMNS
from .cells import cell_text, shared_and_varying, shared_text
from .latex import latex
from .terminal import terminal

Row = dict[str, Any]
# At the start of a cell, by programs that calculate; and behind what begins a cell for those that do not separate by
# commas, as spreadsheets in many languages: quotation marks mean nothing to them inside a cell.
OBEYED = re.compile(r"^(?=\s*[=+\-@＝＋－＠]|[\t\r\n])|(?<=[;\t\r\n])(?=[\s\"]*[=+\-@＝＋－＠])")


def render(
    rows: Sequence[Row], keys: Sequence[str], form: str, notes: Sequence[str] = (), width: int | None = None
) -> str:
    """Render rows as text.

    Args:
        keys: the columns of a table; JSON and CSV hold every key.
        form: "table" (a rich table), "plain" (without lines and colours), "markdown", "latex", "csv" or "json".
        notes: lines below a table.
        width: of the terminal in characters, for "table" and "plain".
    """
    if form == "json":
        return json.dumps(rows, indent=1)
    if form == "csv":
        return _csv(rows)
    if form == "latex":
        return latex(rows, keys, notes)
    if not rows:
        return "\n".join(["nothing to show", *notes])
    shared, varying = shared_and_varying(rows, keys)
    cells = [[cell_text(row, key) for key in varying] for row in rows]
    above = shared_text(rows, shared)
    if form == "markdown":
        shown = [above and f"{_as_text(above)}\n", _markdown(varying, cells), *(f"\n{note}" for note in notes)]
        return "\n".join(filter(None, shown))
    return terminal(varying, cells, above, notes, colours=form == "table", width=width)


def _markdown(keys: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    head = [COLUMNS[key].header for key in keys]
    rule = ["---" if COLUMNS[key].left else "---:" for key in keys]
    escaped = [list(map(_as_text, line)) for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *escaped))


def _as_text(text: str) -> str:
    """Text for Markdown that ends no cell and is no HTML, which a page made of it would run."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


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
    """The value; in a text, an apostrophe before all that a spreadsheet would take for a formula. Numbers stay."""
    return OBEYED.sub("'", value) if isinstance(value, str) else value
