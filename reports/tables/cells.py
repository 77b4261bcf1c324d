"""The text of a cell, and which columns of a table have something to say."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..columns import COLUMNS
from ..formats import UNKNOWN

Row = Mapping[str, Any]

LINE_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")  # in a cell they would begin another row
CONDITIONS = {"res", "batch", "backend", "precision", "device", "threads", "world", "on", "weights", "repeat", "mode"}


def cell_value(row: Row, key: str) -> Any:
    """The value of a cell, in base units; None where it is not known."""
    column = COLUMNS[key]
    return column.compute(row) if column.compute else row.get(key)


def cell_text(row: Row, key: str) -> str:
    """The value of a cell as it is printed."""
    value = cell_value(row, key)
    return UNKNOWN if value is None else LINE_BREAKS.sub(" ", COLUMNS[key].text(value))


def shared_and_varying(rows: Sequence[Row], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split columns into conditions that all rows share and columns that vary.

    Columns without any value are in neither, nor are repeats, single processes and forward steps that all rows share.
    """
    shared: list[str] = []
    varying: list[str] = []
    for key in keys:
        values = {cell_text(row, key) for row in rows}
        if values == {UNKNOWN}:
            continue
        same = key in CONDITIONS and len(values) == 1
        if not (same and (key == "repeat" or values == {"forward"} or (key == "world" and values == {"1"}))):
            (shared if same else varying).append(key)
    return shared, varying


def shared_text(rows: Sequence[Row], shared: Sequence[str]) -> str:
    """The shared conditions as one line, such as "px 256, batch 1"."""
    return ", ".join(f"{COLUMNS[key].header} {cell_text(rows[0], key)}" for key in shared)
