"""Which pictures stored files give: each picture has a name, a figure, and the table that it shows."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.errors import UsageError

from ..baseline import BASELINE, beside_baseline, conditions, is_ranked
from ..runs import Runs, frame
from . import drawing, implied_rates, kinds, quality, ratio_bars, roofline, scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One picture: a file name without its ending, what it says to somebody who cannot see it, and its data."""

    name: str
    says: str
    table: "DataFrame"
    draw: "Callable[[DataFrame], Figure]"

    def figure(self) -> "Figure":
        return self.draw(self.table)


def pictures(runs: Runs, baseline: str = BASELINE) -> Iterator[Picture]:
    """Every picture that there is enough data for."""
    rows = [row for row in runs.measurements if is_ranked(row) and (row["mode"] or "forward") == "forward"]
    for words, group in _grouped(rows, without="batch").items():
        if _spread(group, "batch"):
            yield Picture(f"batch-{words}", "images/s and latency over the batch", frame(group), scaling.against_batch)
    for words, group in _grouped(rows, without="res").items():
        if _spread(group, "res"):
            yield Picture(
                f"resolution-{words}", "images/s over the resolution", frame(group), scaling.against_resolution
            )
    yield Picture("fid-macs", "FID of the papers over MACs", quality.printed_quality(), quality.fid_against_macs)
    for words, group in _grouped([row for row in rows if quality.usable(row)]).items():
        table = quality.printed_quality({row["model"]: row for row in group})
        if sum(value is not None for value in table["images_per_s"]) > 1:
            yield Picture(
                f"fid-throughput-{words}",
                "FID of the papers over measured images/s",
                table,
                quality.fid_against_throughput,
            )
    yield from _rooflines(runs, rows)
    if runs.kinds:
        yield Picture("macs-by-kind", "MACs by kind of operator", frame(runs.kinds), kinds.macs_by_kind)
    if runs.audit:
        yield Picture(
            "implied-rates", "FLOP/s that printed throughputs imply", frame(runs.audit), implied_rates.implied_rates
        )
    yield from _ratios(runs, rows, baseline)


def _rooflines(runs: Runs, rows: list[Row]) -> Iterator[Picture]:
    """One for each set of conditions; kernels stand with the models of a GPU at their precision, else alone."""
    left = {row["precision"] for row in runs.kernels}
    for words, group in _grouped(rows).items():
        precision = group[0]["precision"] if group[0]["device"] == "cuda" else None
        own = [row for row in runs.kernels if row["precision"] == precision]
        table = roofline.roofline_points(runs.counts, group, own)
        if len(table) > len(own):
            left.discard(precision)
            yield Picture(f"roofline-{words}", "FLOP/s over arithmetic intensity", table, roofline.roofline)
    for precision in sorted(left):
        own = [row for row in runs.kernels if row["precision"] == precision]
        table = roofline.roofline_points([], [], own)
        if len(table):
            words = f"roofline-kernels-{precision}"
            yield Picture(words, "FLOP/s of kernels over arithmetic intensity", table, roofline.roofline)


def _ratios(runs: Runs, rows: list[Row], baseline: str) -> Iterator[Picture]:
    for words, group in _grouped(rows).items():
        table = ratio_bars.to_baseline(beside_baseline(frame(group), baseline))
        if len(table) > 1:
            title = f"images/s over those of {baseline}: {words.replace('-', ', ')}"
            yield Picture(
                f"ratios-{words}",
                f"images/s over those of {baseline}",
                table,
                lambda table, title=title: ratio_bars.ratio_bars(table, title),  # type: ignore[misc]
            )
    turns = ratio_bars.in_turns(runs.frame) if runs.measurements else frame([])
    if runs.measurements and len(turns):
        yield Picture("ratios-in-turns", "ratios of cases timed in turns", turns, ratio_bars.ratio_bars)


def _grouped(rows: list[Row], without: str = "") -> dict[str, list[Row]]:
    """Rows that may stand in one picture, by words for a file name: their conditions, but for one that is an axis."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if (row["repeat"] or 1) == 1:
            groups.setdefault(conditions(row | ({without: None} if without else {})), []).append(row)
    named: dict[str, list[Row]] = {}
    for group in groups.values():
        words = _words(group[0], without)
        number = sum(name == words or name.startswith(f"{words}-run") for name in named) + 1
        named[f"{words}-run{number}" if number > 1 else words] = group  # another file or machine, same settings
    return named


def _words(row: Row, without: str) -> str:
    parts = {
        "device": row["device"],
        "res": f"{row['res']}px",
        "batch": f"b{row['batch']}",
        "backend": row["backend"],
        "precision": row["precision"],
        "threads": f"{row['threads']}threads" if row["threads"] else "",
    }
    words = "-".join(part for key, part in parts.items() if part and key != without)
    return re.sub(r"[^a-zA-Z0-9]+", "-", words)


def _spread(rows: list[Row], key: str) -> bool:
    """Whether any model was measured at two values or more."""
    values: dict[str, set[Any]] = {}
    for row in rows:
        values.setdefault(row["model"], set()).add(row[key])
    return any(len(seen) > 1 for seen in values.values())


def draw(runs: Runs, folder: Path, baseline: str = BASELINE) -> list[Path]:
    """Write every picture into the folder, as SVG and PNG. Returns the files. Raises UsageError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [file for each in pictures(runs, baseline) for file in drawing.save(each.figure(), folder, each.name)]
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}") from None
