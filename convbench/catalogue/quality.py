"""FID as papers and repositories print it, each line with the conditions that a comparison must share. No torch."""

from functools import cache
from typing import Any

from .families import Family, families, papers, printed_lines, variants
from .resolve import find_printed

Line = dict[str, Any]

CONDITIONS = ("data", "res", "guidance", "training", "aid")
"""Two FIDs compare only if all of these are equal and stated; ``aid`` is a trained network that the training uses."""
NOT_STATED = "not stated"
UNAIDED = "none"


@cache
def _own() -> tuple[Line, ...]:
    found: list[Line] = []
    for line in printed_lines():
        variant = find_printed(line["model"], line["res"])
        if "fid" not in line or variant is None or variant.ablated:
            continue
        source = f"arXiv:{papers()[line['paper']]['arxiv']}, Table {line['table']}"
        row = _row(line, variant.id, source)
        if not any(all(row[key] == other[key] for key in ("model", "fid", *CONDITIONS)) for other in found):
            found.append(row)  # papers quote each other: the first one counts
    return tuple(found)


def table_lines() -> list[Line]:
    """List the FIDs in the tables of the papers that convbench rebuilds, once each; keys as ``quoted_lines``."""
    return [dict(line) for line in _own()]


def quoted_lines() -> list[Line]:
    """List the lines that families quote from elsewhere: the rivals of those papers.

    Keys: ``model``, ``label``, CONDITIONS, ``sampler``, ``fid``, ``inception_score``, ``params_m``, ``gmacs``,
    ``images_per_s``, ``printed_in``; unknown numbers are None, unknown conditions NOT_STATED.
    """
    return [
        _row(line, line["model"], _source(family, line["where"]))
        for family in families().values()
        for line in family.quoted
    ]


def states_conditions(line: Line) -> bool:
    """True if a line states all its conditions."""
    return all(line[key] != NOT_STATED for key in CONDITIONS)


def condition_words(line: Line) -> str:
    """Name the conditions of a line, as in "256 px, no guidance, 400K"."""
    guidance = {"none": "no guidance", NOT_STATED: "guidance not stated"}.get(line["guidance"], line["guidance"])
    training = "training not stated" if line["training"] == NOT_STATED else line["training"]
    aid = "" if line["aid"] == UNAIDED else f"trained with {line['aid']}"
    data = "" if line["data"] == "ImageNet" else line["data"]
    return ", ".join(filter(None, [data, f"{line['res']} px", guidance, training, aid]))


def _row(line: Line, model: str, source: str) -> Line:
    return {
        "model": model,
        "label": line.get("label") or variants()[model].name,
        "data": line.get("data", "ImageNet"),
        "res": line["res"],
        "guidance": line.get("guidance", NOT_STATED),
        "training": line.get("training", NOT_STATED),
        "aid": line.get("aid", UNAIDED),
        **{key: line.get(key) for key in ("sampler", "fid", "inception_score", "params_m", "gmacs", "images_per_s")},
        "printed_in": source,
    }


def _source(family: Family, where: str) -> str:
    """Name the source of a quoted line: a table of the family's paper or of another, or a file of the repository."""
    if where.startswith("Table"):
        return f"arXiv:{family.facts['arxiv']}, {where}"
    if where.startswith("arXiv:"):
        return where
    source = family.facts["source"]
    return f"{source['repository']} at {source['commit'][:7]}, {where}"
