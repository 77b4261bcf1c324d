"""Each row compared with the baseline model of the same run and conditions, and ranked among their rows."""

import json
from typing import TYPE_CHECKING, Any

from convbench.store import CONDITIONS as MACHINE_CONDITIONS
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
    """The run, machine and settings that two rows must share to be compared."""
    environment = row.get("environment") or {}
    machine = json.dumps([environment.get(key) for key in MACHINE_CONDITIONS])
    return (*(row.get(key) for key in CONDITIONS[:-1]), row.get("mode") or "forward", machine)


def is_ranked(row: Row) -> bool:
    """True for a row that may be ranked: measured, not INVALID, and not marked as listed only."""
    return row["status"] == "ok" and row["verdict"] != "INVALID" and not row["unranked"]


def beside_baseline(table: "DataFrame", baseline: str = BASELINE) -> "DataFrame":
    """Add ``baseline``, ``baseline_ratio``, its 95 % interval, ``baseline_note`` and ``rank`` to measurements.

    ``baseline_ratio`` is images/s over those of the baseline model under the same conditions (CONDITIONS, and the
    machine and versions that ``convbench compare`` requires); the relative half-widths of both intervals add in
    quadrature. The note is "not comparable" if the baseline was measured under other conditions only, "no baseline" if
    its row is not valid. ``rank`` is one more than the number of rows that are faster under the same conditions, by the
    rule of ``compare``: rows that differ within the noise share a rank. A/A repeats, INVALID and unranked rows have
    none.
    """
    rows = records(table)
    known: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["model"] == baseline and row["status"] == "ok":
            held = known.setdefault(conditions(row), row)
            if _preference(row) < _preference(held):
                known[conditions(row)] = row
    ranks = _ranks(rows)
    done = [
        {**row, "baseline": baseline, **_ratio(row, known), "rank": ranks.get(position)}
        for position, row in enumerate(rows)
    ]
    return frame(done) if done else table


def _preference(row: Row) -> tuple[bool, int]:
    """The least is the baseline: a valid row, and of two valid ones not the repeat of an A/A comparison."""
    return not is_ranked(row), row["repeat"] or 1


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


def _ranks(rows: list[Row]) -> dict[int, int]:
    """Rank of each ranked row, by its position in ``rows``: ties are ties."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, row in enumerate(rows):
        if is_ranked(row) and (row["repeat"] or 1) == 1:
            groups.setdefault(conditions(row), []).append(position)
    return {
        position: 1 + sum(compare_rows(rows[position], rows[other]).difference == "faster" for other in group)
        for group in groups.values()
        for position in group
    }
