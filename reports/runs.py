"""Stored files of every kind that convbench writes. The kind of a row is recognised here and nowhere else."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.errors import NothingMeasured, UsageError
from convbench.schema import STATUSES, Measurement
from convbench.schema.upgrade import upgraded
from convbench.store import read

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]

PLACES = {  # kind of a stored row -> the list of Runs that holds it
    "throughput": "measurements",
    "sampling": "sampling",
    "replay": "replays",
    "tf32": "tf32",
    "kernel": "kernels",
}
LISTS: tuple[tuple[str, Callable[[Row], bool]], ...] = (  # rows of a JSON list that say no kind; the first that fits
    ("audit", lambda row: "implied_flops_per_s" in row),
    ("kinds", lambda row: "kind" in row and "share" in row),
    ("modules", lambda row: "module" in row and "share" in row),
    ("counts", lambda row: "weight_bytes" in row and "macs_full" in row and "case" not in row),
)
NUMBERS = ("images_per_s", "images_per_s_low", "images_per_s_high", "latency_s_p50", "params", "macs", "limit_fraction")


@dataclass
class Runs:
    """The rows of a report's files by kind, each with the ``file`` it comes from."""

    measurements: list[Row] = field(default_factory=list)  # convbench throughput
    sampling: list[Row] = field(default_factory=list)  # convbench throughput --sampling
    replays: list[Row] = field(default_factory=list)  # convbench replay
    tf32: list[Row] = field(default_factory=list)  # convbench replay --tf32-experiment
    kernels: list[Row] = field(default_factory=list)  # convbench kernels --bench
    counts: list[Row] = field(default_factory=list)  # convbench flops --format json
    kinds: list[Row] = field(default_factory=list)  # the same with --by kind
    modules: list[Row] = field(default_factory=list)  # and with --by module
    audit: list[Row] = field(default_factory=list)  # convbench audit --format json
    notes: list[str] = field(default_factory=list)  # about the files, such as a torn last line

    @property
    def frame(self) -> "DataFrame":
        """The measurements, in the order of the files: whole numbers stay whole, unknown values are None."""
        return frame(self.measurements)

    def counted(self) -> dict[str, int]:
        """The number of rows of each kind that the files hold."""
        held = {kind: len(getattr(self, kind)) for kind in (*PLACES.values(), *(place for place, _ in LISTS))}
        return {kind: number for kind, number in held.items() if number}


def frame(rows: Sequence[Row]) -> "DataFrame":
    """Rows as a table that keeps their values as they are: whole numbers stay whole beside None."""
    import pandas

    keys = dict.fromkeys(key for row in rows for key in row) or {"file": None, **dict.fromkeys(Measurement.keys())}
    columns = {key: pandas.Series([row.get(key) for row in rows], dtype=object) for key in keys}
    return pandas.DataFrame(columns)


def records(table: "DataFrame") -> list[Row]:
    """The rows of a table made by ``frame``."""
    keys = list(table.columns)
    return [dict(zip(keys, values, strict=True)) for values in table.itertuples(index=False, name=None)]


def read_runs(paths: Iterable[Path]) -> Runs:
    """Read files, and the .jsonl and .json files of folders.

    Raises:
        UsageError: a file that cannot be read, that convbench did not write, or that a newer convbench wrote.
        NothingMeasured: the files hold no row.
    """
    runs = Runs()
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise UsageError(f"no .jsonl or .json file in {', '.join(map(str, paths))}")
    for file in dict.fromkeys(files):
        rows, torn = _rows(file)
        if torn:
            runs.notes.append(f"{file}: left out its last line, which is incomplete (the run was killed)")
        elif not rows:
            runs.notes.append(f"{file} is empty")
        for number, row in enumerate(rows, start=1):
            _place(runs, row, file, number)
    if not runs.counted():
        raise NothingMeasured(f"no measurement in {', '.join(map(str, files))}")
    return runs


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".json"))
    return [path]


def _rows(file: Path) -> tuple[list[Row], bool]:
    """The rows of a file; True if its last line is torn."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    if not content.lstrip().startswith(b"["):
        return read(file), not content.endswith(b"\n") and bool(content)
    try:
        rows = json.loads(content)
    except ValueError:
        raise UsageError(f"{file} is not JSON: not a file of convbench, or cut off") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{file} is not a list of rows: not a file of convbench")
    stored = [row for row in rows if "case" in row or "sampling_case" in row]
    return upgraded(rows) if len(stored) == len(rows) else rows, False


def _place(runs: Runs, row: Row, file: Path, number: int) -> None:
    place = PLACES.get(row.get("kind", "")) or next((place for place, fits in LISTS if fits(row)), None)
    if place is None:
        raise UsageError(f"{file} row {number} is not a row of convbench: {', '.join(list(row)[:4])} …")
    row = {"file": str(file), **row}
    if place == "measurements":
        row = {"file": str(file), **dict.fromkeys(Measurement.keys()), **row}
        if wrong := _wrong(row):
            raise UsageError(f"{file} row {number} has {wrong}: not a result file of convbench")
    getattr(runs, place).append(row)


def _wrong(row: Row) -> str | None:
    """The first impossible value of a measurement; None if there is none."""
    if row["status"] not in STATUSES:
        return f"status {row['status']!r}"
    if not isinstance(row["model"], str):
        return f"model {row['model']!r}"
    numbers = ("res", "batch", *(key for key in NUMBERS if row[key] is not None or _measured(row, key)))
    bad = [key for key in numbers if not isinstance(row[key], int | float) or isinstance(row[key], bool)]
    return f"{bad[0]} {row[bad[0]]!r}" if bad else None


def _measured(row: Row, key: str) -> bool:
    return row["status"] == "ok" and key.startswith("images_per_s")
