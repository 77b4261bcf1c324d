"""One HTML file with everything: table, pictures, environment, plan, protocol cards and the raw samples.

It opens from disk, loads nothing from a network, and ``convbench verify-report`` checks it (check.py).
"""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convbench import __version__
from convbench.errors import UsageError
from convbench.files import write_whole
from convbench.papers import cards
from convbench.timing import derived

from ..baseline import BASELINE
from ..columns import COLUMNS
from ..formats import UNKNOWN
from ..plots.figures import svg
from ..plots.pictures import pictures as drawable
from ..plots.speeds import sorted_speeds
from ..recommend import Recommendation, recommendations
from ..runs import Runs
from ..selection import LARGEST_FIRST, require_baseline, require_measurements, shown_columns, sorted_rows, where
from ..tables import measured
from ..tables.cells import cell_text, shared_and_varying
from .data import digest, embedded, script_json, sort_value, table_rows

Row = dict[str, Any]
Picture = tuple[str, str]
"""A title, and the text of an SVG file."""

FOLDER = Path(__file__).parent
AXES = ("model", "res", "batch", "backend", "precision", "device", "threads", "weights", "mode")
FILTERS = (*AXES, "status", "verdict")
MOST_CHOICES = 40  # of a filter
MOST_PICTURES = 12
MOST_RECOMMENDED = 5
KEYS = (*measured.KEYS, "mfu", "flops_per_s", "peak_bytes", "error_vs_fp32")


def write_page(
    runs: Runs,
    path: Path,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    conditions: Sequence[str] = (),
    baseline: str | None = None,
) -> None:
    """Write the page of ``convbench report --html``, with its pictures; the arguments are the command's options.

    Raises:
        NothingMeasured: the files hold no measurement.
        UsageError: an unknown key or model, a condition that no row meets, or a file that cannot be written.
    """
    require_measurements(runs)
    require_baseline(runs, baseline)
    model = baseline or BASELINE
    rows = table_rows(runs.measurements, model)
    keys = shown_columns(columns, KEYS, rows, "table")
    chosen = replace(runs, measurements=where(rows, conditions))
    first = list(itertools.islice(drawable(chosen, model), MOST_PICTURES + 1))
    if len(first) > MOST_PICTURES:
        note = f"The page shows the first {MOST_PICTURES} pictures of these files; narrow the rows with --where"
        runs = replace(runs, notes=[*runs.notes, note])
    drawn = [(f"{each.title} ({each.name})", svg(each.figure())) for each in first[:MOST_PICTURES]]
    try:
        write_whole(path, page(runs, keys, model, conditions, sort, drawn).encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


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
        keys: columns of the table; columns without any value are left out.
        baseline: the model that ``baseline_ratio`` is to.
        conditions: ``key=value`` texts, as of --where; ``sort``: a key, as of --sort.
        pictures: title and SVG text of each.

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
            measured=sorted(row["measured_at"][:16].replace("T", " ") for row in shown if row["measured_at"]),  # UTC
            recommended=_recommended(shown),
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


def _recommended(rows: Sequence[Row]) -> list[Row]:
    """Recommendations, those of the most rows first; the first has a picture."""
    found = sorted(recommendations(rows), key=lambda each: -len(each.rows))[:MOST_RECOMMENDED]
    return [{"words": each.words, "svg": _speeds(each) if number == 0 else ""} for number, each in enumerate(found)]


def _speeds(found: Recommendation) -> str:
    return inline_svg(svg(sorted_speeds(found)), 0)


def _columns(rows: Sequence[Row], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns that have values: model first, shared conditions after the others, file last; and the shared ones."""
    shared, varying = shared_and_varying(rows, list(dict.fromkeys(keys)))
    last = [key for key in ("file",) if key in varying and len({row["file"] for row in rows}) > 1]
    first = [key for key in ("model",) if key in varying]
    return [*first, *(key for key in varying if key not in ("file", "model")), *shared, *last], shared


def inline_svg(svg: str, number: int) -> str:
    """Prepare an SVG file for a page: without prologue and metadata, its ids made unique by the picture's number.

    Raises ValueError for a picture with a script or a reference to another file.
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
        autoescape=True,  # texts come from files of others
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
        return json.dumps(value, ensure_ascii=False) if value else UNKNOWN
    return UNKNOWN if value in (None, "") else str(value)


def _axes(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for key in AXES:
        values = dict.fromkeys(cell_text(row, key) for row in rows)
        if set(values) != {UNKNOWN}:
            yield COLUMNS[key].header, ", ".join(values)


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def _sweeps(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """The sweep files that ``--out`` wrote beside the results, if they still exist."""
    for file in dict.fromkeys(row["file"] for row in rows):
        sweep = Path(f"{file}.toml")
        if sweep.is_file():
            yield str(sweep), sweep.read_text("utf-8", errors="replace")


def _left_out(runs: Runs) -> Iterator[str]:
    held = [f"{number} of {kind}" for kind, number in runs.counted().items() if kind != "measurements"]
    if held:
        yield f"Rows of these files that are not in this table: {', '.join(held)}"
