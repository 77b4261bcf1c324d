"""``convbench report``: tables and plots from stored runs."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import catalogue
from . import options

if TYPE_CHECKING:
    from ..reports.runs import Runs

FORMATS = (*options.FORMATS, "latex")
KEYS = (
    *("file", "model", "res", "batch", "backend", "precision", "device", "threads", "weights", "repeat", "mode"),
    *("params", "macs", "winograd_macs", "images_per_s", "interval", "baseline_ratio", "baseline_interval"),
    *("latency_s_p50", "prepare_s", "limit_fraction", "ratio", "difference", "rank", "status", "verdict"),
)
MOST_PICTURES = 12  # on a page
MORE_ON_A_PAGE = ("mfu", "flops_per_s", "peak_bytes", "error_vs_fp32")
NAMED = 12  # so many notes of one kind, then how many more there are


@click.command(
    "report",
    short_help="tables and plots from stored runs",
    epilog="\b\nExamples:\n  convbench report run.jsonl --sort images_per_s --format latex\n"
    "  convbench report run.jsonl counts.json --paper dic:5,fcdm:2 --plots pictures",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option(
    "--columns", type=options.CommaList(), metavar="KEY[,KEY…]", help="Only these, by the keys of --format json."
)
@click.option(
    "--sort",
    metavar="KEY",
    help="Order of the rows: the largest first where more is better; -KEY the other way round.",
)
@click.option(
    "--where", type=options.CommaList(), metavar="KEY=VALUE[,…]", help="Only rows such as res=256,batch=32,batch=64."
)
@click.option(
    "--baseline", metavar="ID", help="The model that ratios are to [default: dit_xl_2, where it was measured]."
)
@click.option(
    "--paper",
    is_flag=False,
    flag_value="all",
    metavar="[all|TABLE[,…]]",
    help="Instead: the papers' own tables with our numbers beside theirs; all, a paper such as dico, or dic:5,fcdm:2.",
)
@click.option(
    "--explain", metavar="MODEL/KEY", help="Instead: the case, raw samples, conditions and formula of dico_xl/mfu, say."
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw every picture that the files have the numbers for, as SVG and PNG, too.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Instead: write one page with the table, pictures, conditions and every raw sample; see verify-report.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="latex has booktabs rules; json and csv hold every key in base units.",
)
def command(
    runs: tuple[Path, ...],
    columns: list[str] | None,
    sort: str | None,
    where: list[str] | None,
    baseline: str | None,
    paper: str | None,
    explain: str | None,
    plots: Path | None,
    html: Path | None,
    form: str,
) -> None:
    """Tables from RUN…: files of --out and of --format json, or folders of them.

    A ratio to the baseline is one of the same run: same file, machine, size, batch, backend, precision, threads and
    mode. Elsewhere the cell says "not comparable". INVALID rows and rows that may be listed only have no rank.
    """
    from ..files import require_writable
    from ..reports.runs import read_runs

    if html is not None:
        require_writable(html)
    read = read_runs(runs)
    for note in read.notes:
        options.say(note, err=True)
    if plots is not None:
        _draw(read, plots, where, baseline)
    if html is not None:
        if paper is not None:
            raise click.UsageError("--html does not go with --paper: a page has the measurements themselves")
        _page(read, html, columns, sort, where, baseline)
        return
    if explain is not None:
        _explain(read, explain, where, baseline, form)
        return
    if paper is None:
        _table(read, columns, sort, where, baseline, form)
        return
    refused = {"--sort": sort, "--baseline": baseline}
    if given := [option for option, value in refused.items() if value]:
        raise click.UsageError(f"{given[0]} does not go with --paper: its tables have their own")
    _paper_tables(read, paper, columns, where, form)


def _explain(runs: "Runs", asked: str, where: list[str] | None, baseline: str | None, form: str) -> None:
    from ..reports import selection
    from ..reports.baseline import BASELINE, beside_baseline
    from ..reports.explain import as_text, explained
    from ..reports.runs import records

    _require_measurements(runs)
    _require_baseline(baseline, runs)
    rows = selection.where(records(beside_baseline(runs.frame, baseline or BASELINE)), where or [])
    found = explained(rows, asked)
    options.say_json(found) if form == "json" else options.say(as_text(found))


def _draw(runs: "Runs", folder: Path, where: list[str] | None, baseline: str | None) -> None:
    from dataclasses import replace

    from ..reports import selection
    from ..reports.baseline import BASELINE
    from ..reports.plots.pictures import draw

    _require_baseline(baseline, runs)
    kept = replace(runs, measurements=selection.where(runs.measurements, where or []))
    for file in draw(kept, folder, baseline or BASELINE):
        options.say(f"wrote {file}", err=True)


def _paper_tables(runs: "Runs", names: str, columns: list[str] | None, where: list[str] | None, form: str) -> None:
    """Each table under its name; one list of all rows for json and csv."""
    from ..reports import selection
    from ..reports.tables.papers import named_tables, paper_table

    wanted = named_tables(names)
    runs.measurements = selection.where(runs.measurements, where or [])
    tables = [paper_table(name, runs) for name in wanted]
    if form in ("json", "csv"):
        rows = [row for table in tables for row in table.rows]
        keys = selection.shown_columns(columns, (), rows, form)
        options.show(selection.narrowed(rows, keys) if columns else rows, keys, form)
        return
    for number, table in enumerate(tables):
        sign = {"markdown": "### ", "latex": "% "}.get(form, "")
        options.say(("\n" if number else "") + sign + table.heading + ("\n" if form == "markdown" else ""))
        options.show(table.rows, selection.shown_columns(columns, table.keys, table.rows, form), form, table.notes)


def _page(
    runs: "Runs", path: Path, columns: list[str] | None, sort: str | None, where: list[str] | None, baseline: str | None
) -> None:
    from dataclasses import replace

    from ..files import write_whole
    from ..reports import selection
    from ..reports.baseline import BASELINE
    from ..reports.page import build
    from ..reports.plots import drawing, pictures

    _require_measurements(runs)
    _require_baseline(baseline, runs)
    baseline = baseline or BASELINE
    rows = build.table_rows(runs.measurements, baseline)
    keys = selection.shown_columns(columns, (*KEYS, *MORE_ON_A_PAGE), rows, "table")
    chosen = replace(runs, measurements=selection.where(rows, where or []))
    first = list(itertools.islice(pictures.pictures(chosen, baseline), MOST_PICTURES + 1))
    if len(first) > MOST_PICTURES:
        runs.notes.append(f"These files give more pictures than the {MOST_PICTURES} below: --where narrows them")
    drawn = [(f"{each.says} ({each.name})", drawing.svg(each.figure())) for each in first[:MOST_PICTURES]]
    text = build.page(runs, keys, baseline, where or [], sort, drawn)
    write_whole(path, text.encode())
    options.say(f"wrote {path}", err=True)


def _table(
    runs: "Runs",
    columns: list[str] | None,
    sort: str | None,
    where: list[str] | None,
    baseline: str | None,
    form: str,
) -> None:
    from ..reports import selection
    from ..reports.baseline import BASELINE, beside_baseline
    from ..reports.runs import records

    _require_measurements(runs)
    _require_baseline(baseline, runs)
    rows = records(beside_baseline(runs.frame, baseline or BASELINE))
    rows = selection.sorted_rows(selection.where(rows, where or []), sort)
    usual = [key for key in KEYS if key != "file" or len({row["file"] for row in rows}) > 1]
    keys = selection.shown_columns(columns, usual, rows, form)
    notes = list(_notes(rows, keys))
    if columns and form in ("json", "csv"):
        rows = selection.narrowed(rows, keys)
    options.show(rows, keys, form, notes)


def _require_measurements(runs: "Runs") -> None:
    from ..errors import NothingMeasured

    if not runs.measurements:
        held = ", ".join(kind for kind, rows in vars(runs).items() if rows and kind != "notes")
        raise NothingMeasured(f"no row of convbench throughput in these files, only {held}")


def _require_baseline(baseline: str | None, runs: "Runs") -> None:
    """Raise UsageError unless the files hold the model that was asked for."""
    from ..errors import UsageError
    from ..reports.selection import require_known

    models = list(dict.fromkeys(row["model"] for row in runs.measurements))
    if baseline is not None and baseline not in models:
        require_known(baseline, [*models, *catalogue.variants()], "model")
        raise UsageError(f"--baseline {baseline} is in none of these files: there are {', '.join(models)}")


def _notes(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> Iterator[str]:
    beside = "baseline_ratio" in keys
    if beside and any(row["baseline_ratio"] is not None for row in rows):
        yield (
            f"× baseline: images/s over those of {rows[0]['baseline']} in the same run and conditions; its interval is "
            "made of both."
        )
    if beside and any(row["baseline_note"] == "not comparable" for row in rows):
        yield "not comparable: the baseline was measured in another run, on another device or under other conditions."
    yield from _some([_unranked(row) for row in rows if _unranked(row)])


def _unranked(row: dict[str, Any]) -> str:
    """Why a row has no rank."""
    if row["unranked"]:
        return f"{row['case']}: not ranked, {row['unranked']}"
    if row["verdict"] == "INVALID" or row["status"] != "ok":
        return f"{row['case']}: {row['verdict'] or row['status']}, {row['reason']}"
    return ""


def _some(notes: list[str]) -> list[str]:
    left = len(notes) - NAMED
    return notes if left <= 0 else [*notes[:NAMED], f"… and {left} more rows without a rank."]
