"""Rows of earlier schemas in the words of today's.

Schema 1 had no ``kind``, named sampling rows by ``sampling_case``, called the settings of a replay ``from`` and
``to``, and kept a comparison on the row of the counterpart, as the counterpart over the case. Rows of either schema
from before the verdict NOISY call an interval that is wider than asked SUSPECT.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .rows import KINDS

SCHEMA = 2

Line = dict[str, Any]

KINDS_OF_SCHEMA_1: tuple[tuple[str, Callable[[Line], bool]], ...] = (  # the first that fits
    ("sampling", lambda row: "sampling_case" in row),
    ("kernel", lambda row: "kernel" in row),
    ("replay", lambda row: "knob" in row),
    ("tf32", lambda row: "conv_tf32" in row),
    ("throughput", lambda row: True),
)
INVERSE = {"faster": "slower", "slower": "faster"}


def renamed(row: Line) -> Line:
    """A row in the keys of schema 2. One that already is stays as it is."""
    if row.get("schema") == SCHEMA or (isinstance(row.get("kind"), str) and row["kind"] in KINDS):
        return row
    kind = next(kind for kind, fits in KINDS_OF_SCHEMA_1 if fits(row))
    row = {**row, "schema": SCHEMA, "kind": kind}
    if kind == "sampling":
        row["case"] = row.pop("sampling_case")
        row["sampling"] = str(row["case"]).rpartition("/")[2]  # whatever it is: checked by the store
    if kind == "replay":
        row["before"], row["after"] = row.pop("from", None), row.pop("to", None)
    if kind == "throughput":
        row["mode"] = row.get("mode") or "forward"
    return row


def regraded(row: Line) -> Line:
    """The row with the verdict NOISY, if its interval is the only reason for SUSPECT. Others stay as they are."""
    reason = row.get("reason")
    if row.get("verdict") != "SUSPECT" or not isinstance(reason, str):
        return row
    only_wide = all(part.startswith("WIDE: ") for part in reason.split("; "))
    return {**row, "verdict": "NOISY"} if only_wide else row


def move_ratios(rows: Sequence[Line]) -> None:
    """Put each ratio of schema 1 on the row of the case, as the case over its counterpart; A/A repeats keep theirs.

    A file may hold a counterpart several times, once for each case that it was timed with.
    """
    compared = [row for row in rows if row["kind"] == "throughput" and row.get("ratio") and row.get("compared_with")]
    for row in compared:
        other = next((each for each in rows if each["case"] == row["compared_with"]), None)
        if other is None or other.get("compared_with") or row["case"].startswith(other["case"]):
            continue
        low, high = row.get("ratio_low"), row.get("ratio_high")
        other["compared_with"], other["ratio"] = row["case"], 1 / row["ratio"]
        other["ratio_low"], other["ratio_high"] = high and 1 / high, low and 1 / low
        other["difference"] = INVERSE.get(row.get("difference", ""), row.get("difference"))
        row.update(dict.fromkeys(("compared_with", "ratio", "ratio_low", "ratio_high", "difference")))
