"""Stored files of every kind that convbench writes. The kind of a row is recognised here and nowhere else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.errors import NothingMeasured, UsageError
from convbench.files import MOST_JSON, json_value, opened, read_bytes
from convbench.schema import KINDS, Measurement
from convbench.schema.rowcheck import row_problem
from convbench.schema.typecheck import shown
from convbench.schema.upgrade import regraded, renamed
from convbench.store import places, read
from convbench.store.identity import FILTERS
from convbench.store.tables import Tables

from .listed_rows import LISTS, TYPES, incomplete, list_of, listed_problem

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]

PLACES = {  # kind of a stored row -> the list of Runs that holds it
    "throughput": "measurements",
    "sampling": "sampling",
    "quality": "qualities",
    "replay": "replays",
    "tf32": "tf32",
    "kernel": "kernels",
}


@dataclass
class Runs:
    """The rows of a report's files by kind, each with the ``file`` it comes from."""

    measurements: list[Row] = field(default_factory=list)  # convbench throughput
    sampling: list[Row] = field(default_factory=list)  # convbench throughput --sampling
    qualities: list[Row] = field(default_factory=list)  # convbench pareto
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


def read_runs(asked: Iterable[Path | str], conditions: Sequence[str] = ()) -> Runs:
    """Read files, the .jsonl and .json files of folders, and stores.

    Args:
        asked: places as ``convbench.store.places`` explains them.
        conditions: ``key=value`` texts, as of --where: of a store only the rows that meet them are read, and those that
            a report compares with them. Rows of files are all read.

    Raises:
        UsageError: a file that cannot be read, that convbench did not write, or that a newer convbench wrote.
        NothingMeasured: the files hold no row.
    """
    runs = Runs()
    texts = list(dict.fromkeys(map(str, asked)))
    stores = {text: store for text in texts if (store := places.queried(text))}
    files = [file for text in texts if text not in stores for file in places.paths(text)]
    if not files and not stores:
        raise UsageError(f"no .jsonl or .json file in {', '.join(texts)}")
    for store in stores.values():
        for number, (run, row) in enumerate(_stored(store, conditions), start=1):
            _place(runs, row, run or store.name, number, is_checked=True)
    for file in dict.fromkeys(files):
        rows, torn, is_checked = _rows(file)
        if torn:
            runs.notes.append(f"{file}: ignored its last line, which is incomplete (the run was killed)")
        elif not rows:
            runs.notes.append(f"{file} is empty")
        for number, row in enumerate(rows, start=1):
            _place(runs, row, file, number, is_checked)
    if not runs.counted():
        raise NothingMeasured(
            f"no measurement in {', '.join([*map(str, files), *(each.name for each in stores.values())])}"
        )
    return runs


def _stored(store: Tables, conditions: Sequence[str]) -> list[tuple[str, Row]]:
    """The rows of a store that meet the conditions, with those they are compared with."""
    wanted: dict[str, list[str]] = {}
    for key, equals, value in (condition.partition("=") for condition in conditions):
        if equals and key in FILTERS:
            wanted.setdefault(key, []).append(value)
    rows = store.rows(wanted)
    if not rows and wanted:
        for key, values in wanted.items():
            held = store.values(key)
            if unknown := [value for value in values if value not in held]:
                raise UsageError(
                    f"no row has {key}={unknown[0]}: there are {', '.join(each[:40] for each in held[:12])}"
                )
        raise UsageError(f"no row has {', '.join(conditions)} together")
    return rows


def _rows(file: Path) -> tuple[list[Row], bool, bool]:
    """The rows of a file, whether its last line is torn, and whether the rows have been checked."""
    start, end = _ends(file)
    if not start.lstrip().startswith(b"["):
        return read(file), not end.endswith(b"\n") and bool(end), True
    try:
        rows = json_value(read_bytes(file, MOST_JSON))
    except ValueError:
        raise UsageError(f"{file} is not JSON: not written by convbench, or truncated") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{file} is not a list of rows: not written by convbench")
    for number, row in enumerate(rows):
        if isinstance(row.get("case", row.get("sampling_case")), str):
            rows[number] = renamed(regraded(row))
    return rows, False, False


def _ends(file: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file."""
    try:
        with opened(file) as stream:
            start = stream.read(100)
            stream.seek(max(0, stream.seek(0, 2) - 1))
            return start, stream.read(1)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def _place(runs: Runs, row: Row, file: Path | str, number: int, is_checked: bool) -> None:
    kind = row.get("kind")
    stored = isinstance(kind, str) and kind in PLACES and "case" in row
    listed = None if stored else list_of(row)
    if not stored and listed is None:
        raise UsageError(f"{file} row {number} is not a row of convbench: {', '.join(map(shown, list(row)[:4]))} …")
    wrong = listed_problem(row, str(listed)) if not stored else None if is_checked else row_problem(row)
    if wrong or (wrong := incomplete(row, str(kind if stored else listed))):
        raise UsageError(f"{file} row {number} has {wrong}: not a result file of convbench")
    keys = KINDS[str(kind)].keys() if stored else list(TYPES[str(listed)])
    place = PLACES[str(kind)] if stored else str(listed)
    getattr(runs, place).append({"file": str(file), **dict.fromkeys(keys), **row})
