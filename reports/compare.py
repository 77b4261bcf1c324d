"""Two stored runs, case by case: ratios of images/s with their intervals, and what differs between the runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbench.errors import NothingMeasured
from convbench.schema.rowcheck import has_speeds
from convbench.store import changed_conditions
from convbench.store.places import stored_rows
from convbench.timing.compare import compare_rows

Row = dict[str, Any]
Run = dict[str, Row]


@dataclass(frozen=True)
class RunComparison:
    """The comparison of two runs.

    ``rows`` holds one row per case that both measured, with the keys case, a, b, ratio, ratio_low, ratio_high and
    difference; ``a`` and ``b`` are images/s. ``notes`` names the other cases and what differs between the machines.
    """

    rows: list[Row]
    notes: list[str]


def compare(a: str | Path, b: str | Path) -> list[Row]:
    """Compare run ``b`` with run ``a``, as ``convbench compare`` does.

    Returns one row per case that both hold, with the keys of ``RunComparison.rows``: ``ratio`` is the images/s of
    ``b`` over those of ``a`` with its 95 % interval, ``difference`` one of faster, slower and same.

    Raises:
        NothingMeasured: the files have no measured case in common.
        UsageError: a file that cannot be read.
    """
    found = compared_runs(str(a), str(b)).rows
    if not found:
        raise nothing_in_common(a, b)
    return found


def compared_runs(a: str, b: str) -> RunComparison:
    """Compare two places, files or stores, by the latest row of each case; no rows without a common measured case."""
    before, after = runs = [_latest(stored_rows(place)) for place in (a, b)]
    matched = [case for case in before if case in after]
    usable = [case for case in matched if all(_is_usable(run[case]) for run in runs)]
    notes = [f"only in {a}: {case}" for case in before if case not in after]
    notes += [f"only in {b}: {case}" for case in after if case not in before]
    notes += [f"not measured in both: {case}" for case in matched if case not in usable]
    return RunComparison([_compared(before[case], after[case]) for case in usable], notes + _changed(runs, usable))


def nothing_in_common(a: str | Path, b: str | Path) -> NothingMeasured:
    """Create the error for two runs without a common case."""
    return NothingMeasured(f"{a} and {b} have no measured case in common")


def _latest(rows: list[tuple[str, Row]]) -> Run:
    """The latest row of each case; of one moment, the last."""
    ordered = sorted((row for _, row in rows), key=lambda row: row.get("measured_at") or "")
    return {row["case"]: row for row in ordered}


def _compared(before: Row, after: Row) -> Row:
    found = compare_rows(before, after)
    return {
        "case": before["case"],
        "a": before["images_per_s"],
        "b": after["images_per_s"],
        "ratio": found.ratio,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "difference": found.difference,
    }


def _is_usable(row: Row) -> bool:
    return row["status"] == "ok" and has_speeds(row)


def _changed(runs: list[Run], cases: list[str]) -> list[str]:
    """List the differences between the environments of two runs, as a ratio across machines says little."""
    return sorted(
        {
            f"environments differ in {change}"
            for case in cases
            for change in changed_conditions(*(run[case]["environment"] or {} for run in runs))
        }
    )
