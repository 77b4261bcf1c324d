"""One HTML file with everything: table, pictures, environment, plan, protocol cards and the raw samples.

It works from disk, asks no network for anything and is checked by ``convbench verify-report`` (checked_page.py).
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from convbench import __version__
from convbench.papers import cards
from convbench.reports.columns import COLUMNS, NOTHING
from convbench.timing import derived

from ..baseline import BASELINE, beside_baseline
from ..runs import Runs, frame, records
from ..selection import LARGEST_FIRST, sorted_rows, where
from ..tables.text import cell_text, split

Row = dict[str, Any]
Picture = tuple[str, str]
"""What a picture shows, and the picture: the text of an SVG file."""

FORMAT = 1  # of the embedded data
FOLDER = Path(__file__).parent
AXES = ("model", "res", "batch", "backend", "precision", "device", "threads", "weights", "mode")
FILTERS = (*AXES, "status", "verdict")
MOST_CHOICES = 40  # of a filter


def page(
    runs: Runs,
    keys: Sequence[str],
    baseline: str = BASELINE,
    conditions: Sequence[str] = (),
    sort: str | None = None,
    pictures: Iterable[Picture] = (),
) -> str:
    """The page as text.

    Args:
        keys: columns of the table; those nobody has a value for are left out.
        baseline: the model that ``baseline_ratio`` is to.
        conditions: key=value texts, and ``sort``, a key: as ``convbench report`` takes them.

    Raises:
        UsageError: an unknown key, or a condition that no row meets.
    """
    rows = table_rows(runs.measurements, baseline)
    positions = {id(row): position for position, row in enumerate(rows)}
    shown = sorted_rows(where(rows, conditions), sort)
    columns, shared = _columns(shown, keys)
    places = [positions[id(row)] for row in shown]
    data = script_json(embedded(runs.measurements, baseline, columns, places))
    script = _environment().get_template("page.js.j2").render().strip()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            version=__version__,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            data=data,
            digest=digest(data),
            heads=[_head(key, key in shared) for key in columns],
            rows=[_row(row, place, columns) for row, place in zip(shown, places, strict=True)],
            filters=list(_filters(shown, columns)),
            files=list(dict.fromkeys(row["file"] for row in shown)),
            measured=sorted(row["measured_at"] for row in shown if row["measured_at"]),
            pictures=[(title, inline_svg(svg, number)) for number, (title, svg) in enumerate(pictures, start=1)],
            environments=_environments(shown),
            axes=list(_axes(shown)),
            statuses=_counted([row["status"] for row in shown]),
            sweeps=list(_sweeps(shown)),
            reasons=[(row["case"], row["verdict"] or row["status"], row["reason"]) for row in shown if row["reason"]],
            formulas=[(COLUMNS[key].header, key, derived.FORMULAS[key]) for key in columns if key in derived.FORMULAS],
            fields=cards.FIELDS,
            cards=cards.cards(),
            notes=[*runs.notes, *_left_out(runs)],
        )
    )


def _columns(rows: Sequence[Row], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Columns that say something: the model first, what all rows share behind the others, the file last; and which
    of them all rows share."""
    constant, varying = split(rows, list(dict.fromkeys(keys)))
    last = [key for key in ("file",) if key in varying and len({row["file"] for row in rows}) > 1]
    first = [key for key in ("model",) if key in varying]
    return [*first, *(key for key in varying if key not in ("file", "model")), *constant, *last], constant


def table_rows(measurements: Sequence[Row], baseline: str) -> list[Row]:
    """The measurements with what follows from setting them beside each other, in the same order."""
    return records(beside_baseline(frame(measurements), baseline))


def embedded(measurements: Sequence[Row], baseline: str, columns: Sequence[str], shown: Sequence[int]) -> Row:
    """What the page holds of the files: every measurement whole, each environment once."""
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
    """JSON that can stand inside a script element: no character of it can end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def digest(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()


def sort_value(row: Row, key: str) -> str | None:
    """The number behind a cell, in base units as JSON writes it; None for words."""
    column = COLUMNS[key]
    value = column.of(row) if column.of else row.get(key)
    return json.dumps(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def inline_svg(svg: str, number: int) -> str:
    """An SVG file as part of a page: without its prologue and metadata, its ids made the page's own.

    Raises ValueError for a picture with a script, or one that asks for another file.
    """
    if re.search(r"<script|<foreignObject|\son\w+\s*=|javascript:|(href|src)\s*=\s*[\"'](?!#)", svg, re.IGNORECASE):
        raise ValueError("a picture holds a script or a link")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="picture{number}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#picture{number}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#picture{number}-\1)", svg)


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,  # every text of a file
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _head(key: str, shared: bool) -> Row:
    return {
        "key": key,
        "text": COLUMNS[key].header,
        "classes": " ".join(filter(None, ["left" if COLUMNS[key].left else "", "shared" if shared else "", key])),
        "first": "descending" if key in LARGEST_FIRST else "ascending",
    }


def _row(row: Row, place: int, columns: Sequence[str]) -> Row:
    cells = [{"text": cell_text(row, key), "value": sort_value(row, key)} for key in columns]
    return {"place": place, "verdict": row["verdict"] or row["status"], "cells": cells}


def _filters(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Row]:
    """Conditions that vary, with the values to choose from."""
    for key in FILTERS:
        texts = list(dict.fromkeys(cell_text(row, key) for row in rows)) if key in columns else []
        if 1 < len(texts) <= MOST_CHOICES:
            yield {"key": key, "column": columns.index(key), "text": COLUMNS[key].header, "choices": texts}


def _environments(rows: Sequence[Row]) -> list[list[tuple[str, str]]]:
    found: list[Row] = []
    for row in rows:
        if row["environment"] and row["environment"] not in found:
            found.append(row["environment"])
    return [[(key, _text(value)) for key, value in each.items()] for each in found]


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False) if value else NOTHING
    return NOTHING if value in (None, "") else str(value)


def _axes(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for key in AXES:
        values = dict.fromkeys(cell_text(row, key) for row in rows)
        if set(values) != {NOTHING}:
            yield COLUMNS[key].header, ", ".join(values)


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def _sweeps(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """The sweep files that ``--out`` wrote beside the results, where they still are."""
    for file in dict.fromkeys(row["file"] for row in rows):
        sweep = Path(f"{file}.toml")
        if sweep.is_file():
            yield str(sweep), sweep.read_text("utf-8", errors="replace")


def _left_out(runs: Runs) -> Iterator[str]:
    kinds = {kind: len(rows) for kind, rows in vars(runs).items() if kind not in ("measurements", "notes") and rows}
    if kinds:
        held = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
        yield f"Also in these files, and not in this table: rows {held}"
