"""Checks of stored rows: a file may come from anybody. The types are those of the row classes."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from .case import STATUSES, VERDICTS
from .rows import KINDS
from .typecheck import field_problems, problem, shown

Row = Mapping[str, Any]

SPEEDS = ("images_per_s", "images_per_s_low", "images_per_s_high")
POSITIVE = {
    "res",
    "batch",
    "repeat",
    "world",
    "processes",
    "weight_bytes",
    "min_bytes",
    "cold_s_p20",
    "cold_s_p80",
    *SPEEDS,
}
SMALLEST, LARGEST = 1e-30, 1e30  # of numbers other than 0: what lies beyond overflows in ratios and on axes
WORDS = {"status": STATUSES, "verdict": VERDICTS, "device": ("cpu", "cuda")}  # of a measurement


def row_problem(row: Row) -> str | None:
    """The first problem of a row of today's schema, in words; None for a good one.

    A key may be absent or null, which is the same: an older convbench did not write them all.
    """
    held = {key: value for key, value in row.items() if value is not None}
    kind = str(row["kind"])
    own = field_problems(held, KINDS[kind])
    more = _of_measurement(held) if kind == "throughput" else iter(())
    return next(itertools.chain(own, number_problems(held), more), None)


def has_speeds(row: Row) -> bool:
    """True if a measurement has a speed and its interval."""
    return all(row.get(key) is not None for key in SPEEDS)


def number_problems(row: Row) -> Iterator[str]:
    """Numbers that overflow in ratios and on axes, or are not positive where they must be; keys may be any."""
    for key, value in row.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                if number and not SMALLEST <= abs(number) <= LARGEST:
                    yield f"{key[:40]} {shown(number)}"
                if key in POSITIVE and number <= 0:
                    yield f"{key[:40]} {shown(number)}, not above 0"


def _of_measurement(row: Row) -> Iterator[str]:
    for key, known in WORDS.items():
        if key in row and row[key] not in known:
            yield f"{key} {shown(row[key])}"
    for key in ("images_per_s", "ratio"):
        low, value, high = row.get(f"{key}_low"), row.get(key), row.get(f"{key}_high")
        if low is not None and value is not None and high is not None and not low <= value <= high:
            yield f"{key} {shown(value)}, outside its interval"
    gpus = row.get("environment", {}).get("gpus") or []
    if not isinstance(gpus, list) or not all(isinstance(gpu, dict) and _has_name(gpu) for gpu in gpus):
        yield "environment.gpus that are not a list of objects with a name"


def _has_name(gpu: Row) -> bool:
    return problem(gpu.get("name"), str) is None
