#!/usr/bin/env python3
"""Time a filtered table and a history over a store of a million rows: the figures of docs/howto/keep-history.md.

    python scripts/store_timings.py [ROWS]

Rows are those of results/ with other speeds and dates: every case on each of 1,000 days, in as many runs as it takes.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import duckdb  # noqa: E402

from convbench.reports.history import history  # noqa: E402
from convbench.reports.runs import read_runs  # noqa: E402
from convbench.store import places  # noqa: E402
from convbench.store.tables import QUOTED, ROWS  # noqa: E402

ROWS_WANTED = 1_000_000
DAYS = 1000


def fill(path: Path, wanted: int) -> int:
    """Write a DuckDB file with at least so many rows. Returns their number."""
    rows = [each for each in places.stored_rows(str(ROOT / "results")) if each[1]["verdict"] == "VALID"]
    places.push(rows, f"duckdb:///{path}")
    runs = -(-wanted // (len(rows) * DAYS))
    changed = {
        "id": "md5(id || '-' || day || '-' || again)",
        "run": "run || '-' || day || '-' || again",
        "model": "CASE WHEN again % 10 = 0 THEN model ELSE model || '@' || again END",
        "case": 'CASE WHEN again % 10 = 0 THEN "case" ELSE again || "case" END',
        "measured_at": "strftime(DATE '2024-01-01' + CAST(day AS INTEGER), '%Y-%m-%d') || 'T00:00:00+00:00'",
        "images_per_s": "images_per_s * (0.995 + (hash(day) % 100) / 1e4) * CASE WHEN day > 700 THEN 0.9 ELSE 1 END",
    }
    columns = ", ".join(f"{changed.get(key, name)} AS {name}" for key, name in QUOTED.items())
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"CREATE TABLE few AS SELECT * FROM {ROWS}; DELETE FROM {ROWS}")
        connection.execute(
            f"INSERT INTO {ROWS} SELECT {columns} FROM few, range({DAYS}) AS days(day), range({runs}) AS times(again) "
            "ORDER BY day"
        )
        connection.execute("DROP TABLE few; CHECKPOINT")
        (count,) = connection.execute(f"SELECT count(*) FROM {ROWS}").fetchall()
    return int(count[0])


def timed(what: str, call: object) -> None:
    """Print the seconds of a call, on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    said = call()  # type: ignore[operator]
    print(f"| {what} | {time.perf_counter() - wall:.2f} | {time.process_time() - cpu:.2f} | {said} |", flush=True)


def main() -> None:
    wanted = int(sys.argv[1]) if sys.argv[1:] else ROWS_WANTED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.db"
        count = fill(path, wanted)
        size, load = path.stat().st_size / 2**20, os.getloadavg()[0]
        print(f"{count:,} rows, {size:.0f} MiB, {os.cpu_count()} cores, load {load:.1f}\n")
        print("| what | s | s of a processor | gives |\n| --- | ---: | ---: | --- |")
        place = f"duckdb:///{path}"
        store = places.tables(place)
        assert store
        timed("rows of model=dico_xl and those beside them", lambda: f"{len(store.rows({'model': ['dico_xl']}))} rows")
        timed("report --where model=dico_xl", lambda: f"{len(read_runs([place], ['model=dico_xl']).measurements)} rows")
        timed("history dic_xl", lambda: f"{len(history('dic_xl', [place], 'images_per_s', {}).rows())} steps")
        timed("history dico_s", lambda: f"{len(history('dico_s', [place], 'images_per_s', {}).rows())} steps")


if __name__ == "__main__":
    main()
