"""The data inside a page: the measurements whole, their table recomputed, and the hash that finds a change."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from convbench import __version__
from convbench.timing import derived

from ..baseline import beside_baseline
from ..columns import COLUMNS
from ..runs import frame, records
from ..tables.cells import cell_value

Row = dict[str, Any]

FORMAT = 1  # of the embedded data


def table_rows(measurements: Sequence[Row], baseline: str) -> list[Row]:
    """The measurements with their baseline ratios and ranks, in the same order."""
    return records(beside_baseline(frame(measurements), baseline))


def embedded(measurements: Sequence[Row], baseline: str, columns: Sequence[str], shown: Sequence[int]) -> Row:
    """The data of the files inside the page: every measurement whole, each environment once."""
    environments: list[Row] = []
    rows = []
    for row in measurements:
        here = row.get("environment") or {}
        if here not in environments:
            environments.append(here)
        rows.append({**row, "environment": environments.index(here)})
    return {
        "format": FORMAT,
        "convbench": __version__,
        "baseline": baseline,
        "columns": list(columns),
        "shown": list(shown),
        "headers": {key: COLUMNS[key].header for key in columns},
        "formulas": derived.FORMULAS,
        "environments": environments,
        "measurements": rows,
    }


def script_json(data: Any) -> str:
    """JSON for a script element, without the characters that could end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def digest(data: str) -> str:
    """SHA-256 of the embedded data, as hexadecimal digits."""
    return hashlib.sha256(data.encode()).hexdigest()


def sort_value(row: Row, key: str) -> str | None:
    """The number behind a cell, in base units as JSON writes it; None for words."""
    value = cell_value(row, key)
    return json.dumps(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
