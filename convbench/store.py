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
from .schema import Measurement

if TYPE_CHECKING:
    import pandas

SCHEMA = 1
CONDITIONS = ("cpu", "cores", "gpus", "torch", "cuda", "cudnn", "convbench")
"""Keys of ``environment`` that change what is measured."""

HEAD = b'{"schema": '  # every line begins with it, a torn one with as much of it as was written


def append(path: Path, measurement: dict[str, Any]) -> None:
    """Add one line and wait until it is on the disk. A torn line of an earlier kill is cut off first.

    The file is locked meanwhile, so several runs can share it. Raises UsageError where the disk is full.
    """
    line = json.dumps({"schema": SCHEMA, **measurement}, allow_nan=False).encode() + b"\n"
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


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line. Raises UsageError for a file that is not one of ours."""
    return list(_rows(path))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines[:-1], start=1):  # behind the last line break stands nothing, or a torn line
        try:
            row = json.loads(line)
        except ValueError:
            raise UsageError(f"{path} line {number} is not JSON: not a result file of convbench") from None
        if not isinstance(row, dict) or "case" not in row or not isinstance(row.get("schema"), int):
            raise UsageError(f"{path} line {number} is not a measurement: not a result file of convbench")
        if row["schema"] > SCHEMA:
            raise UsageError(f"{path} line {number} was written by a newer convbench (schema {row['schema']}): upgrade")
        yield dict.fromkeys(Measurement.keys()) | row  # a file of before a key was added lacks it
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
    """Result files as one table: a row a measurement, a column a key of ``convbench throughput --format json``.

    Raises:
        UsageError: a file that cannot be read or is not a result file.
    """
    import pandas

    rows = [row for path in paths for row in read(Path(path))]
    return pandas.DataFrame(rows, columns=["schema", *Measurement.keys()])
