"""Every throughput the papers print, as FLOP/s, as shares of a GPU's peaks, and with what can be said about it.

``implied.py`` says which MACs and peaks are used, ``findings.py`` what a finding is. Loads torch only to count.
"""

from collections.abc import Collection
from typing import Any

from .. import catalogue
from . import findings
from .implied import Row, priced


def audited_lines() -> list[Row]:
    """Every line with a throughput, and printed counts that need a remark where no throughput is printed at all.

    By paper and table, families first.
    """
    order = list(catalogue.papers())
    lines = sorted(
        catalogue.printed_lines(),
        key=lambda line: (order.index(line["paper"]), int(line["table"]) if line["table"].isdigit() else 0),
    )
    timed = {line["model"] for line in lines if "images_per_s" in line}
    return [
        line
        for line in lines
        if "images_per_s" in line or ("gmacs" in line and line["model"] not in timed and _remarked(line))
    ]


def _remarked(line: Row) -> bool:
    """True if the printed count of a line has a remark."""
    variant = catalogue.find_printed(line["model"], line["res"])
    return variant is not None and "remark" in variant.family.facts.get("counting", {})


def audit(papers: Collection[str] | None = None, models: Collection[str] | None = None) -> list[Row]:
    """One row for each audited line of those papers and models; None for all.

    ``findings`` are codes of ``findings.FINDINGS``, ``words`` says each in a sentence with its numbers.
    """
    lines = audited_lines()
    rows = []
    for line in lines:
        if (papers is None or line["paper"] in papers) and (models is None or line["model"] in models):
            row = priced(line)
            found = findings.find(row, lines)
            rows.append(
                {
                    **row,
                    "findings": list(dict.fromkeys(code for code, _ in found)),
                    "words": " ".join(words for _, words in found),
                }
            )
    return rows


def merged(rows: list[Row]) -> list[Row]:
    """Merge lines of a paper with the same numbers for the same model, for display."""
    groups: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("paper", "model", "label", "res", "images_per_s", "gmacs_printed"))
        if key not in groups:
            groups[key] = {**row, "tables": []}
        if row["table"] not in groups[key]["tables"]:
            groups[key]["tables"].append(row["table"])
    return [{**row, "table": ", ".join(row["tables"])} for row in groups.values()]
