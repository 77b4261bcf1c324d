"""Stored files of every kind that convbench writes, told apart by what is in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.errors import NothingMeasured, UsageError
from convbench.files import MOST_JSON, json_value, opened, read_bytes
from convbench.rows import KINDS, TYPES, incomplete, kind_of, row_problem
from convbench.schema import Measurement
from convbench.store import read

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]


@dataclass
class Runs:
    """What the files of a report hold: rows by what they are about, each with the ``file`` it comes from."""

    measurements: list[Row] = field(default_factory=list)  # convbench throughput
    sampling: list[Row] = field(default_factory=list)  # convbench throughput --sampling
    replays: list[Row] = field(default_factory=list)  # convbench replay
    tf32: list[Row] = field(default_factory=list)  # convbench replay --tf32-experiment
    kernels: list[Row] = field(default_factory=list)  # convbench kernels --bench
    counts: list[Row] = field(default_factory=list)  # convbench flops --format json
    kinds: list[Row] = field(default_factory=list)  # the same with --by kind
    modules: list[Row] = field(default_factory=list)  # and with --by module
    audit: list[Row] = field(default_factory=list)  # convbench audit --format json
    notes: list[str] = field(default_factory=list)  # what has to be said about the files

    @property
    def frame(self) -> "DataFrame":
        """The measurements, in the order of the files: whole numbers stay whole, what is not known is None."""
        return frame(self.measurements)


def frame(rows: Sequence[Row]) -> "DataFrame":
    """Rows as a table whose values are left as they are: whole numbers stay whole beside None."""
    import pandas

    keys = dict.fromkeys(key for row in rows for key in row) or {"file": None, **dict.fromkeys(Measurement.keys())}
    columns = {key: pandas.Series([row.get(key) for row in rows], dtype=object) for key in keys}
    return pandas.DataFrame(columns)


def records(table: "DataFrame") -> list[Row]:
    """The rows of such a table again."""
    keys = list(table.columns)
    return [dict(zip(keys, values, strict=True)) for values in table.itertuples(index=False, name=None)]


def read_runs(paths: Iterable[Path]) -> Runs:
    """Every file, and of every folder its .jsonl and .json files.

    Raises:
        UsageError: a file that cannot be read, is none of ours, or is of a newer convbench.
        NothingMeasured: there is not a single row in them.
    """
    runs = Runs()
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise UsageError(f"no .jsonl or .json file in {', '.join(map(str, paths))}")
    for file in dict.fromkeys(files):
        rows, torn = _rows(file)
        if torn:
            runs.notes.append(f"{file} ends in half a line, as a killed run leaves it: that line is left out")
        elif not rows:
            runs.notes.append(f"{file} is empty")
        for number, row in enumerate(rows, start=1):
            _place(runs, row, file, number)
    if not any(getattr(runs, kind) for kind, _ in KINDS):
        raise NothingMeasured(f"no measurement in {', '.join(map(str, files))}")
    return runs


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".json"))
    return [path]


def _rows(file: Path) -> tuple[list[Row], bool]:
    """The rows of a file, and whether its last line is torn."""
    start, end = _ends(file)
    if not start.lstrip().startswith(b"["):
        return read(file), not end.endswith(b"\n") and bool(end)
    try:
        rows = json_value(read_bytes(file, MOST_JSON))
    except ValueError:
        raise UsageError(f"{file} is not JSON: not a file of convbench, or cut off") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{file} is not a list of rows: not a file of convbench")
    return rows, False


def _ends(file: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file."""
    try:
        with opened(file) as stream:
            start = stream.read(100)
            stream.seek(max(0, stream.seek(0, 2) - 1))
            return start, stream.read(1)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def _place(runs: Runs, row: Row, file: Path, number: int) -> None:
    kind = kind_of(row)
    if kind is None:
        raise UsageError(f"{file} row {number} is none that convbench writes: {', '.join(list(row)[:4])} …")
    if wrong := row_problem(row, kind) or incomplete(row, kind):
        raise UsageError(f"{file} row {number} has {wrong}: not a result file of convbench")
    keys = Measurement.keys() if kind == "measurements" else TYPES[kind]
    row = {"file": str(file), **dict.fromkeys(keys), **row}
    if kind == "measurements":
        row["mode"] = row["mode"] or "forward"  # a file of before there was another
    getattr(runs, kind).append(row)
