"""Places of stored rows, as a user writes them: files, folders, globs, and stores that keep many runs.

run.jsonl   results   'runs/*.jsonl'       result files, read as they are
duckdb:///all.db                           a DuckDB file
history.parquet   parquet-folder   s3://…  Parquet files, in a local folder or at an fsspec address
postgresql://user@host/database            Postgres, for several writers
"""

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import files, packages
from ..errors import UsageError
from ..schema.upgrade import SCHEMA
from .duck import DuckFile, LargeLines, ParquetFolder
from .identity import row_id
from .lines import append_line, read, require_writable
from .postgres import Postgres
from .tables import Pushed, Row, Tables, Where

LARGE = 2**26  # bytes of result files from which DuckDB reads them, where it is installed
ENVIRONMENT = "CONVBENCH_STORE"
USUAL = "results"
POSTGRES = ("postgresql://", "postgres://")
DUCKDB = "duckdb:///"


def tables(text: str) -> Tables | None:
    """The store that a text names; None for files of lines. Raises UsageError for an address of no store."""
    if text.startswith(POSTGRES):
        return Postgres(text)
    if text.startswith(DUCKDB):
        if not text.removeprefix(DUCKDB):
            raise UsageError(f"{text} names no file: duckdb:///all.db, or duckdb:////folder/all.db")
        return DuckFile(Path(text.removeprefix(DUCKDB)))
    if "://" in text:
        scheme = text.partition("://")[0]
        if scheme == "duckdb":
            raise UsageError(f"{text} names no file: duckdb:///all.db, or duckdb:////folder/all.db")
        known = packages.require("fsspec").available_protocols()
        if scheme not in known:
            raise UsageError(f"{text} is of no kind that is known: duckdb:///, postgresql:// or an fsspec address")
        return ParquetFolder(text)
    path = Path(text)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        return ParquetFolder(str(path.absolute()))
    return None


def paths(text: str) -> list[Path]:
    """The files that a text names: a file, the .jsonl and .json files of a folder, or those of a glob."""
    path = Path(text)
    try:
        if path.is_dir():
            return sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".json"))
        if not path.exists() and glob.has_magic(text):
            found = sorted(map(Path, glob.glob(text, recursive=True)))
            if not found:
                raise UsageError(f"no file fits {text}")
            return found
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return [path]


def queried(text: str) -> Tables | None:
    """The store that a text names, or large result files as one; None for files that are read whole."""
    if store := tables(text):
        return store
    lines = [path for path in paths(text) if path.suffix == ".jsonl"]
    if sum(os.path.getsize(path) for path in lines if path.is_file()) < LARGE or packages.missing("duckdb"):
        return None
    return LargeLines(lines) if all(_is_of_today(path) for path in lines) else None


def _is_of_today(path: Path) -> bool:
    """True if the first line of a result file has today's schema."""
    try:
        with files.opened(path) as file:
            first = json.loads(file.readline(files.MOST_LINE))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.get("schema") == SCHEMA


def stored_rows(text: str) -> list[tuple[str, Row]]:
    """All rows of a place, each with the name of its run. Raises UsageError for what cannot be read."""
    if store := tables(text):
        return store.rows()
    found = []
    if not (named_files := paths(text)):
        raise UsageError(f"no .jsonl or .json file in {text}")
    for path in named_files:
        # What --format json printed is no result file: of a folder it is passed over.
        if path.suffix != ".json" or not Path(text).is_dir():
            rows = read(path)
            name = run_name(path, rows)
            found += [(name, row) for row in rows]
    return found


def matching_rows(asked: Sequence[str], wanted: Where) -> list[Row]:
    """Rows of several places that have one of the values of each key; of a store only those are read."""
    found = []
    for text in asked:
        stored = store.rows(wanted) if (store := queried(text)) else stored_rows(text)
        found += [row for _, row in stored if all(str(row.get(key)) in values for key, values in wanted.items())]
    return found


def run_name(path: Path, rows: Sequence[Row]) -> str:
    """Name of a run in a store: its file and the moment of its first row."""
    first = next((row["measured_at"] for row in rows if row.get("measured_at")), "")
    return " ".join(filter(None, [path.name, str(first)[:19]]))


def push(rows: Sequence[tuple[str, Row]], to: str) -> Pushed:
    """Add rows to a place, a result file or a store, leaving out those it holds."""
    if store := tables(to):
        return store.push(rows)
    path = Path(to)
    if path.suffix != ".jsonl":
        raise UsageError(f"{to} is no store: a .jsonl file, a .parquet folder, duckdb:///FILE or postgresql://…")
    require_writable(path)
    held = {row_id(row) for row in read(path)} if path.exists() else set()
    new = {id: row for _, row in rows if (id := row_id(row)) not in held}
    for row in new.values():
        append_line(path, row)
    return Pushed(len(new), len(rows) - len(new))


def named(asked: Sequence[str]) -> list[str]:
    """Places that a command reads: those asked for, else $CONVBENCH_STORE, else the folder results."""
    if asked:
        return list(asked)
    if own := os.environ.get(ENVIRONMENT):
        return [own]
    if Path(USUAL).is_dir():
        return [USUAL]
    raise UsageError(f"no stored rows: give --store, or set ${ENVIRONMENT}")


def checked(text: str) -> list[tuple[str, Any]]:
    """Figures of a place after every row in it was read."""
    rows = stored_rows(text)
    if store := tables(text):
        return [*store.check(), ("runs", len({run for run, _ in rows}))]
    kinds = [row["kind"] for _, row in rows]
    found = [(f"rows of {kind}", kinds.count(kind)) for kind in dict.fromkeys(kinds)]
    twice = len(rows) - len({row_id(row) for _, row in rows})
    return [*found, ("rows that are there twice", twice), ("runs", len({run for run, _ in rows}))]
