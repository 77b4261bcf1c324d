"""Result files: one JSON line a finished case, appended whole, readable at any moment and after any kill."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .schema import KINDS, Measurement, Row
from .schema.upgrade import SCHEMA, upgraded

if TYPE_CHECKING:
    import pandas

CONDITIONS = ("cpu", "cores", "gpus", "torch", "cuda", "cudnn", "convbench")
"""Keys of ``environment`` that change what is measured."""

Key = tuple[str, str | None]
"""Names a stored row: its case, and the counterpart that it was compared with, or None for whichever."""

HEAD = b'{"schema": '  # every line begins with it, a torn one with as much of it as was written


class Results:
    """The rows of a run: those that its file holds, and those that are added to both."""

    def __init__(self, path: Path | None) -> None:
        """Read the file where there is one. Raises UsageError where lines cannot be added to it."""
        self.path = path
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
        return row


def append(path: Path, row: Row) -> None:
    """Add one line and wait until it is on the disk. A torn line of an earlier kill is cut off first.

    The file is locked meanwhile, so several runs can share it. Raises UsageError where the disk is full.
    """
    line = json.dumps({"schema": SCHEMA, **row.to_json()}, allow_nan=False).encode() + b"\n"
    try:
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = _end_of_last_line(file)
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


def _end_of_last_line(file: Any) -> int:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(max(0, size - 2**20))
    tail = file.read()
    return int(size - len(tail) + tail.rfind(b"\n") + 1) if not tail.endswith(b"\n") else int(size)


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
    # A file of before a key was added lacks it.
    return [dict.fromkeys(KINDS[line["kind"]].keys()) | line for line in _upgraded_lines(path)]


def _upgraded_lines(path: Path) -> list[dict[str, Any]]:
    lines = upgraded(list(_lines(path)))
    for number, line in enumerate(lines, start=1):
        if line["kind"] not in KINDS:
            raise UsageError(f"{path} line {number} is of an unknown kind '{line['kind']}': not a file of convbench")
    return lines


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines[:-1], start=1):  # behind the last line break stands nothing, or a torn line
        try:
            row = json.loads(line)
        except ValueError:
            raise UsageError(f"{path} line {number} is not JSON: not a result file of convbench") from None
        named = isinstance(row, dict) and isinstance(row.get("case", row.get("sampling_case")), str)
        if not named or not isinstance(row.get("schema"), int):
            raise UsageError(f"{path} line {number} is not a measurement: not a result file of convbench")
        if row["schema"] > SCHEMA:
            raise UsageError(f"{path} line {number} was written by a newer convbench (schema {row['schema']}): upgrade")
        yield row
    if lines[-1][: len(HEAD)] != HEAD[: len(lines[-1])]:
        raise UsageError(f"{path} ends in something else than a measurement: not a result file of convbench")


def require_writable(path: Path) -> None:
    """Raise UsageError unless lines can be added to the file, before anything expensive is done."""
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot write {path}: it is not an ordinary file")
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
