"""The origin of a number of a table: its case, raw samples, conditions and formula."""

from collections.abc import Sequence
from typing import Any

from convbench.errors import UsageError
from convbench.store import CONDITIONS
from convbench.timing.derived import FORMULAS

from .columns import COLUMNS
from .formats import UNKNOWN
from .selection import require_known
from .tables.cells import cell_text

Row = dict[str, Any]

RECORDED = "recorded as requested or measured; no formula"
SHOWN = 12  # samples of a line; --format json has all


def explained(rows: Sequence[Row], asked: str) -> list[Row]:
    """Explain one number of each row of a model or case: key, value, formula, samples and conditions.

    Args:
        asked: ``model/key`` or ``case/key``, such as dico_xl/images_per_s.

    Raises:
        UsageError: no row has this model, case or key.
    """
    name, slash, key = asked.rpartition("/")
    if not slash:
        raise UsageError(f"--explain {asked}: expected MODEL/KEY, such as dico_xl/images_per_s")
    require_known(name, [row[which] for which in ("model", "case") for row in rows], "model or case")
    require_known(key, [*(known for known in rows[0] if known in COLUMNS), *FORMULAS], "key")
    return [_explained(row, key) for row in rows if name in (row["model"], row["case"])]


def _explained(row: Row, key: str) -> Row:
    column = COLUMNS.get(key)
    environment = row["environment"] or {}
    return {
        **{part: row[part] for part in ("case", "file", "status", "verdict", "reason", "measured_at")},
        "key": key,
        "value": row[key] if key in row else column and column.compute and column.compute(row),
        "printed": cell_text(row, key) if column else UNKNOWN,
        "formula": FORMULAS.get(key, RECORDED),
        "baseline": row["baseline"] if key.startswith("baseline_") else None,
        "block_s": row["block_s"] or [],
        "steps_per_block": row["steps_per_block"],
        "processes": row["processes"],
        "rates": row["rates"] or {},
        "environment": {part: environment.get(part) for part in CONDITIONS},
    }


def as_text(found: Sequence[Row]) -> str:
    """Print a paragraph for each row."""
    return "\n\n".join(map(_paragraph, found))


def _paragraph(row: Row) -> str:
    samples = [f"{seconds:.6g}" for seconds in row["block_s"]]
    more = f" … and {len(samples) - SHOWN} more (--format json)" if len(samples) > SHOWN else ""
    lines = {
        row["key"]: f"{row['value']!r}, shown as {row['printed']}",
        "formula": row["formula"],
        "baseline": row["baseline"],
        "case": row["case"],
        "file": row["file"],
        "verdict": ", ".join(filter(None, [row["verdict"] or row["status"], row["reason"]])),
        "block_s": f"{', '.join(samples[:SHOWN])}{more}; {row['steps_per_block']} steps each" if samples else None,
        "rates": ", ".join(f"{name} {rate:.4g}" for name, rate in row["rates"].items()),
        "environment": ", ".join(f"{name} {value}" for name, value in row["environment"].items() if value),
        "measured_at": row["measured_at"],
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items() if text)
