"""Postgres as a store: several writers, a server that dies, layouts of earlier and later versions."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgres_server
import psycopg
import pytest
from stored import measured, write_lines

from convbench.errors import UsageError
from convbench.schema import Measurement
from convbench.store import Results, places, read
from convbench.store.identity import row_id
from convbench.store.mirror import Mirror
from convbench.store.postgres import LAYOUTS, Postgres, without_password

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(postgres_server.MISSING is not None, reason=str(postgres_server.MISSING))


@pytest.fixture(scope="module")
def server() -> Iterator[postgres_server.Server]:
    with postgres_server.running() as server:
        yield server


@pytest.fixture
def store(server: postgres_server.Server) -> Postgres:
    """The store, empty."""
    with psycopg.connect(server.address, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return Postgres(server.address)


def rows(writer: str, count: int) -> list[dict[str, Any]]:
    stamps = [f"2026-11-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}" for number in range(count)]
    return [
        measured("dico_s", 10 + number / count, block_s=[0.1], weights=writer, measured_at=f"{stamp}:00+00:00")
        for number, stamp in enumerate(stamps)
    ]


@pytest.mark.slow
def test_two_writers_lose_and_double_nothing(store: Postgres, tmp_path: Path) -> None:
    """10,000 rows: each pushes 4,750 of its own and 500 that the other pushes too, into an empty database."""
    shared = rows("both", 500)
    own = {name: rows(name, 4750) for name in "ab"}
    writers = []
    for name, given in own.items():
        file = write_lines(tmp_path / f"{name}.jsonl", [*given[:2500], *shared, *given[2500:]])
        command = [sys.executable, "-m", "convbench", "store", "push", str(file), "--to", store.address]
        writers.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    said = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    figures = dict(store.check())
    assert figures == {
        "rows of throughput": 10_000,
        "environments": 1,
        "rows that are there twice": 0,
        "rows without their environment": 0,
    }
    with store.asking() as ask:
        held = {id for (id,) in ask('SELECT "id" FROM convbench_rows')}
    assert held == {row_id(row) for row in (*own["a"], *own["b"], *shared)}
    assert store.push([("again", row) for row in shared]).added == 0


def test_what_is_read_back_is_what_was_pushed(store: Postgres) -> None:
    given = [
        *rows("a", 3),
        measured("dic_s", reason='a "quote", ×, \\u0000', environment={"cpu": "Größe\0", "gpus": []}),
    ]
    assert store.push([("run", row) for row in given]).added == 4
    back = [row for _, row in store.rows()]
    assert sorted(back, key=row_id) == sorted(given, key=row_id)
    beside = store.rows({"model": ["dic_s"], "batch": ["1"]})  # and those of the same run and conditions
    assert sorted(row["model"] for _, row in beside) == ["dic_s", "dico_s", "dico_s", "dico_s"]
    assert store.rows({"model": ["dic_s"], "batch": ["2"]}) == []
    points, environments = store.series("images_per_s", {"model": ["dico_s"], "threads": ["1"]})
    assert [point.value for point in points] == [row["images_per_s"] for row in given[:3]]
    assert environments[points[0].environment] == given[0]["environment"]


def test_a_server_that_dies_leaves_every_row_on_the_disk(
    server: postgres_server.Server, store: Postgres, tmp_path: Path
) -> None:
    file = tmp_path / "run.jsonl"
    results = Results(file)
    mirror = Mirror(results, server.address)
    mirror_rows = [Measurement.from_json(row) for row in rows("a", 6)]
    for number, row in enumerate(mirror_rows):
        if number == 3:
            server.kill()
        results.add(row)
    assert len(read(file)) == 6
    said = mirror.finish()
    assert said is not None and said.startswith(f"3 rows are in {file} but not in the store (cannot use postgresql://")
    command = said.partition("Push them later: ")[2]
    assert command == f"convbench store push {file} --to {server.address}"
    server.start()
    assert len(store.rows()) == 3
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "3 rows added, 3 were there\n")
    assert {row_id(row) for _, row in store.rows()} == {row_id(row) for row in read(file)}


def test_a_store_of_the_first_layout_is_migrated(store: Postgres) -> None:
    """Its tables had no index, and so no row was known to be there."""
    indexes = "SELECT count(*) FROM pg_indexes WHERE tablename IN ('convbench_rows', 'convbench_environments')"
    with psycopg.connect(store.address, autocommit=True) as connection:
        for statement in ("CREATE TABLE convbench_layout AS SELECT 1 AS version", *LAYOUTS[0]):
            connection.execute(statement)
        assert connection.execute(indexes).fetchall() == [(0,)]
    assert store.push([("run", row) for row in rows("a", 3)[:2]]).added == 2
    with store.asking() as ask:
        assert ask("SELECT version FROM convbench_layout") == [(len(LAYOUTS),)]
        assert ask(indexes) == [(3,)]
    assert store.push([("run", row) for row in rows("a", 3)]).added == 1


def test_a_store_of_a_newer_convbench_is_refused(store: Postgres) -> None:
    store.push([("run", row) for row in rows("a", 1)])
    with store.asking() as ask:
        ask("UPDATE convbench_layout SET version = 99")
    with pytest.raises(UsageError, match="made by a newer convbench"):
        store.push([("run", row) for row in rows("b", 1)])


def test_a_password_is_never_shown() -> None:
    address = "postgresql://me:s3cret@127.0.0.1:1/db"
    assert without_password(address) == "postgresql://me:***@127.0.0.1:1/db"
    with pytest.raises(UsageError) as error:
        places.stored_rows(address)
    assert "s3cret" not in str(error.value) and "\n" not in str(error.value)


def test_values_are_never_part_of_the_query(store: Postgres) -> None:
    store.push([("run", row) for row in rows("a", 1)])
    assert store.rows({"model": ["x'; DROP TABLE convbench_rows; --"]}) == []
    with pytest.raises(UsageError, match="cannot be filtered by"):
        store.rows({'model" = 1; --': ["x"]})
    assert len(store.rows()) == 1
