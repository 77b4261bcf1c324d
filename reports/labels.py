"""Short labels: the words in which rows differ label each row; the words that all rows share go into the title."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from convbench import catalogue

Row = Mapping[str, Any]

PARTS = (
    *("model", "res", "batch", "backend", "precision", "device", "threads", "world", "on"),
    *("weights", "mode", "repeat", "sampling"),
)
USUAL = {"mode": "forward", "repeat": 1, "world": 1}  # not worth a word where all rows have it
CASE = re.compile(
    r"(?P<model>.+?)/(?P<res>\d+)px/b(?P<batch>\d+)/(?P<backend>[^/]+)/(?P<precision>[^/]+)/(?P<device>[^/]+)"
    r"(?:/(?P<threads>\d+)threads)?(?:/world(?P<world>\d+))?(?:/on=(?P<on>[^/]+))?(?:/weights=(?P<weights>.+?))?"
    r"(?:/(?P<mode>train[^/]*))?(?:/repeat(?P<repeat>\d+))?"
    r"(?:/(?P<sampling>steps=.+))?"
)


@dataclass(frozen=True)
class Labels:
    """One label a row, and what all rows share."""

    each: list[str]
    shared: str


def short_labels(rows: Sequence[Row], counterparts: Sequence[Row] = ()) -> Labels:
    """Label rows by the parts in which they differ, such as "DiCo-S aoti"; a lone row by its model.

    Args:
        rows: objects with some of the keys PARTS; a key that is missing is not known.
        counterparts: what each row was compared with, as many as rows. The labels become "DiCo-S aoti vs eager".
    """
    others = counterparts or rows
    pairs = list(zip(rows, others, strict=True))
    differing = [
        part
        for part in PARTS
        if len({_value(row, part) for row in rows}) > 1 or any(_apart(*pair, part) for pair in pairs)
    ]
    if "model" not in differing and not all(_words(row, differing) for row in rows):
        differing = ["model", *differing]  # a lone row, or rows that differ in nothing
    each = [_words(row, differing) for row in rows]
    if counterparts:
        each = [f"{label} vs {counterpart_words(*pair)}" for label, pair in zip(each, pairs, strict=True)]
    same = {part: _value(rows[0], part) for part in PARTS if part not in differing} if rows else {}
    shared = [word(part, value) for part, value in same.items() if value not in (None, USUAL.get(part))]
    return Labels(each, ", ".join(shared))


def counterpart_words(row: Row, counterpart: Row) -> str:
    """Name a counterpart by the parts in which it differs from the row; by its model where there is no difference."""
    apart = [part for part in PARTS if _apart(row, counterpart, part)]
    return _words(counterpart, apart) or _words(counterpart, ["model"])


def case_parts(case: str) -> dict[str, Any]:
    """The parts of a case's id (``schema.Case.id``); a text that is not an id stands for the model."""
    found = CASE.fullmatch(case)
    if found is None:
        return {"model": case}
    whole = ("res", "batch", "threads", "world", "repeat")
    parts = {part: int(text) if part in whole and text else text for part, text in found.groupdict().items()}
    return parts | {part: usual for part, usual in USUAL.items() if parts[part] is None}


def word(part: str, value: Any) -> str:
    """A part of a case as people read it: "DiCo-S", "256 px", "1 thread"."""
    if part == "model":
        return model_name(value)
    if part == "weights":
        return PurePath(value).name
    if part == "threads":
        return "1 thread" if value == 1 else f"{value} threads"
    forms = {"res": "{} px", "batch": "batch {}", "repeat": "repeat {}", "world": "{} processes", "on": "on {}"}
    return {"cpu": "CPU", "cuda": "GPU"}.get(value) or forms.get(part, "{}").format(value)


def model_name(model: str) -> str:
    """The name that the papers use, with the changes of an ablated model behind it; a foreign id stays as it is."""
    id, *changes = model.split("@")
    variant = catalogue.variants().get(id)
    return " ".join([variant.name if variant else id, *changes])


def _value(row: Row, part: str) -> Any:
    value = row.get(part)
    return USUAL.get(part) if value is None else value


def _apart(row: Row, counterpart: Row, part: str) -> bool:
    return part in counterpart and _value(row, part) != _value(counterpart, part)


def _words(row: Row, parts: Sequence[str]) -> str:
    return " ".join(word(part, _value(row, part)) for part in parts if _value(row, part) is not None)
