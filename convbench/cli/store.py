"""``convbench store``: many runs in one place."""

from pathlib import Path
from typing import Any

import click

from . import options


@click.group("store", short_help="keep the rows of many runs in one place")
def command() -> None:
    """Keep the rows of many runs in one place: DuckDB, Parquet or Postgres.

    A store is duckdb:///FILE, postgresql://USER@HOST/DATABASE, or a folder of Parquet files (NAME.parquet, or an
    fsspec address such as s3://bucket/history). `report`, `compare`, `history`, `plan-capacity` and `recommend` read
    them as they read result files. A row is known by its case, environment, moment and samples: to push it twice stores
    it once.
    """


@command.command(
    "push",
    short_help="add the rows of result files to a store",
    epilog="\b\nExamples:\n  convbench store push run.jsonl --to duckdb:///all.db\n"
    "  convbench store push 'runs/*.jsonl' --to postgresql://bench@db.example/convbench",
)
@click.argument("sources", nargs=-1, required=True, metavar="RUN…")
@click.option("--to", required=True, metavar="STORE", help="The store; it is made if it is not there.")
def push(sources: tuple[str, ...], to: str) -> None:
    """Add the rows of RUN…, files, folders, globs or other stores, that the store does not hold."""
    from ..store import places

    rows = [row for source in sources for row in places.stored_rows(source)]
    done = places.push(rows, to)
    options.say(f"{done.added} rows added, {done.held} were there", err=True)


@command.command(
    "pull",
    short_help="write rows of a store to a result file",
    epilog="\b\nExamples:\n  convbench store pull duckdb:///all.db --out all.jsonl\n"
    "  convbench store pull postgresql://bench@db/all --where model=dico_s --out dico.jsonl",
)
@click.argument("source", metavar="STORE")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .jsonl file; rows that it holds are not written again.",
)
@click.option(
    "--where", type=options.CommaList(), metavar="KEY=VALUE[,…]", help="Only rows such as model=dico_s,res=256."
)
def pull(source: str, out: Path, where: list[str] | None) -> None:
    """Write the rows of a store to a result file, with which everything else works as with one of --out."""
    from ..errors import UsageError
    from ..store import places

    if out.suffix != ".jsonl":
        raise UsageError(f"{out} is not the name of a result file: it must end in .jsonl")
    wanted = options.conditions(where or [])
    rows = [each for each in places.stored_rows(source) if options.fits(each[1], wanted)]
    done = places.push(rows, str(out))
    options.say(f"{done.added} rows written to {out}, {done.held} were there", err=True)


@command.command(
    "check",
    short_help="read every row of a store",
    epilog="\b\nExamples:\n  convbench store check duckdb:///all.db\n"
    "  convbench store check history.parquet --format json",
)
@click.argument("source", metavar="STORE")
@options.form()
def check(source: str, form: str) -> int:
    """Read every row of a store and count them. Exits 1 if a row is there twice or lacks its environment."""
    from ..store import places

    figures = places.checked(source)
    rows: list[dict[str, Any]] = [{"what": what, "value": value} for what, value in figures]
    options.show(rows, ("what", "value"), form)
    return int(any(row["value"] for row in rows if row["what"].startswith("rows ") and " of " not in row["what"]))
