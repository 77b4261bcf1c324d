"""Reading and writing files: only regular ones, bounded when read, written whole or not at all.

A path that a user names may lead to a device, a pipe or a folder, and a file may be larger than the memory. Whatever
reads or writes a file that was named from outside does it through these functions.
"""

import errno
import fcntl
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .errors import UsageError, first_line

MOST_JSON = 2**26  # bytes of a JSON document
MOST_LINE = 2**24  # bytes of a line of a result file
MOST_PAGE = 2**28  # bytes of a page of `convbench report --html`
MOST_TOML = 2**18  # bytes of a sweep or a protocol card
MOST_DOTS = 100  # in a line of TOML
NOT_REGULAR = "it is not an ordinary file"


def cache_home() -> Path:
    """Folder of files that can be made again: $CONVBENCH_CACHE, or convbench in the user's cache."""
    own = os.environ.get("CONVBENCH_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convbench"


# Reading


def opened(path: Path, follow: bool = True) -> BufferedReader:
    """A regular file, open for reading. A device is not even opened, a pipe not waited for.

    Args:
        follow: whether a symbolic link is followed.

    Raises:
        OSError: with ``strerror`` "it is not an ordinary file" for a device, a pipe, a folder or (unless ``follow``)
            a symbolic link; otherwise that of the system.
    """
    try:
        _require_regular(os.stat(path, follow_symlinks=follow), path)
    except ValueError:
        raise OSError(errno.EINVAL, "its name contains a null character", str(path)) from None
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _require_regular(os.fstat(file.fileno()), path)  # it may have been exchanged in between
    except OSError:
        file.close()
        raise
    return file


def _require_regular(facts: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, NOT_REGULAR, str(path))


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes. Raises UsageError otherwise."""
    try:
        with opened(path) as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > most:
        raise UsageError(f"cannot read {path}: it has over {most} bytes, more than any such file needs")
    return content


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """The value of a JSON file. Raises UsageError for a file that cannot be read or is not valid."""
    content = read_bytes(path, most)
    try:
        return json_value(content)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {first_line(error)}") from None


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is not valid JSON, contains NaN or is nested too deep."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_toml(path: Path, most: int = MOST_TOML) -> dict[str, Any]:
    """The table of a TOML file. Raises UsageError for a file that cannot be read or is not valid."""
    content = read_bytes(path, most)
    # A key of many parts (a.a.a…) takes tomllib time and memory that grow with the square of their number.
    if any(line.count(b".") > MOST_DOTS for line in content.split(b"\n")):
        raise UsageError(f"{path} is not accepted as TOML: a line has more than {MOST_DOTS} dots")
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:  # of TOML or of UTF-8
        raise UsageError(f"{path} is not TOML: {first_line(error)}") from None
    except RecursionError:
        raise UsageError(f"{path} is not TOML: it is nested too deep") from None


# Writing


def require_writable(path: Path) -> None:
    """Raise UsageError unless the path is that of a regular file, or a new name in a folder."""
    try:
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist")
        if _is_taken(path):
            _require_regular(os.stat(path), path)  # of what a link leads to; a link to nothing is not a new name
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"cannot write {path}: {first_line(error)}") from None


def _is_taken(path: Path) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def whole(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which appears at ``path`` when the block ends and not after an error or a kill.

    Args:
        sync: wait until it is on the disk.

    Raises UsageError where ``path`` is neither a regular file nor a new name in a folder.
    """
    require_writable(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)  # of a killed process of the same number
    try:
        # Never through a link that somebody laid there: the name can be guessed.
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(handle, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, sync: bool = True) -> None:
    """Write all of a file at once. Raises UsageError where that cannot be."""
    try:
        with whole(path, sync) as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def appended(path: Path) -> Iterator[FileIO]:
    """A regular file or a new one, unbuffered, open for reading and for writing at its end.

    Raises UsageError where ``path`` is neither; OSError of the system.
    """
    require_writable(path)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "ab+", buffering=0) as file:
        _require_regular(os.fstat(file.fileno()), path)
        yield file


# Locking


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is made where there is none and whose content stays; never through a link.

    Raises OSError of the system; unless ``wait``, BlockingIOError where another process holds the lock.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)
