"""Rows in tables that speak SQL: what DuckDB and Postgres share. Values are parameters, never part of the SQL."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import UsageError
from ..schema import KINDS
from .identity import COLUMNS, FILTERS, WHOLE, flat
from .lines import complete, upgraded

Row = dict[str, Any]
Where = Mapping[str, Sequence[str]]
"""Values that a column may have, as texts: {"batch": ["1", "4"]}. "None" stands for a value that is not known."""

ROWS, ENVIRONMENTS, LAYOUT = "convbench_rows", "convbench_environments", "convbench_layout"
QUOTED = {key: f'"{key}"' for key in COLUMNS}
TOGETHER = ("run", "device", "res", "batch", "backend", "precision", "mode")  # rows that a report compares and ranks
METRICS = {name for kind in KINDS.values() for name in kind.keys()}  # noqa: SIM118 (of the class)
AT_ONCE = 2000  # rows of one transaction

CREATE = (
    f"CREATE TABLE {ROWS} ({', '.join(f'{QUOTED[key]} {kind}' for key, kind in COLUMNS.items())})",
    f"CREATE TABLE {ENVIRONMENTS} (id VARCHAR, body VARCHAR)",
)


class Ask(Protocol):
    """A query, with ``?`` for each parameter, to its rows."""

    def __call__(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True)
class Pushed:
    """The result of a push."""

    added: int
    held: int  # were there before


@dataclass(frozen=True)
class Point:
    """One measurement of a metric."""

    case: str
    value: float
    verdict: str | None
    measured_at: str
    environment: str  # id
    clock_hz: float | None


def migrate(ask: Ask, layouts: Sequence[Sequence[str]], exists: bool, name: str) -> None:
    """Bring a store to the layout of this convbench, one step after the other; a new one goes through all of them.

    Raises:
        UsageError: a newer convbench made the store.
    """
    if not exists:
        ask(f"CREATE TABLE {LAYOUT} (version INTEGER)")
        ask(f"INSERT INTO {LAYOUT} VALUES (0)")
    version = int(ask(f"SELECT max(version) FROM {LAYOUT}")[0][0])
    if version > len(layouts):
        raise UsageError(f"{name} was made by a newer convbench (layout {version}): upgrade")
    for statements in layouts[version:]:
        for statement in statements:
            ask(statement)
    if version < len(layouts):
        ask(f"UPDATE {LAYOUT} SET version = ?", [len(layouts)])


class Tables:
    """A place with a table of rows and one of environments."""

    name: str  # for people: without a password
    extract = "json_extract_string({0}, '$.{1}')"  # a value inside a JSON text

    def asking(self) -> AbstractContextManager[Ask]:
        """Open for reading."""
        raise NotImplementedError

    def push(self, rows: Sequence[tuple[str, Row]]) -> Pushed:
        """Add rows, each with the name of its run, that are not there yet."""
        raise NotImplementedError

    def rows(self, where: Where | None = None) -> list[tuple[str, Row]]:
        """Rows with the names of their runs, in the order of time, each checked.

        With ``where`` those that fit, and those that a report compares with them: of the same run and conditions.
        """
        condition, parameters = _condition(where or {})
        if where:
            keys = ", ".join(f"coalesce(CAST({QUOTED[key]} AS VARCHAR), '')" for key in (*TOGETHER, "threads"))
            condition = f"({keys}) IN (SELECT DISTINCT {keys} FROM {ROWS} WHERE {condition})"
        with self.asking() as ask:
            order = 'ORDER BY "measured_at", "id"'
            found = ask(f'SELECT "run", "environment", "body" FROM {ROWS} WHERE {condition} {order}', parameters)
            environments = self._environments(ask, {environment for _, environment, _ in found})
        parsed = self._parsed(found, environments)
        return list(zip([run for run, _, _ in found], complete(upgraded(parsed, self.name)), strict=True))

    def _parsed(
        self, found: Sequence[tuple[str, str, str]], environments: Mapping[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        for number, (_, environment, body) in enumerate(found, start=1):
            try:
                row = json.loads(body)
            except (ValueError, RecursionError, TypeError):
                raise UsageError(f"{self.name} row {number} is not JSON: not a store of convbench") from None
            yield number, {**row, "environment": environments.get(environment, {})} if isinstance(row, dict) else row

    def _environments(self, ask: Ask, ids: set[str]) -> dict[str, Any]:
        if not ids:
            return {}
        marks = ", ".join("?" * len(ids))
        found = ask(f"SELECT id, body FROM {ENVIRONMENTS} WHERE id IN ({marks})", sorted(ids))
        try:
            return {id: json.loads(body) for id, body in found}
        except (ValueError, RecursionError, TypeError):
            raise UsageError(f"{self.name} has an environment that is not JSON: not a store of convbench") from None

    def series(self, metric: str, where: Where) -> tuple[list[Point], dict[str, Any]]:
        """Measured values of a metric in the order of time, and their environments by id."""
        if metric not in METRICS:
            raise UsageError(f"unknown metric '{metric}'")
        value = QUOTED[metric] if metric in COLUMNS else self.extract.format(QUOTED["body"], metric)
        clocks = ", ".join(self._number(self.extract.format(QUOTED["body"], f"load.{key}")) for key in CLOCKS)
        condition, parameters = _condition(where)
        with self.asking() as ask:
            found = ask(
                f'SELECT "id", "case", {self._number(value)}, "verdict", "measured_at", "environment", '
                f"coalesce({clocks}) FROM {ROWS} WHERE {condition} AND {value} IS NOT NULL AND \"status\" = 'ok' "
                'ORDER BY "measured_at", "id"',
                parameters,
            )
            environments = self._environments(ask, {each[5] for each in found})
        # A row of Parquet files may be there twice; lines have no ids.
        points = {each[0] or position: Point(*each[1:]) for position, each in enumerate(found)}
        return list(points.values()), environments

    @staticmethod
    def _number(expression: str) -> str:
        return f"CAST({expression} AS DOUBLE PRECISION)"

    def values(self, key: str) -> list[str]:
        """The values that a column has, as texts."""
        with self.asking() as ask:
            found = ask(f"SELECT DISTINCT CAST({QUOTED[key]} AS VARCHAR) FROM {ROWS} ORDER BY 1")
        return [str(value) for (value,) in found]

    def check(self) -> list[tuple[str, int]]:
        """Figures of the store, each with what it counts. Raises UsageError for a row that cannot be read."""
        with self.asking() as ask:
            kinds = ask(f'SELECT "kind", count(*) FROM {ROWS} GROUP BY 1 ORDER BY 1')
            doubled = ask(f'SELECT count(*) FROM (SELECT "id" FROM {ROWS} GROUP BY 1 HAVING count(*) > 1) AS twice')
            lost = ask(f'SELECT count(*) FROM {ROWS} WHERE "environment" NOT IN (SELECT id FROM {ENVIRONMENTS})')
            (environments,) = ask(f"SELECT count(*) FROM {ENVIRONMENTS}")
        found = [(f"rows of {kind}", count) for kind, count in kinds]
        found += [("environments", environments[0]), ("rows that are there twice", doubled[0][0])]
        return [*found, ("rows without their environment", lost[0][0])]


CLOCKS = ("sm_clock_hz", "frequency_hz")


def _condition(where: Where) -> tuple[str, list[Any]]:
    """A condition of SQL with its parameters. Raises UsageError for a column that is not one."""
    parts, parameters = ["1 = 1"], []
    for key, wanted in where.items():
        if key not in FILTERS:
            raise UsageError(f"a store cannot be filtered by '{key}': there are {', '.join(FILTERS)}")
        values = [value for value in wanted if value != "None"]
        if COLUMNS[key] == WHOLE:
            values = [value for value in values if value.lstrip("-").isdecimal() and len(value) < 19]
        either = [f"{QUOTED[key]} IN ({', '.join('?' * len(values))})"] if values else []
        either += [f"{QUOTED[key]} IS NULL"] if "None" in wanted else []
        parts.append(f"({' OR '.join(either) or '1 = 0'})")
        parameters += [int(value) if COLUMNS[key] == WHOLE else value for value in values]
    return " AND ".join(parts), parameters


def flat_columns(rows: Sequence[tuple[str, Row]]) -> list[list[Any]]:
    """The values of ``COLUMNS`` for rows with the names of their runs, a list for each column."""
    return [list(column) for column in zip(*(flat(row, run) for run, row in rows), strict=True)]


def batches(rows: Sequence[tuple[str, Row]]) -> Iterator[Sequence[tuple[str, Row]]]:
    """Rows in parts of at most AT_ONCE."""
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]
