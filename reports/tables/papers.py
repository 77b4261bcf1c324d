"""The papers' own tables, rebuilt: as printed, as counted, as replayed and as measured, side by side.

Which tables there are and what they show is in paper_tables.toml. Ratios are between rows of one run, or between lines
of one printed table; a printed number and one of ours make a ratio only on the same type of GPU at the same batch.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from convbench import catalogue
from convbench.errors import UsageError
from convbench.reports.columns import COLUMNS
from convbench.timing.compare import compare_rows

from ..baseline import NOT_COMPARABLE, conditions, is_ranked
from ..runs import Runs

Row = dict[str, Any]

NAMES = {"dic": "DiC", "dico": "DiCo", "fcdm": "FCDM"}
QUALITY = {"inception_score": "inception_score", "precision": "quality_precision", "recall": "quality_recall"}
QUALITY_NOTE = (
    "FID, IS, precision and recall are quoted from the paper: they are of its trained weights and its samplers, and "
    "nothing here measures them."
)


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
    """Every table that can be rebuilt, as ``paper:table``."""
    found = _specifications()
    return [f"{paper}:{table}" for paper, tables in found.items() if paper != "columns" for table in tables]


def named_tables(text: str) -> list[str]:
    """The tables of ``all``, ``dic`` or ``dic:5,fcdm:2``. Raises UsageError for one that there is not."""
    known, wanted = known_tables(), []
    for part in text.split(","):
        name = part.strip().lower()
        matching = known if name == "all" else [table for table in known if name in (table, table.partition(":")[0])]
        if not matching:
            raise UsageError(f"--paper {part}: there are all, {', '.join(known)}")
        wanted += matching
    return list(dict.fromkeys(wanted))


def paper_table(name: str, runs: Runs) -> PaperTable:
    """Rebuild one table, ``paper:table``, from the measurements, replays and counts of stored files.

    Of all conditions that the files hold (a file, a machine, a batch and so on), the table shows those that cover
    most of its models; of equals those at the paper's batch, then those measured last.
    """
    paper, _, number = name.partition(":")
    specification, source = _specifications()[paper][number], catalogue.papers()[paper]
    lines = _lines(paper, number, specification["order"])
    ours = _best_run(lines, runs, source)
    rows = [_row(line, lines, specification.get("baseline"), ours, runs, source) for line in lines]
    keys = tuple(_specifications()["columns"][specification["columns"]])
    timed = any(key.startswith("our_") for key in keys)
    heading = f"{NAMES[paper]}, Table {number}: {specification['title']}"
    notes = [_source_note(source), *(_run_notes(ours, rows, source, specification["baseline"]) if timed else [])]
    notes += [QUALITY_NOTE] if "fid" in keys else []
    notes += _uncounted(rows, keys)
    return PaperTable(paper, number, heading, ("res", *keys), rows, notes)


def _lines(paper: str, table: str, order: Sequence[str]) -> list[Row]:
    lines = [line for line in catalogue.printed_lines() if (line["paper"], line["table"]) == (paper, table)]
    return sorted(lines, key=lambda line: order.index(line["model"]))


def id_of(line: Row) -> str | None:
    """Which of our models a printed line is about; None for one that nobody can run."""
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
    """Our counts: of a file of ``convbench flops``, of a measurement, or of the catalogue, which knows one size."""
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
    found["our_interval"] = COLUMNS["interval"].of(row) if COLUMNS["interval"].of else None
    if of is None or not is_ranked(of):
        elsewhere = any((other["model"], other["res"]) == (baseline, res) for other in runs.measurements)
        return found | {"our_note": NOT_COMPARABLE if elsewhere else None}
    if of is row:
        return found | {"our_ratio": 1.0}
    ratio = compare_rows(of, row)
    return found | {"our_ratio": ratio.ratio, "our_ratio_low": ratio.low, "our_ratio_high": ratio.high}


def _over_printed(line: Row, row: Row | None, source: Row) -> Row:
    """Ours over the printed images/s, where the machine allows it."""
    if row is None or "images_per_s" not in line or not is_ranked(row):
        return {"over_printed": None, "over_printed_note": None}
    if why_not_comparable(row, source):
        return {"over_printed": None, "over_printed_note": NOT_COMPARABLE}
    return {"over_printed": row["images_per_s"] / line["images_per_s"], "over_printed_note": None}


def why_not_comparable(row: Row, source: Row) -> str | None:
    """Why a measurement cannot be set beside a number that a paper prints; None where it can."""
    gpus = [gpu["name"] for gpu in (row["environment"] or {}).get("gpus") or []] if row["device"] == "cuda" else []
    here = gpus[0] if gpus else "a CPU"
    if source["gpu"].startswith("not stated"):
        return f"the paper does not state its GPU, this is {here}"
    if not any(source["gpu"] in name for name in gpus):
        return f"the paper's GPU is {source['gpu']}, this is {here}"
    return None if row["batch"] == source["batch"] else f"the paper's batch is {source['batch']}, ours {row['batch']}"


def _source_note(source: Row) -> str:
    stated = source["gpu"].partition(" (")[0]
    return (
        f"Printed: {source['title']}, arXiv:{source['arxiv']}; GPU {stated}, batch {source['batch']}, precision "
        f"{source['precision']}. It prints MACs under FLOPs."
    )


def _run_notes(ours: dict[str, Row], rows: Sequence[Row], source: Row, baseline: str) -> Iterator[str]:
    if not ours:
        yield "Ours: none of these models was measured at this size in the files given."
        return
    row = next(iter(ours.values()))
    environment = row["environment"] or {}
    gpus = [gpu["name"] for gpu in environment.get("gpus") or []] if row["device"] == "cuda" else []
    threads = f", {row['threads']} threads" if row["threads"] else ""
    machine = gpus[0] if gpus else f"{environment.get('cpu')}{threads}"
    yield (
        f"Ours: {Path(row['file']).name}; {machine}, torch {environment.get('torch')}, {row['backend']}, "
        f"{row['precision']}, batch {row['batch']}. Ratios are to {baseline} of the same run, those of printed numbers "
        "to its line in the same table."
    )
    if not any(each["replayed_images_per_s"] for each in rows):
        yield "Replayed: no row of convbench replay for this table in the files given."
    if any(each["over_printed_note"] for each in rows):
        yield f"Ours over printed: not comparable, {why_not_comparable(row, source)}."
    invalid = [each["label"] for each in rows if each["our_verdict"] == "INVALID"]
    if invalid:
        yield f"INVALID, so not shown: {', '.join(dict.fromkeys(invalid))}."


def _uncounted(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[str]:
    lacking = [row["model"] for row in rows if row["model"] and row["macs"] is None]
    if "counted_winograd_macs" in keys:
        lacking += [row["model"] for row in rows if row["printed_winograd_macs"] and not row["counted_winograd_macs"]]
    if lacking:
        command = f"convbench flops --model {','.join(dict.fromkeys(lacking))} --res {rows[0]['res']} --format json"
        yield f"MACs that these files do not hold: add the output of {command}."
