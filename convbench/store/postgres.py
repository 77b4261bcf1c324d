"""Postgres, for several writers at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .. import packages
from ..errors import UsageError, first_line
from .duck import environments_of
from .identity import COLUMNS, flat
from .tables import CREATE, ENVIRONMENTS, LAYOUT, QUOTED, ROWS, Ask, Pushed, Row, Tables, batches, migrate

LAYOUTS: tuple[tuple[str, ...], ...] = (
    CREATE,
    (
        f'CREATE UNIQUE INDEX {ROWS}_id ON {ROWS} ("id")',
        f"CREATE UNIQUE INDEX {ENVIRONMENTS}_id ON {ENVIRONMENTS} (id)",
        f'CREATE INDEX {ROWS}_model ON {ROWS} ("model", "measured_at")',
    ),
)
"""Statements of each step from an empty database to today's layout."""

CONNECT_S = 5
STATEMENT_S = 120
LOCK = 0x636F6E76  # number of the advisory lock under which the layout is changed


class Postgres(Tables):
    """A database that its address names. Passwords: in the address, $PGPASSWORD or ~/.pgpass."""

    extract = "(CAST({0} AS json) #>> '{{{1}}}')"

    def __init__(self, address: str) -> None:
        self.address, self.name = address, without_password(address)

    @contextmanager
    def asking(self) -> Iterator[Ask]:
        with self._connected() as connection:
            ask = self._asked(connection)
            if not self._is_made(ask):
                raise UsageError(f"{self.name} is a database without rows of convbench")
            yield ask

    def push(self, rows: Sequence[tuple[str, Row]]) -> Pushed:
        added = 0
        with self._connected() as connection:
            ask = self._asked(connection)
            with connection.transaction():
                ask("SELECT pg_advisory_xact_lock(?)", [LOCK])  # two writers may find an empty database at one time
                migrate(ask, LAYOUTS, self._is_made(ask), self.name)
            for part in batches(rows):
                with connection.transaction():
                    added += self._insert(connection, part)
        return Pushed(added, len(rows) - added)

    def _insert(self, connection: Any, rows: Sequence[tuple[str, Row]]) -> int:
        columns = ", ".join(QUOTED.values())
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TEMP TABLE given (LIKE {ROWS}) ON COMMIT DROP")
            with cursor.copy(f"COPY given ({columns}) FROM STDIN") as copied:
                for run, row in rows:
                    copied.write_row(_as_numbers(flat(row, run)))
            cursor.executemany(
                f"INSERT INTO {ENVIRONMENTS} VALUES (%s, %s) ON CONFLICT DO NOTHING",
                sorted(environments_of(rows).items()),  # in one order: two writers do not wait for each other
            )
            cursor.execute(
                f'INSERT INTO {ROWS} ({columns}) SELECT {columns} FROM given ORDER BY "id" ON CONFLICT DO NOTHING'
            )
            return int(cursor.rowcount)

    def _is_made(self, ask: Ask) -> bool:
        return ask("SELECT to_regclass(?)", [LAYOUT])[0][0] is not None

    def _asked(self, connection: Any) -> Ask:
        def ask(query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            done = connection.execute(query.replace("?", "%s"), list(parameters))
            return done.fetchall() if done.description else []

        return ask

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        psycopg = packages.require("psycopg")
        limits = f"-c statement_timeout={STATEMENT_S}s -c lock_timeout={STATEMENT_S}s"
        try:
            with psycopg.connect(
                self.address, connect_timeout=CONNECT_S, options=limits, tcp_user_timeout=1000 * STATEMENT_S
            ) as connection:
                connection.autocommit = True
                yield connection
        except (psycopg.Error, ValueError) as error:
            raise UsageError(f"cannot use {self.name}: {_said(error, self.address)}") from None


def _as_numbers(values: Sequence[Any]) -> list[Any]:
    """Values for COPY: what a column of numbers gets is a number in Python too, such as 1.0 for 1."""
    return [
        float(value) if kind == "DOUBLE PRECISION" and value is not None else value
        for value, kind in zip(values, COLUMNS.values(), strict=True)
    ]


def without_password(address: str) -> str:
    """The address with stars in place of a password."""
    try:
        parts = urlsplit(address)
        if parts.password is None:
            return address
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"))
    except ValueError:
        return "postgresql://…"


def _said(error: BaseException, address: str) -> str:
    """First line of the driver's error, without the password, which it may repeat."""
    try:
        password = urlsplit(address).password
    except ValueError:
        return "not an address: postgresql://USER@HOST:PORT/DATABASE"
    text = first_line(error)
    return text.replace(password, "***") if password else text
