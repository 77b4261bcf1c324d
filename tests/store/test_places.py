"""Places of stored rows: DuckDB, Parquet, large files; what is pushed is read back, once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from stored import MACHINE, measured, write_lines

from convbench.errors import UsageError
from convbench.schema import Measurement
from convbench.store import Results, places, read
from convbench.store.identity import COLUMNS, environment_id, row_id
from convbench.store.mirror import Mirror
from convbench.store.tables import AT_ONCE

ROOT = Path(__file__).parents[2]
KINDS = ("duckdb", "parquet", "fsspec", "lines")


def address(kind: str, folder: Path) -> str:
    return {
        "duckdb": f"duckdb:///{folder}/all.db",
        "parquet": f"{folder}/all.parquet",
        "fsspec": f"memory://{folder.name}/history",
        "lines": f"{folder}/all.jsonl",
    }[kind]


def rows(count: int = 3, **known: Any) -> list[dict[str, Any]]:
    return [
        measured("dico_s", 10.0 + number, batch=1 + number % 2, measured_at=f"2026-11-{number + 1:02d}", **known)
        for number in range(count)
    ]


def named(given: list[dict[str, Any]], run: str = "run") -> list[tuple[str, dict[str, Any]]]:
    return [(run, row) for row in given]


def in_order(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=row_id)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_pushed_twice_is_stored_once_and_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    to = address(kind, tmp_path)
    given = [*rows(), measured("dic_s", reason='a "quote", ×', threads=None, device="cuda", environment={"gpus": []})]
    first, again = places.push(named(given[:2]), to), places.push(named(given), to)
    assert [(done.added, done.held) for done in (first, again)] == [(2, 0), (2, 2)]
    assert in_order([row for _, row in places.stored_rows(to)]) == in_order(given)
    assert dict(places.checked(to))["rows that are there twice"] == 0
    assert dict(places.checked(to))["rows of throughput"] == 4


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_a_filter_keeps_what_fits_and_what_a_report_compares_it_with(kind: str, tmp_path: Path) -> None:
    store = places.tables(address(kind, tmp_path))
    assert store
    fast, slow = rows(2), [row | {"model": "dit_xl_2", "case": "x" + row["case"]} for row in rows(2)]
    store.push(named([*fast, *slow]))
    store.push(named([row | {"measured_at": "2025"} for row in slow], "another run"))
    found = [(run, row["model"], row["batch"]) for run, row in store.rows({"model": ["dico_s"], "batch": ["2"]})]
    assert found == [("run", "dico_s", 2), ("run", "dit_xl_2", 2)] or found == [
        ("run", "dit_xl_2", 2),
        ("run", "dico_s", 2),
    ]
    assert store.values("batch") == ["1", "2"]
    assert store.rows({"batch": ["many"]}) == []
    points, environments = store.series("images_per_s", {"model": ["dico_s"]})
    assert [point.value for point in points] == [10.0, 11.0]
    assert environments == {environment_id(MACHINE): MACHINE}


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_a_metric_that_has_no_column_is_found_in_the_row(kind: str, tmp_path: Path) -> None:
    store = places.tables(address(kind, tmp_path))
    assert store
    given = [row | {"mfu": 0.25, "load": {"frequency_hz": 2.5e9}} for row in rows(2)]
    given[1] |= {"mfu": None}
    store.push(named(given))
    points, _ = store.series("mfu", {})
    assert [(point.value, point.clock_hz) for point in points] == [(0.25, 2.5e9)]
    with pytest.raises(UsageError, match="unknown metric"):
        store.series("mfu' FROM x", {})


def test_large_files_give_the_rows_that_reading_them_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_lines(tmp_path / "run.jsonl", rows(6))
    assert places.queried(str(file)) is None
    monkeypatch.setattr(places, "LARGE", 10)
    large = places.queried(str(tmp_path))
    assert large
    assert [row for _, row in large.rows()] == read(file)
    assert [row["batch"] for _, row in large.rows({"batch": ["2"]})] == [2, 2, 2]
    points, environments = large.series("latency_s_p50", {"model": ["dico_s"], "batch": ["1"]})
    assert [point.value for point in points] == [row["latency_s_p50"] for row in rows(6) if row["batch"] == 1]
    assert list(environments.values()) == [MACHINE]
    write_lines(file, [row | {"schema": 1} for row in rows(2)])
    assert places.queried(str(file)) is None  # ratios of schema 1 need the whole file


def test_a_push_of_more_rows_than_fit_into_one_transaction(tmp_path: Path) -> None:
    store = places.tables(address("duckdb", tmp_path))
    assert store
    given = [each | {"case": f"case {number}"} for number in range(AT_ONCE + 5) for each in rows(1)]
    assert store.push(named([*given, *given[:3]])).added == AT_ONCE + 5
    assert dict(store.check())["rows of throughput"] == AT_ONCE + 5


def test_two_parquet_files_with_a_row_in_both_give_it_once(tmp_path: Path) -> None:
    """As two pushes at one time leave them."""
    folder = tmp_path / "all.parquet"
    places.push(named(rows(2)), str(folder))
    (file,) = folder.glob("*.parquet")
    places.push(named(rows(3)[1:]), str(tmp_path / "other.parquet"))
    (other,) = (tmp_path / "other.parquet").glob("*.parquet")
    other.rename(folder / other.name)
    assert file != other
    assert len(places.stored_rows(str(folder))) == 3
    store = places.tables(str(folder))
    assert store and len(store.series("images_per_s", {})[0]) == 3


def test_identity_is_of_case_machine_moment_and_samples() -> None:
    (row,) = rows(1)
    other = [row | {"case": "x"}, row | {"environment": {}}, row | {"measured_at": "y"}, row | {"block_s": [0.2]}]
    assert len({row_id(each) for each in [row, *other]}) == 5
    assert row_id(row) == row_id(json.loads(json.dumps(row)) | {"key_of_a_later_version": None, "ratio": 2.0})


def test_a_mirror_pushes_each_row_after_it_is_on_the_disk(tmp_path: Path) -> None:
    results = Results(tmp_path / "run.jsonl")
    to = address("duckdb", tmp_path)
    mirror = Mirror(results, to)
    for number, row in enumerate(rows(2), start=1):
        results.add(Measurement.from_json(row))
        assert len(read(tmp_path / "run.jsonl")) == len(places.stored_rows(to)) == number
    assert mirror.finish() is None
    assert {run for run, _ in places.stored_rows(to)} == {"run.jsonl 2026-11-01"}


def test_a_database_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1")
    with pytest.raises(UsageError, match="without rows of convbench"):
        places.stored_rows(f"duckdb:///{path}")


def test_views_of_a_database_cannot_read_files_of_this_machine(tmp_path: Path) -> None:
    """A file of somebody else's may name its views as our tables."""
    secret = tmp_path / "secret.csv"
    secret.write_text("body\nsecret\n")
    path = tmp_path / "x.db"
    nulls = ", ".join(f'NULL AS "{key}"' for key in COLUMNS if key != "body")
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"CREATE VIEW convbench_rows AS SELECT {nulls}, body FROM read_csv('{secret}')")
        connection.execute("CREATE TABLE convbench_environments (id VARCHAR, body VARCHAR)")
    with pytest.raises(UsageError) as error:
        places.stored_rows(f"duckdb:///{path}")
    assert "without rows of convbench" in str(error.value) and "secret\n" not in str(error.value)


BAD = {
    "not JSON": "{",
    "not an object": "[1]",
    "an unknown kind": '{"schema": 2, "kind": "poem", "case": "x"}',
    "a speed that is a text": json.dumps({"schema": 2, "kind": "throughput", "case": "x", "images_per_s": "fast"}),
    "of a newer convbench": '{"schema": 99, "kind": "throughput", "case": "x"}',
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_of_a_store_is_one_line(name: str, tmp_path: Path) -> None:
    to = address("duckdb", tmp_path)
    places.push(named(rows(1)), to)
    with duckdb.connect(str(tmp_path / "all.db")) as connection:
        connection.execute("UPDATE convbench_rows SET body = ?", [BAD[name]])
    with pytest.raises(UsageError) as error:
        places.stored_rows(to)
    assert str(error.value).startswith(to) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("duckdb://x", "names no file"),
        ("duckdb:///", "names no file"),
        ("nonsense://x", "of no kind that is known"),
        ("nothing-*.jsonl", "no file fits"),
        ("nowhere.jsonl", "No such file"),
        ("duckdb:///nowhere.db", "No such file"),
        ("nowhere.parquet", "no .parquet file in"),
        ("postgresql://h:x/y", "cannot use postgresql://"),
    ],
)
def test_a_place_that_is_none_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        places.stored_rows(text)
    assert "\n" not in str(error.value)


def test_a_folder_of_lines_is_no_place_to_push_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no store"):
        places.push(named(rows(1)), str(tmp_path))


def convbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convbench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_push_report_compare_and_pull(tmp_path: Path) -> None:
    to = address("duckdb", tmp_path)
    slower = [row | {key: row[key] / 2 for key in row if key.startswith("images_per_s")} for row in rows(2)]
    files = [write_lines(tmp_path / f"{name}.jsonl", given) for name, given in {"a": rows(2), "b": slower}.items()]
    assert convbench("store", "push", files[0], "--to", to).stderr == "2 rows added, 0 were there\n"
    table = convbench("report", to, "--where", "batch=2", "--format", "json")
    assert [row["images_per_s"] for row in json.loads(table.stdout)] == [11.0], table.stderr
    compared = convbench("compare", to, files[1], "--fail-above", "3%", "--format", "json")
    assert (compared.returncode, [row["ratio"] for row in json.loads(compared.stdout)]) == (1, [0.5, 0.5])
    none = convbench("report", to, "--where", "batch=7")
    assert (none.returncode, none.stderr) == (2, "convbench: no row has batch=7: there are 1, 2\n")
    pulled = convbench("store", "pull", to, "--where", "batch=1", "--out", tmp_path / "c.jsonl")
    assert (pulled.returncode, read(tmp_path / "c.jsonl")) == (0, rows(1)), pulled.stderr
    checked = convbench("store", "check", to, "--format", "json")
    assert checked.returncode == 0 and {"what": "rows of throughput", "value": 2} in json.loads(checked.stdout)
