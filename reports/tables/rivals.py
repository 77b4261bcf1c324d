"""Today's rivals: FID over MACs and over measured images/s, one table for each set of equal conditions.

FIDs are quoted. Two of them stand in one table only if every condition of ``catalogue.CONDITIONS`` is equal and stated;
the others are listed in a last table without any comparison.
"""

from collections.abc import Sequence
from typing import Any

from convbench import catalogue

from ..baseline import conditions, is_ranked
from ..runs import Runs
from .paper_notes import machine_words, uncounted
from .papers import RIVALS, PaperTable

Row = dict[str, Any]

KEYS = ("label", "latent", "macs", "our_images_per_s", "our_interval", "our_verdict", "printed_fid", "frontier")
ALONE_KEYS = ("label", "conditions", *KEYS[1:-1], "printed_in")
ALONE = "alone in their conditions, or conditions not stated"
FID_NOTE = (
    "FID is quoted from the source named; it belongs to the authors' weights and samplers, and convbench does not "
    "measure it. frontier of FID over MACs (images/s): no row of the same table has a lower FID at no more MACs (no "
    "fewer images/s). A label in parentheses names what else differs, such as the autoencoder."
)
LATENT_NOTE = (
    "images/s are forward passes, and a latent is not an image: `convbench throughput --sampling …,decode=yes` adds "
    "the decoder."
)


def rivals_tables(runs: Runs) -> list[PaperTable]:
    """Build the page: a table for each set of conditions that a rival shares with another model, then the rest.

    Of all conditions of measurement in the files, the page shows the ones that cover the most models and sizes.
    """
    rows = rival_rows(runs)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["conditions"], []).append(row)
    compared = {words: group for words, group in groups.items() if group[0]["compared"]}
    alone = [row for row in rows if not row["compared"]]
    tables = [_table(words, group, KEYS) for words, group in compared.items()]
    tables.append(_table(ALONE, alone, ALONE_KEYS))
    tables[-1].notes[:0] = [FID_NOTE, LATENT_NOTE, *_run_note(rows, runs)]
    return tables


def rival_rows(runs: Runs) -> list[Row]:
    """One row for each printed FID of the page, with our count, our measurement and its frontiers.

    ``compared``: another model has the same stated conditions. ``on_macs`` and ``on_speed``: on the frontier of its
    conditions; None where that cannot be said.
    """
    lines = _lines()
    ours = _best_run(lines, runs)
    rows = [_row(line, ours, runs) for line in lines]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["conditions"], []).append(row)
    for group in groups.values():
        compared = catalogue.states_conditions(group[0]) and len({row["model"] for row in group}) > 1
        for row in group:
            row["compared"] = compared
            row["on_macs"] = _leads(row, group, "macs", -1) if compared else None
            row["on_speed"] = _leads(row, group, "our_images_per_s", 1) if compared else None
            row["frontier"] = " and ".join(_frontiers(row)) or None
    return sorted(rows, key=lambda row: (not row["compared"], row["data"], row["res"], row["conditions"], _macs(row)))


def _lines() -> list[Row]:
    """The rivals' lines, each FID once, and the lines of other models under the conditions that a rival states."""
    quoted = catalogue.quoted_lines()
    kept: list[Row] = []
    for line in sorted(quoted, key=lambda line: not catalogue.states_conditions(line)):  # stated ones first
        same: tuple[str, ...] = ("model", "data", "res", "fid")
        if catalogue.states_conditions(line):
            same += ("guidance", "training", "aid")
        if not any(all(line[key] == other[key] for key in same) for other in kept):
            kept.append(line)
    stated = {catalogue.condition_words(line) for line in kept if catalogue.states_conditions(line)}
    others = [line for line in catalogue.table_lines() if catalogue.condition_words(line) in stated]
    return kept + [line for line in others if catalogue.states_conditions(line)]


def _best_run(lines: Sequence[Row], runs: Runs) -> dict[tuple[str, int], Row]:
    """The measurements of one set of conditions, whatever the resolution, by model and resolution."""
    wanted = {(line["model"], line["res"]) for line in lines}
    groups: dict[tuple[Any, ...], dict[tuple[str, int], Row]] = {}
    for row in runs.measurements:
        key = (row["model"], row["res"])
        if key in wanted and is_ranked(row) and (row["mode"] or "forward") == "forward" and (row["repeat"] or 1) == 1:
            groups.setdefault(conditions(row | {"res": None}), {}).setdefault(key, row)
    return max(groups.values(), key=len, default={})


def _row(line: Row, ours: dict[tuple[str, int], Row], runs: Runs) -> Row:
    measured = ours.get((line["model"], line["res"]), {})
    speed = {f"our_{key}": measured.get(key) for key in ("images_per_s", "images_per_s_low", "images_per_s_high")}
    low, high = speed["our_images_per_s_low"], speed["our_images_per_s_high"]
    half = None if low is None or high is None else (high - low) / 2 / speed["our_images_per_s"]
    return {
        **line,
        "conditions": catalogue.condition_words(line),
        "latent": latent_words(line["model"], line["res"]),
        "printed_fid": line["fid"],
        "macs": _counted(line["model"], line["res"], runs),
        **speed,
        "our_interval": half,
        "our_verdict": measured.get("verdict"),
        "case": measured.get("case"),
        "file": measured.get("file"),
    }


def latent_words(model: str, res: int) -> str:
    """Name what the network takes, as in "32x32x4" or "pixels"."""
    takes = catalogue.find_in_zoo(model).signature
    side = res // takes.factor
    return "pixels" if takes.factor == 1 else f"{side}x{side}x{takes.channels}"


def _counted(model: str, res: int, runs: Runs) -> int | None:
    """Our MACs: from the files, or from the catalogue, which knows one resolution."""
    held = [row["macs"] for row in (*runs.measurements, *runs.counts) if (row["model"], row["res"]) == (model, res)]
    variant = catalogue.find_in_zoo(model)
    return next((macs for macs in held if macs is not None), variant.macs if variant.res == res else None)


def _macs(row: Row) -> float:
    return float("inf") if row["macs"] is None else float(row["macs"])


def _leads(row: Row, group: Sequence[Row], key: str, sign: int) -> bool | None:
    """True if no row of the group has a lower FID with a ``key`` that is as good; None if the row has none."""
    if row[key] is None:
        return None
    rivals = [other for other in group if other[key] is not None and sign * other[key] >= sign * row[key]]
    return not any(other["fid"] < row["fid"] for other in rivals)


def _frontiers(row: Row) -> list[str]:
    return [words for key, words in (("on_macs", "MACs"), ("on_speed", "images/s")) if row[key]]


def _table(words: str, rows: list[Row], keys: tuple[str, ...]) -> PaperTable:
    sources = dict.fromkeys(row["printed_in"] for row in rows)
    notes = [f"Sources: {'; '.join(sources)}."] if "printed_in" not in keys else []
    lacking = [row for row in rows if row["macs"] is None]
    for res in dict.fromkeys(row["res"] for row in lacking):
        notes += uncounted([row | {"printed_winograd_macs": None} for row in lacking if row["res"] == res], keys)
    return PaperTable(RIVALS, "", f"Rivals: {words}", keys, rows, notes)


def _run_note(rows: Sequence[Row], runs: Runs) -> list[str]:
    """The run behind our images/s."""
    cases = {row["case"] for row in rows} - {None}
    row = next((row for row in runs.measurements if row["case"] in cases), None)
    if row is None:
        return ["Ours: these files hold no measurement of these models at these sizes."]
    return [f"Ours: {machine_words(row)}."]
