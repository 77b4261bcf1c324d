"""The papers' own tables, rebuilt: as printed, as counted, as replayed and as measured, side by side.

paper_tables.toml lists the tables and their columns. Ratios are between rows of one run, or between lines of one
printed table; a printed number and one of ours make a ratio only on the same type of GPU at the same batch.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from convbench import catalogue
from convbench.errors import UsageError
from convbench.timing.compare import compare_rows

from ..baseline import NOT_COMPARABLE, conditions, is_ranked
from ..computed import half_interval
from ..runs import Runs
from .paper_notes import QUALITY_NOTE, run_notes, source_note, uncounted, why_not_comparable

Row = dict[str, Any]

RIVALS = "rivals"
NAMES = {"dic": "DiC", "dico": "DiCo", "fcdm": "FCDM"}
QUALITY = {"inception_score": "inception_score", "precision": "quality_precision", "recall": "quality_recall"}


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper, rebuilt."""

    paper: str
    table: str
    heading: str
    keys: tuple[str, ...]
    rows: list[Row]
    notes: list[str]


@cache
def _specifications() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("paper_tables.toml").read_text("utf-8"))


def known_tables() -> list[str]:
    """List every table that can be rebuilt, as ``paper:table``."""
    found = _specifications()
    return [f"{paper}:{table}" for paper, tables in found.items() if paper != "columns" for table in tables]


def named_tables(text: str) -> list[str]:
    """List the tables of ``all``, ``dic``, ``dic:5,fcdm:2`` or ``rivals``. Raises UsageError for an unknown one."""
    known, wanted = [*known_tables(), RIVALS], []
    for part in text.split(","):
        name = part.strip().lower()
        matching = [each for each in known if name in (each, each.partition(":")[0])]
        if name == "all":
            matching = known_tables()
        if not matching:
            raise UsageError(f"--paper {part}: unknown table; choose from all, {', '.join(known)}")
        wanted += matching
    return list(dict.fromkeys(wanted))


def paper_table(name: str, runs: Runs) -> PaperTable:
    """Rebuild one table, ``paper:table``, from the measurements, replays and counts of stored files.

    Of all conditions in the files (a file, a machine, a batch and so on), the table shows the ones that cover the most
    models; of equals the one at the paper's batch, then the one measured last.
    """
    paper, _, number = name.partition(":")
    specification, source = _specifications()[paper][number], catalogue.papers()[paper]
    lines = _lines(paper, number, specification["order"])
    ours = _best_run(lines, runs, source)
    rows = [_row(line, lines, specification.get("baseline"), ours, runs, source) for line in lines]
    keys = tuple(_specifications()["columns"][specification["columns"]])
    timed = any(key.startswith("our_") for key in keys)
    heading = f"{NAMES[paper]}, Table {number}: {specification['title']}"
    notes = [source_note(source), *(run_notes(ours, rows, source, specification["baseline"]) if timed else [])]
    notes += [QUALITY_NOTE] if "fid" in keys else []
    notes += uncounted(rows, keys)
    return PaperTable(paper, number, heading, ("res", *keys), rows, notes)


def _lines(paper: str, table: str, order: Sequence[str]) -> list[Row]:
    lines = [line for line in catalogue.printed_lines() if (line["paper"], line["table"]) == (paper, table)]
    return sorted(lines, key=lambda line: order.index(line["model"]))


def id_of(line: Row) -> str | None:
    """The id of the model that a printed line is about; None for a system that nobody can run."""
    variant = catalogue.find_printed(line["model"], line["res"])
    return variant.id if variant else None


def _best_run(lines: Sequence[Row], runs: Runs, source: Row) -> dict[str, Row]:
    """The measurements of one set of conditions, by model id."""
    wanted = {(id_of(line), line["res"]) for line in lines}
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in runs.measurements:
        fits = (row["model"], row["res"]) in wanted and (row["mode"] or "forward") == "forward"
        if fits and row["status"] == "ok" and not row["unranked"]:
            groups.setdefault(conditions(row), {}).setdefault(row["model"], row)

    def merit(group: dict[str, Row]) -> tuple[int, bool, str]:
        first = next(iter(group.values()))
        return len(group), first["batch"] == source["batch"], max(row["measured_at"] or "" for row in group.values())

    return max(groups.values(), key=merit, default={})


def _row(line: Row, lines: Sequence[Row], baseline: str | None, ours: dict[str, Row], runs: Runs, source: Row) -> Row:
    model = id_of(line)
    return {
        **{key: line.get(key) for key in ("paper", "table", "label", "res", "training", "guidance", "fid")},
        "model": model,
        **{key: line.get(printed) for printed, key in QUALITY.items()},
        "printed_params": _scaled(line.get("params_m"), 1e6),
        "printed_macs": _scaled(line.get("gmacs"), 1e9),
        "printed_winograd_macs": _scaled(line.get("winograd_gmacs"), 1e9),
        **_counted(model, line["res"], runs),
        "quoted_images_per_s": line.get("images_per_s"),
        "quoted_ratio": _quoted_ratio(line, lines, baseline),
        "replayed_images_per_s": _replayed(model, line, runs),
        **_ours(ours.get(model or ""), ours.get(baseline or ""), baseline, line["res"], runs),
        **_over_printed(line, ours.get(model or ""), source),
    }


def _scaled(printed: float | None, unit: float) -> float | None:
    return None if printed is None else printed * unit


def _counted(model: str | None, res: int, runs: Runs) -> Row:
    """Our counts: from ``convbench flops``, from a measurement, or from the catalogue, which knows one size."""
    found: Row = dict.fromkeys(("params", "macs", "counted_winograd_macs"))
    if model is None:
        return found
    variant = catalogue.find(model)
    if variant.res == res:
        found |= {"params": variant.params, "macs": variant.macs}
    for row in (*runs.measurements, *runs.counts):
        if (row["model"], row["res"]) == (model, res):
            held = {key: row.get(key.removeprefix("counted_")) for key in found}
            found |= {key: value for key, value in held.items() if value is not None}
    return found


def _quoted_ratio(line: Row, lines: Sequence[Row], baseline: str | None) -> float | None:
    of = next(
        (other["images_per_s"] for other in lines if other["model"] == baseline and "images_per_s" in other), None
    )
    return line["images_per_s"] / of if of and "images_per_s" in line else None


def _replayed(model: str | None, line: Row, runs: Runs) -> float | None:
    """The last replay of this paper's way with this model and size."""
    found = [
        row["images_per_s"]
        for row in runs.replays
        if row["step"] == "replayed" and (row["paper"], row["model"], row["res"]) == (line["paper"], model, line["res"])
    ]
    return found[-1] if found else None


def _ours(row: Row | None, of: Row | None, baseline: str | None, res: int, runs: Runs) -> Row:
    keys = ("images_per_s", "images_per_s_low", "images_per_s_high", "ratio", "ratio_low", "ratio_high", "note")
    found: Row = {f"our_{key}": None for key in keys} | {
        "our_interval": None,
        "our_verdict": None,
        "case": None,
        "file": None,
    }
    if row is None:
        return found
    found |= {"our_verdict": row["verdict"], "case": row["case"], "file": row["file"]}
    if not is_ranked(row):
        return found
    found |= {f"our_{key}": row[key] for key in keys[:3]}
    found["our_interval"] = half_interval("images_per_s")(row)
    if of is None or not is_ranked(of):
        elsewhere = any((other["model"], other["res"]) == (baseline, res) for other in runs.measurements)
        return found | {"our_note": NOT_COMPARABLE if elsewhere else None}
    if of is row:
        return found | {"our_ratio": 1.0}
    ratio = compare_rows(of, row)
    return found | {"our_ratio": ratio.ratio, "our_ratio_low": ratio.low, "our_ratio_high": ratio.high}


def _over_printed(line: Row, row: Row | None, source: Row) -> Row:
    """Our images/s over the printed ones, on the paper's type of GPU and at its batch only."""
    if row is None or "images_per_s" not in line or not is_ranked(row):
        return {"over_printed": None, "over_printed_note": None}
    if why_not_comparable(row, source):
        return {"over_printed": None, "over_printed_note": NOT_COMPARABLE}
    return {"over_printed": row["images_per_s"] / line["images_per_s"], "over_printed_note": None}
