"""Cells that are computed from other keys of their row: intervals, shares, ranks, notes in place of numbers."""

from collections.abc import Callable, Mapping
from typing import Any

from .formats import significant
from .labels import case_parts, counterpart_words

Row = Mapping[str, Any]


def half_interval(key: str) -> Callable[[Row], float | None]:
    """Half the width of the 95 % interval of ``key``, as a share of its value."""

    def share(row: Row) -> float | None:
        value, low, high = (row.get(each) for each in (key, f"{key}_low", f"{key}_high"))
        return None if value is None or low is None or high is None else float((high - low) / 2 / value)

    return share


def sampling_share(part: str) -> Callable[[Row], float | None]:
    """The share of a part of sampling in the seconds of a finished image."""

    def share(row: Row) -> float | None:
        seconds = row.get(f"{part}_s")
        return None if seconds is None else float(seconds * row["finished_images_per_s"])

    return share


def decoded_per_s(row: Row) -> float | None:
    """Images/s of the decoder alone."""
    seconds = row.get("decoder_s")
    return 1 / seconds if seconds else None


def interval_text(key: str, text: Callable[[float], str] = significant, unit: str = "") -> Callable[[Row], str | None]:
    """The 95 % interval of ``key`` as "low-high", from its own two keys."""

    def both(row: Row) -> str | None:
        low, high = (row.get(f"{key}_{end}") for end in ("low", "high"))
        return None if low is None or high is None else f"{text(low)}-{text(high)}{unit}"

    return both


def rank(row: Row) -> Any:
    """The place among the rows of the same conditions, or "not ranked"."""
    refused = row.get("verdict") == "INVALID" or row.get("unranked")
    return "not ranked" if refused else row.get("rank")


def number_or_note(number: str, note: str) -> Callable[[Row], Any]:
    """The number, or the note that explains why there is none."""
    return lambda row: row.get(note) if row.get(number) is None else row[number]


def counterpart(row: Row) -> str | None:
    """The parts of a case that its counterpart has instead, such as another backend."""
    other = row.get("compared_with")
    return None if other is None else counterpart_words(row, case_parts(other))
