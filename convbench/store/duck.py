"""DuckDB: a database file, Parquet files and JSON lines where they lie."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import files, packages
from ..errors import UsageError, first_line
from ..schema import Second
from .identity import COLUMNS, NUMBER, canonical, environment_id, row_id
from .tables import (
    CREATE,
    ENVIRONMENTS,
    LAYOUT,
    QUOTED,
    ROWS,
    Ask,
    Pushed,
    Row,
    Tables,
    Where,
    batches,
    flat_columns,
    migrate,
)

LAYOUTS: tuple[tuple[str, ...], ...] = (CREATE,)
"""Statements of each step from an empty file to today's layout."""

LOCKED_S: Second = 30.0  # waited for another process that writes
CLOSED = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}  # nothing is fetched
MEMORY = "4GB"


def _asked(connection: Any, name: str) -> Ask:
    duckdb = packages.require("duckdb")

    def ask(query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            found: list[tuple[Any, ...]] = connection.execute(query, list(parameters)).fetchall()
        except duckdb.Error as error:
            raise UsageError(f"cannot use {name}: {first_line(error)}") from None
        return found

    return ask


class DuckFile(Tables):
    """A DuckDB database file. One process writes at a time; others wait."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, f"duckdb:///{path}"

    @contextmanager
    def asking(self) -> Iterator[Ask]:
        if not self.path.is_file():
            raise UsageError(f"cannot read {self.path}: No such file or directory")
        with self._open(read_only=True) as ask:
            self._require_tables(ask)
            yield ask

    def push(self, rows: Sequence[tuple[str, Row]]) -> Pushed:
        files.require_writable(self.path)
        before = 0
        with self._open(read_only=False) as ask:
            ask("BEGIN")
            migrate(ask, LAYOUTS, self._is_made(ask), self.name)
            self._require_tables(ask)
            before = ask(f"SELECT count(*) FROM {ROWS}")[0][0]
            for part in batches(rows):
                _insert(ask, part)
            after = ask(f"SELECT count(*) FROM {ROWS}")[0][0]
            ask("COMMIT")
        return Pushed(after - before, len(rows) - (after - before))

    @contextmanager
    def _open(self, read_only: bool) -> Iterator[Ask]:
        duckdb = packages.require("duckdb")
        # A file may hold views and macros of its maker: with this setting they cannot read other files.
        settings = CLOSED | {"enable_external_access": False, "memory_limit": MEMORY}
        ends = time.monotonic() + LOCKED_S
        while True:
            try:
                connection = duckdb.connect(str(self.path), read_only=read_only, config=settings)
                break
            except duckdb.Error as error:
                if "lock" not in str(error).lower() or time.monotonic() > ends:
                    raise UsageError(f"cannot open {self.path}: {first_line(error)}") from None
                time.sleep(0.05)
        try:
            yield _asked(connection, self.name)
        finally:
            connection.close()

    def _is_made(self, ask: Ask) -> bool:
        return bool(ask("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [LAYOUT]))

    def _require_tables(self, ask: Ask) -> None:
        """Raise UsageError unless the file has our tables, as tables and with our columns."""
        found = ask("SELECT table_name FROM duckdb_tables() WHERE table_name IN (?, ?)", [ROWS, ENVIRONMENTS])
        columns = ask("SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [ROWS])
        if len(found) != 2 or not {name for (name,) in columns} >= set(COLUMNS):
            raise UsageError(f"{self.path} is a database without rows of convbench")


def _insert(ask: Ask, rows: Sequence[tuple[str, Row]]) -> None:
    """Insert those rows, and their environments, that are not there."""
    selected = ", ".join(f"unnest(?::{_type(kind)}[]) AS {QUOTED[key]}" for key, kind in COLUMNS.items())
    columns = ", ".join(QUOTED.values())
    ask(
        f"INSERT INTO {ROWS} SELECT {columns} FROM (SELECT {selected}) AS given "
        f'WHERE "id" NOT IN (SELECT "id" FROM {ROWS}) QUALIFY row_number() OVER (PARTITION BY "id") = 1',
        flat_columns(rows),
    )
    environments = environments_of(rows)
    ask(
        f"INSERT INTO {ENVIRONMENTS} SELECT * FROM (SELECT unnest(?::VARCHAR[]) AS id, unnest(?::VARCHAR[])) AS given "
        f"WHERE id NOT IN (SELECT id FROM {ENVIRONMENTS})",
        [list(environments), list(environments.values())],
    )


def _type(kind: str) -> str:
    return "DOUBLE" if kind == NUMBER else kind


def environments_of(rows: Sequence[tuple[str, Row]]) -> dict[str, str]:
    """The environments of rows, as JSON, by their ids."""
    found = [row.get("environment") or {} for _, row in rows]
    return {environment_id(each): canonical(each) for each in found}


class ParquetFolder(Tables):
    """A folder of Parquet files, local or at an fsspec address. Every push adds a file; nothing is written twice."""

    def __init__(self, address: str) -> None:
        self.name = address
        try:
            fsspec = packages.require("fsspec")
            self.system, self.folder = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError, OSError) as error:
            raise UsageError(f"cannot open {address}: {first_line(error)}") from None
        protocol = self.system.protocol
        self.protocol = protocol if isinstance(protocol, str) else protocol[0]

    def held(self) -> list[str]:
        """The files of the folder."""
        try:
            if self.system.isfile(self.folder):
                return [self.folder]
            return sorted(self.system.glob(f"{self.folder.rstrip('/')}/**/*.parquet"))
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {first_line(error)}") from None

    @contextmanager
    def asking(self) -> Iterator[Ask]:
        if not (held := self.held()):
            raise UsageError(f"no .parquet file in {self.name}")
        with self._connected() as ask:
            listed = ", ".join(_literal(self._address(file)) for file in held)
            both = f"read_parquet([{listed}], union_by_name = true)"
            columns = ", ".join(QUOTED.values())
            ask(f"CREATE TEMP VIEW {ROWS} AS SELECT {columns} FROM {both}")
            ask(
                f'CREATE TEMP VIEW {ENVIRONMENTS} AS SELECT "environment" AS id, min("environment_body") AS body '
                f"FROM {both} GROUP BY 1"
            )
            yield ask

    def rows(self, where: Where | None = None) -> list[tuple[str, Row]]:
        # Two pushes at one time may have written a row into two files.
        return list({row_id(row): (run, row) for run, row in super().rows(where)}.values())

    def push(self, rows: Sequence[tuple[str, Row]]) -> Pushed:
        known: set[str] = set()
        if self.held():
            with self.asking() as ask:
                known = {id for (id,) in ask(f'SELECT "id" FROM {ROWS}')}
        new = {id: each for each in rows if (id := row_id(each[1])) not in known}
        if new:
            self._write(sorted(new), list(new.values()))
        return Pushed(len(new), len(rows) - len(new))

    def _write(self, ids: list[str], rows: list[tuple[str, Row]]) -> None:
        # The same rows get the same name: a push that is repeated or that two make at once changes nothing.
        file = f"{self.folder.rstrip('/')}/rows-{environment_id({'ids': ids})}.parquet"
        bodies = environments_of(rows)
        selected = ", ".join(f"unnest(?::{_type(kind)}[]) AS {QUOTED[key]}" for key, kind in COLUMNS.items())
        values = flat_columns(rows)
        environments = [bodies[id] for id in values[list(COLUMNS).index("environment")]]
        part = f"{file}.{time.time_ns()}.part"
        try:
            self.system.makedirs(self.folder, exist_ok=True)
            with self._connected() as ask:
                ask(
                    f"COPY (SELECT {selected}, unnest(?::VARCHAR[]) AS environment_body) "
                    f"TO {_literal(self._address(part))} (FORMAT parquet, COMPRESSION zstd)",
                    [*values, environments],
                )
            self.system.mv(part, file)
        except OSError as error:
            raise UsageError(f"cannot write {self.name}: {first_line(error)}") from None

    def _address(self, path: str) -> str:
        return path if self.protocol in ("file", "local") else f"{self.protocol}://{path}"

    @contextmanager
    def _connected(self) -> Iterator[Ask]:
        duckdb = packages.require("duckdb")
        connection = duckdb.connect(config=CLOSED | {"memory_limit": MEMORY})
        try:
            if self.protocol not in ("file", "local"):
                connection.register_filesystem(self.system)
            yield _asked(connection, self.name)
        finally:
            connection.close()


class LargeLines(Tables):
    """Result files of schema 2 that are too large to be read whole: DuckDB finds the lines that are wanted."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.name = ", ".join(map(str, self.paths[:3])) + (" …" if len(self.paths) > 3 else "")

    @contextmanager
    def asking(self) -> Iterator[Ask]:
        duckdb = packages.require("duckdb")
        connection = duckdb.connect(config=CLOSED | {"memory_limit": MEMORY})
        try:
            ask = _asked(connection, self.name)
            listed = ", ".join(_literal(str(path)) for path in self.paths)
            source = f"read_ndjson_objects([{listed}], maximum_object_size = {files.MOST_LINE}, filename = true)"
            special = {"id": "''", "run": "filename", "environment": "md5(json->'$.environment')", "body": "json"}
            plain = {key: f"CAST(json->>'$.{key}' AS {_type(kind)})" for key, kind in COLUMNS.items()}
            selected = ", ".join(f"{sql} AS {QUOTED[key]}" for key, sql in (plain | special).items())
            ask(f"CREATE TEMP VIEW {ROWS} AS SELECT {selected} FROM {source}")
            ask(
                f"CREATE TEMP VIEW {ENVIRONMENTS} AS SELECT md5(body) AS id, body FROM "
                f"(SELECT DISTINCT CAST(json->'$.environment' AS VARCHAR) AS body FROM {source})"
            )
            yield ask
        finally:
            connection.close()


def _literal(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"
