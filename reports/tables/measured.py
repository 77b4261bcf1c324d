"""The table of measurements that ``convbench report`` prints: its usual columns, and the notes below it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..baseline import NOT_COMPARABLE

Row = Mapping[str, Any]

KEYS = (
    *("file", "model", "res", "batch", "backend", "precision", "device", "threads", "weights", "repeat", "mode"),
    *("params", "macs", "winograd_macs", "executed_macs", "images_per_s", "interval", "baseline_ratio"),
    "baseline_interval",
    *("latency_s_p50", "prepare_s", "limit_fraction", "ratio", "ratio_interval", "compared_with", "difference"),
    *("rank", "status", "verdict"),
)
MOST_NOTES = 12  # about single rows; one more says how many are left


def usual_keys(rows: Sequence[Row]) -> list[str]:
    """The columns of the table; the file only where there is more than one."""
    return [key for key in KEYS if key != "file" or len({row["file"] for row in rows}) > 1]


def notes(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[str]:
    """The baseline of the ratios, and the reasons why rows have no ratio or rank."""
    if "baseline_ratio" in keys:
        if any(row["baseline_ratio"] is not None for row in rows):
            same = f"images/s over those of {rows[0]['baseline']} in the same run and conditions"
            yield f"× baseline: {same}; its interval combines both."
        if any(row["baseline_note"] == NOT_COMPARABLE for row in rows):
            yield f"{NOT_COMPARABLE}: the baseline was measured in another run, on another device or otherwise."
    reasons = [reason for row in rows if (reason := _not_ranked(row))]
    yield from reasons[:MOST_NOTES]
    if len(reasons) > MOST_NOTES:
        yield f"… and {len(reasons) - MOST_NOTES} more rows without a rank."


def _not_ranked(row: Row) -> str:
    if row["unranked"]:
        return f"{row['case']}: not ranked, {row['unranked']}"
    if row["verdict"] == "INVALID" or row["status"] != "ok":
        return f"{row['case']}: {row['verdict'] or row['status']}, {row['reason']}"
    return ""
