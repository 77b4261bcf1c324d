"""The pictures that stored files give: each with a name, titles, the table it shows and the function that draws it."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench import catalogue
from convbench.errors import UsageError

from ..baseline import BASELINE, beside_baseline, conditions, is_ranked
from ..labels import model_name, short_labels
from ..runs import Runs, frame
from ..tables.rivals import rival_rows
from . import fid, figures, frontier, implied_rates, macs_by_kind, ratio_bars, rivals, roofline, scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One picture."""

    name: str  # of its file, without the ending
    title: str  # also for somebody who cannot see it
    table: "DataFrame"
    draw: "Callable[[DataFrame, str, str], Figure]"
    subtitle: str = ""  # what all rows share; "": the drawing function knows

    def figure(self) -> "Figure":
        return self.draw(self.table, self.title, self.subtitle)


def pictures(runs: Runs, baseline: str = BASELINE) -> Iterator[Picture]:
    """Every picture for which the files hold enough data."""
    rows = [row for row in runs.measurements if is_ranked(row) and (row["mode"] or "forward") == "forward"]
    if runs.audit:
        audit = frame(runs.audit)
        yield Picture("implied-rates", implied_rates.finding(audit), audit, implied_rates.implied_rates)
    if runs.measurements and len(table := ratio_bars.to_counterparts(runs.frame)):
        yield Picture("paired-ratios", "Speed of the case over its counterpart", table, ratio_bars.ratio_bars)
    if runs.kinds:
        yield Picture("macs-by-kind", "MACs by kind of operator", frame(runs.kinds), macs_by_kind.macs_by_kind)
    yield Picture("fid-macs", "FID over MACs", fid.printed_quality(), fid.fid_over_macs)
    yield from _rooflines(runs, rows)
    yield from _ratios(rows, baseline)
    yield from _scaling(rows)
    for words, group in _grouped([row for row in rows if fid.usable(row)]).items():
        table = fid.printed_quality({row["model"]: row for row in group})
        if sum(value is not None for value in table["images_per_s"]) > 1:
            name, title = f"fid-throughput-{words}", "FID over measured throughput"
            yield Picture(name, title, table, fid.fid_over_throughput, _shared(group))
    yield from _rivals(runs)
    yield from frontiers(runs.qualities)


def _rivals(runs: Runs) -> Iterator[Picture]:
    """The frontiers of today's rivals over MACs, and over images/s where several were measured.

    None for files without any rival.
    """
    rows = rival_rows(runs)
    quoted = {line["model"] for line in catalogue.quoted_lines()}
    if not any(row["model"] in quoted for row in (*runs.measurements, *runs.counts)):
        return
    for res, (panel, words) in itertools.product((256, 512), rivals.PANELS.items()):
        counted = rivals.drawable(rows, res, panel, "macs")
        title = f"Rivals {words}, {res} px"
        yield Picture(f"rivals-macs-{res}px-{panel}", f"{title}: FID over MACs", frame(counted), rivals.over_macs)
        timed = rivals.drawable(rows, res, panel, "our_images_per_s")
        if len({row["model"] for row in timed}) > 1:
            first = next(row for row in runs.measurements if row["case"] == timed[0]["case"])
            name = f"rivals-throughput-{_file_words(first, '')}-{panel}"
            yield Picture(name, f"{title}: FID over throughput", frame(timed), rivals.over_speed, _shared([first]))


def _scaling(rows: list[Row]) -> Iterator[Picture]:
    for words, group in _grouped(rows, without="batch").items():
        if _several(group, "batch"):
            title = "Throughput and latency over the batch size"
            yield Picture(f"batch-{words}", title, frame(group), scaling.over_batch)
    for words, group in _grouped(rows, without="res").items():
        if _several(group, "res"):
            yield Picture(
                f"resolution-{words}", "Throughput over the resolution", frame(group), scaling.over_resolution
            )


def _rooflines(runs: Runs, rows: list[Row]) -> Iterator[Picture]:
    """One for each set of conditions; kernels are drawn with the models of a GPU at their precision, else alone."""
    left = {row["precision"] for row in runs.kernels}
    for words, group in _grouped(rows).items():
        precision = group[0]["precision"] if group[0]["device"] == "cuda" else None
        own = [row for row in runs.kernels if row["precision"] == precision]
        table = roofline.roofline_points(runs.counts, group, own)
        if len(table) > len(own):
            left.discard(precision)
            yield Picture(f"roofline-{words}", "Roofline of the models", table, roofline.roofline, _shared(group))
    for precision in sorted(left):
        own = [row for row in runs.kernels if row["precision"] == precision]
        table = roofline.roofline_points([], [], own)
        if len(table):
            name = f"roofline-kernels-{precision}"
            yield Picture(name, "Roofline of the fused kernels", table, roofline.roofline, precision)


def _ratios(rows: list[Row], baseline: str) -> Iterator[Picture]:
    for words, group in _grouped(rows).items():
        table = ratio_bars.to_baseline(beside_baseline(frame(group), baseline))
        if len(table) > 1:
            yield Picture(f"ratios-{words}", f"Speed relative to {model_name(baseline)}", table, ratio_bars.ratio_bars)


def _grouped(rows: list[Row], without: str = "") -> dict[str, list[Row]]:
    """Rows that may share a picture, by words for a file name: their conditions without the one that is an axis."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if (row["repeat"] or 1) == 1:
            groups.setdefault(conditions(row | ({without: None} if without else {})), []).append(row)
    named: dict[str, list[Row]] = {}
    for group in groups.values():
        words = _file_words(group[0], without)
        number = sum(name == words or name.startswith(f"{words}-run") for name in named) + 1
        named[f"{words}-run{number}" if number > 1 else words] = group  # another file or machine, same settings
    return named


def _file_words(row: Row, without: str) -> str:
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


def _shared(rows: list[Row]) -> str:
    """The conditions that all rows share; the model is a label even of a lone row."""
    return short_labels([{**row, "model": None} for row in rows]).shared


def _several(rows: list[Row], key: str) -> bool:
    """True if a model was measured at two values or more."""
    values: dict[str, set[Any]] = {}
    for row in rows:
        values.setdefault(row["model"], set()).add(row[key])
    return any(len(found) > 1 for found in values.values())


def frontiers(rows: list[Row]) -> Iterator[Picture]:
    """A picture of the ways to sample of each model, size, device, kind of node, number of images, seed and judge."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        facts = (*(row[key] for key in ("model", "res", "planned", "seed")), row.get("on") or row["device"])
        groups.setdefault((*facts, row.get("reference_sha256")), []).append(row)
    for (model, res, planned, seed, device, reference), group in groups.items():
        images = max(row["images"] for row in group)
        subtitle = f"{model_name(model)}, {res} px, {device}, {images} images, seed {seed}"
        name = f"frontier-{model}-{res}px-{device}-{planned}images-seed{seed}"
        name += f"-fid-{reference[:8]}" if reference else ""
        title = f"Ways to sample: images/s and {'FID' if reference else 'Fréchet distance'}"
        yield Picture(re.sub(r"[^A-Za-z0-9-]+", "-", name), title, frame(group), frontier.frontier, subtitle)


def draw(runs: Runs, folder: Path, baseline: str = BASELINE) -> list[Path]:
    """Write every picture into the folder, as SVG and PNG. Returns the files. Raises UsageError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [file for each in pictures(runs, baseline) for file in figures.save(each.figure(), folder, each.name)]
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}") from None
