"""Result files: one JSON line a finished case, appended whole, readable at any moment and after any kill."""

import errno
import fcntl
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import UsageError
from ..schema import KINDS, Measurement, Row
from ..schema.rowcheck import row_problem
from ..schema.typecheck import shown
from ..schema.upgrade import SCHEMA, move_ratios, regraded, renamed

if TYPE_CHECKING:
    import pandas

CONDITIONS = ("cpu", "cores", "gpus", "torch", "cuda", "cudnn", "convbench")
"""Keys of ``environment`` that change what is measured."""

Key = tuple[str, str | None]
"""Names a stored row: its case, and the counterpart that it was compared with, or None for whichever."""

HEAD = b'{"schema": '  # every line begins with it, a torn one with as much of it as was written
BLOCK = 2**20  # bytes read at a time


class Results:
    """The rows of a run: those that its file holds, and those that are added to both."""

    def __init__(self, path: Path | None, then: Callable[[], None] = lambda: None) -> None:
        """Read the file where there is one. Raises UsageError where lines cannot be added to it.

        Args:
            then: called after each row that is added, once it is on the disk.
        """
        self.path, self.then = path, then
        if path:
            require_writable(path)
        self.rows = rows_of(path) if path and path.exists() else []

    def find(self, key: Key) -> Row | None:
        """The latest row of that key."""
        case, other = key
        fitting = (row for row in reversed(self.rows) if row.case == case)
        return next((row for row in fitting if other is None or getattr(row, "compared_with", None) == other), None)

    def add(self, row: Row) -> Row:
        """Add a row, to the file too. Raises UsageError where the disk is full."""
        if self.path:
            append(self.path, row)
        self.rows.append(row)
        self.then()
        return row


def append(path: Path, row: Row) -> None:
    """Add one line and wait until it is on the disk. A torn line of an earlier kill is cut off first.

    The file is locked meanwhile, so several runs can share it. Raises UsageError where the disk is full, and for a
    file that ends in something else than a line of ours.
    """
    append_line(path, {"schema": SCHEMA, **row.to_json()})


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row of today's schema as JSON, as ``append`` does."""
    line = json.dumps(row, allow_nan=False).encode() + b"\n"
    try:
        with files.appended(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = _end_of_last_line(file)
            file.seek(whole)
            _require_torn_line(path, file.read(len(HEAD)))
            file.truncate(whole)
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)  # nothing half-written
                raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _end_of_last_line(file: FileIO) -> int:
    """Offset of the end of the last whole line, searched from the end of the file, a block at a time."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _require_torn_line(path: Path, start: bytes) -> None:
    """Raise UsageError unless this, which stands behind the last line break, may be the start of a line of ours."""
    if start[: len(HEAD)] != HEAD[: len(start)]:
        raise UsageError(f"{path} ends in something else than a measurement: not a result file of convbench")


def lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The number and the value of every whole line, one in memory at a time; a torn last line is left out.

    Raises UsageError for a file that cannot be read, and for a line that is not JSON or too long.
    """
    try:
        with files.opened(path) as file:
            for number in itertools.count(1):
                line = file.readline(files.MOST_LINE)
                if not line.endswith(b"\n"):
                    break
                try:
                    value = files.json_value(line)
                except ValueError:
                    raise UsageError(f"{path} line {number} is not JSON: not a result file of convbench") from None
                yield number, value
            start, more = line[: len(HEAD)], line
            while more := file.readline(BLOCK):  # a torn line may have any length
                if more.endswith(b"\n"):
                    raise UsageError(f"{path} line {number} is too long: not a result file of convbench")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    _require_torn_line(path, start)


def rows_of(path: Path) -> list[Row]:
    """Every whole line, in the class of its kind. Raises UsageError for a file that is not one of ours."""
    found = []
    for number, line in enumerate(_upgraded_lines(path), start=1):
        try:
            found.append(KINDS[line["kind"]].from_json(line))
        except TypeError as error:  # a key without a default is missing
            raise UsageError(f"{path} line {number} is not a whole row: {error}") from None
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line as JSON of today's schema. Raises UsageError for a file that is not one of ours."""
    return complete(_upgraded_lines(path))


def complete(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with None for the keys that were added after they were written."""
    return [dict.fromkeys(KINDS[row["kind"]].keys()) | row for row in rows]


def _upgraded_lines(path: Path) -> list[dict[str, Any]]:
    return upgraded(lines(path), str(path))


def upgraded(numbered: Iterable[tuple[int, Any]], path: str) -> list[dict[str, Any]]:
    """Rows in today's schema, each checked before its values are used.

    Args:
        numbered: the number and the value of each line.
        path: name of the file or store, for messages.

    Raises:
        UsageError: a line that is not a row of convbench.
    """
    rows, earlier = [], []
    for number, stored in numbered:
        line = regraded(stored) if isinstance(stored, dict) else stored
        schema = line.get("schema") if isinstance(line, dict) else None
        named = isinstance(line, dict) and ("case" in line or "sampling_case" in line)
        if not named or not isinstance(schema, int) or isinstance(schema, bool):
            raise UsageError(f"{path} line {number} is not a measurement: not a result file of convbench")
        if schema > SCHEMA:
            raise UsageError(f"{path} line {number} was written by a newer convbench (schema {schema}): upgrade")
        row = renamed(line)
        if not isinstance(row["case"], str):
            raise UsageError(f"{path} row {number} has case {shown(row['case'])}: not a result file of convbench")
        if not isinstance(row.get("kind"), str) or row["kind"] not in KINDS:
            raise UsageError(f"{path} line {number} is of an unknown kind {shown(row.get('kind'))}: upgrade convbench")
        if found := row_problem(row):
            raise UsageError(f"{path} row {number} has {found}: not a result file of convbench")
        rows.append(row)
        earlier += [row] if row is not line else []
    move_ratios(earlier)
    return rows


def require_writable(path: Path) -> None:
    """Raise UsageError unless lines can be added to the file, before anything expensive is done."""
    files.require_writable(path)
    try:
        # A new file is not made and removed again: another run might write its first line in between.
        with path.open("ab") if path.exists() else tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    if path.exists():
        read(path)


def changed_conditions(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Differences between two environments that change what is measured, in words."""
    return [f"{key}: {a.get(key)} and {b.get(key)}" for key in CONDITIONS if a.get(key) != b.get(key)]


def load(*paths: str | Path) -> "pandas.DataFrame":
    """Result files as one table: a row for each measurement, a column for each key of
    ``convbench throughput --format json``.

    Raises:
        UsageError: a file that cannot be read or is not a result file.
    """
    import pandas

    rows = [row for path in paths for row in read(Path(path)) if row["kind"] == Measurement.kind]
    return pandas.DataFrame(rows, columns=["schema", "kind", *Measurement.keys()])
