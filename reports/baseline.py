"""Each row beside the baseline model of the same run and conditions, and its place among their rows."""

import json
from typing import TYPE_CHECKING, Any

from convbench.store import CONDITIONS as OF_THE_MACHINE
from convbench.timing.compare import compare_rows

from .runs import frame, records

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]

BASELINE = "dit_xl_2"
CONDITIONS = ("file", "device", "res", "batch", "backend", "precision", "threads", "mode")
NOT_COMPARABLE = "not comparable"
NO_BASELINE = "no baseline"


def conditions(row: Row) -> tuple[Any, ...]:
    """What two rows must share to be set beside each other: the run, its machine and its settings."""
    environment = row.get("environment") or {}
    machine = json.dumps([environment.get(key) for key in OF_THE_MACHINE])
    return (*(row.get(key) for key in CONDITIONS[:-1]), row.get("mode") or "forward", machine)


def is_ranked(row: Row) -> bool:
    """Whether a row may stand in an order: measured, not INVALID, and not marked as one that is listed only."""
    return row["status"] == "ok" and row["verdict"] != "INVALID" and not row["unranked"]


def beside_baseline(table: "DataFrame", baseline: str = BASELINE) -> "DataFrame":
    """The measurements with ``baseline``, ``baseline_ratio``, its 95 % interval, ``baseline_note`` and ``rank``.

    ``baseline_ratio`` is images/s over those of the baseline model under the same conditions (CONDITIONS, and the
    machine and versions that ``convbench compare`` asks for); the relative half-widths of both intervals add in
    quadrature. Where the baseline was measured under other conditions only, the note says "not comparable"; where its
    row is not valid, "no baseline". ``rank`` counts from the fastest under the same conditions; A/A repeats, INVALID
    and unranked rows have none.
    """
    rows = records(table)
    known: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["model"] == baseline and row["status"] == "ok":
            held = known.setdefault(conditions(row), row)
            if not is_ranked(held) and is_ranked(row):
                known[conditions(row)] = row
    places = _places(rows)
    done = [
        {**row, "baseline": baseline, **_ratio(row, known), "rank": places.get(position)}
        for position, row in enumerate(rows)
    ]
    return frame(done) if done else table


def _ratio(row: Row, known: dict[tuple[Any, ...], Row]) -> Row:
    number = dict.fromkeys(("baseline_ratio", "baseline_ratio_low", "baseline_ratio_high", "baseline_note"))
    if not known or row["status"] != "ok":
        return number
    beside = known.get(conditions(row))
    if beside is None:
        return number | {"baseline_note": NOT_COMPARABLE}
    if not is_ranked(beside) or not is_ranked(row):
        return number | {"baseline_note": NO_BASELINE if is_ranked(row) else None}
    if beside is row:
        return number | {"baseline_ratio": 1.0}
    found = compare_rows(beside, row)
    return number | {
        "baseline_ratio": found.ratio,
        "baseline_ratio_low": found.low,
        "baseline_ratio_high": found.high,
    }


def _places(rows: list[Row]) -> dict[int, int]:
    """Place by position of the row."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, row in enumerate(rows):
        if is_ranked(row) and (row["repeat"] or 1) == 1:
            groups.setdefault(conditions(row), []).append(position)
    places: dict[int, int] = {}
    for group in groups.values():
        fastest_first = sorted(group, key=lambda position: -rows[position]["images_per_s"])
        places |= {position: place for place, position in enumerate(fastest_first, start=1)}
    return places
