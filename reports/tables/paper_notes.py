"""Notes below a rebuilt table of a paper: sources, conditions, and why a cell is empty."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

QUALITY_NOTE = (
    "FID, IS, precision and recall are quoted from the paper: they belong to its trained weights and samplers, and "
    "convbench does not measure them."
)


def why_not_comparable(row: Row, source: Row) -> str | None:
    """The reason why a measurement cannot be compared with a number that a paper prints; None where it can."""
    gpus = [gpu["name"] for gpu in (row["environment"] or {}).get("gpus") or []] if row["device"] == "cuda" else []
    here = gpus[0] if gpus else "a CPU"
    if source["gpu"].startswith("not stated"):
        return f"the paper does not state its GPU, this is {here}"
    if not any(source["gpu"] in name for name in gpus):
        return f"the paper's GPU is {source['gpu']}, this is {here}"
    return None if row["batch"] == source["batch"] else f"the paper's batch is {source['batch']}, ours {row['batch']}"


def source_note(source: Row) -> str:
    """The source of the printed numbers, and the conditions that it states."""
    stated = source["gpu"].partition(" (")[0]
    return (
        f"Printed: {source['title']}, arXiv:{source['arxiv']}; GPU {stated}, batch {source['batch']}, precision "
        f"{source['precision']}. It prints MACs as FLOPs."
    )


def run_notes(ours: dict[str, Row], rows: Sequence[Row], source: Row, baseline: str) -> Iterator[str]:
    """The run behind our numbers, and what it lacks."""
    if not ours:
        yield "Ours: these files contain no measurement of these models at this size."
        return
    row = next(iter(ours.values()))
    yield (
        f"Ours: {machine_words(row)}. Ratios are to {baseline} of the same run; for printed numbers, to its line in "
        "the same table."
    )
    if not any(each["replayed_images_per_s"] for each in rows):
        yield "Replayed: these files contain no `convbench replay` rows for this table."
    if any(each["over_printed_note"] for each in rows):
        yield f"Ours over printed: not comparable, {why_not_comparable(row, source)}."
    invalid = [each["label"] for each in rows if each["our_verdict"] == "INVALID"]
    if invalid:
        yield f"INVALID, so not shown: {', '.join(dict.fromkeys(invalid))}."


def machine_words(row: Row) -> str:
    """Name the file, machine and settings of a measurement."""
    environment = row["environment"] or {}
    gpus = [gpu["name"] for gpu in environment.get("gpus") or []] if row["device"] == "cuda" else []
    threads = f", {row['threads']} threads" if row["threads"] else ""
    machine = gpus[0] if gpus else f"{environment.get('cpu')}{threads}"
    return (
        f"{Path(row['file']).name}; {machine}, torch {environment.get('torch')}, {row['backend']}, {row['precision']}, "
        f"batch {row['batch']}"
    )


def uncounted(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[str]:
    """The command that counts the MACs which are missing from the table."""
    lacking = [row["model"] for row in rows if row["model"] and row["macs"] is None]
    if "counted_winograd_macs" in keys:
        lacking += [row["model"] for row in rows if row["printed_winograd_macs"] and not row["counted_winograd_macs"]]
    if lacking:
        command = f"convbench flops --model {','.join(dict.fromkeys(lacking))} --res {rows[0]['res']} --format json"
        yield f"For the missing MACs, add the output of {command} to the files."
