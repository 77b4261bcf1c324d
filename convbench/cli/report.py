"""``convbench report``: tables, plots and the page, from stored runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from ..reports.runs import Runs

FORMATS = (*options.FORMATS, "latex")
MOST_RECOMMENDED = 3  # lines above a table


@click.command(
    "report",
    short_help="tables, plots and a page from stored runs",
    epilog="\b\nExamples:\n  convbench report run.jsonl --sort images_per_s --format latex\n"
    "  convbench report run.jsonl counts.json --paper dic:5,fcdm:2 --plots pictures",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option(
    "--paper",
    is_flag=False,
    flag_value="all",
    metavar="[all|TABLE[,…]|rivals]",
    help="Print the papers' own tables with our numbers beside theirs: all, a paper such as dico, or dic:5,fcdm:2; or "
    "rivals: newer backbones, their printed FID over our MACs and images/s.",
)
@click.option(
    "--explain",
    metavar="MODEL/KEY",
    help="Print the case, raw samples, conditions and formula behind a number, e.g. dico_xl/mfu.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write one page with the table, pictures, conditions and every raw sample; see verify-report.",
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw every plot for which the files hold enough data, as SVG and PNG.",
)
@click.option(
    "--columns", type=options.CommaList(), metavar="KEY[,KEY…]", help="Show these columns, by their --format json keys."
)
@click.option(
    "--sort", metavar="KEY", help="Sort rows by this key, largest first if more is better; -KEY reverses the order."
)
@click.option(
    "--where", type=options.CommaList(), metavar="KEY=VALUE[,…]", help="Keep rows such as res=256,batch=32,batch=64."
)
@click.option("--baseline", metavar="ID", help="Reference model of the ratios [default: dit_xl_2, if it was measured].")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="latex uses booktabs rules; json and csv contain every key, in base units.",
)
def command(
    runs: tuple[str, ...],
    paper: str | None,
    explain: str | None,
    html: Path | None,
    plots: Path | None,
    columns: list[str] | None,
    sort: str | None,
    where: list[str] | None,
    baseline: str | None,
    form: str,
) -> None:
    """Report on RUN…: files written by --out or with --format json, folders or globs of them, or stores
    (`convbench store`).

    Prints the table of measurements unless --paper, --explain, --html or --plots is given. These can be combined, but
    --paper only with --plots.

    Ratios are to the baseline of the same run: same file, machine, size, batch, backend, precision, threads and
    mode. Otherwise the cell says "not comparable". INVALID rows and rows that are listed only have no rank.
    """
    from ..files import require_writable
    from ..reports.runs import read_runs

    _refuse(paper, {"--html": html, "--explain": explain, "--sort": sort, "--baseline": baseline})
    if html is not None:
        require_writable(html)
    read = read_runs(runs, where or [])
    for note in read.notes:
        options.say(note, err=True)
    if plots is not None:
        from ..reports.report import draw_plots

        for file in draw_plots(read, plots, where or [], baseline):
            options.say(f"wrote {file}", err=True)
    if html is not None:
        from ..reports.page.build import write_page

        write_page(read, html, columns, sort, where or [], baseline)
        options.say(f"wrote {html}", err=True)
    if explain is not None:
        _explain(read, explain, where, baseline, form)
    if paper is not None:
        _paper_tables(read, paper, columns, where, form)
    if all(output is None for output in (plots, html, explain, paper)):
        _table(read, columns, sort, where, baseline, form)


def _refuse(paper: str | None, others: dict[str, object]) -> None:
    """Raise UsageError for options that the papers' tables cannot take."""
    given = [option for option, value in others.items() if value]
    if paper is not None and given:
        reason = "the page shows the measurements" if given[0] == "--html" else "its tables have a fixed content"
        raise click.UsageError(f"{given[0]} cannot be combined with --paper: {reason}")


def _table(
    runs: "Runs", columns: list[str] | None, sort: str | None, where: list[str] | None, baseline: str | None, form: str
) -> None:
    from ..reports import selection
    from ..reports.recommend import recommendations
    from ..reports.tables import frontier, measured

    if runs.qualities and not runs.measurements:
        ways = selection.sorted_rows(selection.where(runs.qualities, where or []), sort)
        keys = selection.shown_columns(columns, frontier.KEYS, ways, form)
        options.show(selection.narrowed(ways, keys) if columns else ways, keys, form, frontier.notes(ways))
        return
    rows = selection.sorted_rows(selection.compared_rows(runs, where or [], baseline), sort)
    keys = selection.shown_columns(columns, measured.usual_keys(rows), rows, form)
    notes = list(measured.notes(rows, keys))
    if columns and form in ("json", "csv"):
        rows = selection.narrowed(rows, keys)
    if form == "table" and columns is None:
        for found in recommendations(rows)[:MOST_RECOMMENDED]:
            options.say(found.words)
    options.show(rows, keys, form, notes)


def _explain(runs: "Runs", asked: str, where: list[str] | None, baseline: str | None, form: str) -> None:
    from ..reports import selection
    from ..reports.explain import as_text, explained

    found = explained(selection.compared_rows(runs, where or [], baseline), asked)
    options.say_json(found) if form == "json" else options.say(as_text(found))


def _paper_tables(runs: "Runs", names: str, columns: list[str] | None, where: list[str] | None, form: str) -> None:
    """Print each table under its name; for json and csv, one list of all rows."""
    from dataclasses import replace

    from ..reports import selection
    from ..reports.tables.papers import RIVALS, named_tables, paper_table
    from ..reports.tables.rivals import rivals_tables

    wanted = named_tables(names)
    kept = replace(runs, measurements=selection.where(runs.measurements, where or []))
    tables = [paper_table(name, kept) for name in wanted if name != RIVALS]
    tables += rivals_tables(kept) if RIVALS in wanted else []
    if form in ("json", "csv"):
        rows = [row for table in tables for row in table.rows]
        keys = selection.shown_columns(columns, (), rows, form)
        options.show(selection.narrowed(rows, keys) if columns else rows, keys, form)
        return
    for number, table in enumerate(tables):
        sign = {"markdown": "### ", "latex": "% "}.get(form, "")
        options.say(("\n" if number else "") + sign + table.heading + ("\n" if form == "markdown" else ""))
        options.show(table.rows, selection.shown_columns(columns, table.keys, table.rows, form), form, table.notes)
