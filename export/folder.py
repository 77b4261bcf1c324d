"""The folder of an artefact: written whole or not at all, described by its manifest, checked by its hashes."""

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from convbench.errors import UsageError, first_line
from convbench.files import json_value, opened, read_json

from .manifest import MOST_BYTES, SCHEMA, Manifest, Port, parsed

__all__ = ["MOST_BYTES", "SCHEMA", "Manifest", "Port"]

MANIFEST, VERIFICATION, LAYERS, README = "manifest.json", "verification.json", "layers.json", "README.md"
CHANGED = "is not the file that was made: its SHA-256 differs"
BLOCK = 2**20  # bytes copied at a time
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def making(out: Path, force: bool = False) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which becomes ``out`` at the end, or vanishes after an error.

    Raises UsageError where ``out`` exists already (unless ``force``), cannot be made, or the disk is full.
    """
    out = out.absolute()
    require_free(out, force)
    _remove_leftovers(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process of the same number
    try:
        partial.mkdir()
        yield partial
        for file in partial.rglob("*"):
            _sync(file)
        _sync(partial)
        _move(partial, out)
    except UsageError:
        raise
    except Exception as error:  # libraries report a full disk in their own ways
        if reason := _disk(error, out):
            raise UsageError(f"cannot write {out}: {reason}; nothing was left behind") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_free(out: Path, force: bool = False) -> None:
    """Raise UsageError unless a folder can be made at ``out``: before anything expensive is done."""
    if not out.absolute().parent.is_dir():
        raise UsageError(f"cannot write {out}: the folder {out.absolute().parent} does not exist")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UsageError(f"cannot write {out}: its folder is write-protected")
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink():
        raise UsageError(f"{out} is a symbolic link: choose another --out")
    if not out.is_dir() or (any(out.iterdir()) and not _is_ours(out)):
        raise UsageError(f"{out} exists and is not an artefact of convbench: choose another --out")
    if not force:
        raise UsageError(f"{out} exists: choose another --out, or --force to replace it")


def _is_ours(out: Path) -> bool:
    """True for an artefact, even a damaged one; a manifest.json alone is also part of many web pages."""
    try:
        content = read_json(out / MANIFEST, MOST_BYTES)
    except UsageError:
        return False
    return isinstance(content, dict) and {"schema", "model", "entry", "files"} <= set(content)


def _move(partial: Path, out: Path) -> None:
    """Put the finished folder in its place; the one it replaces is there until then."""
    aside = out.with_name(f".{out.name}.partial-{os.getpid()}-old")
    if out.exists():
        out.rename(aside)
    partial.rename(out)
    _sync(out.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(out: Path) -> None:
    """Folders of processes that were killed."""
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        pid = leftover.name.rpartition("partial-")[2].partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            if leftover.name.endswith("-old") and not out.exists():  # killed between two renames: it is the only one
                leftover.rename(out)
            else:
                shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk(error: Exception, out: Path) -> str | None:
    """Message on a full or broken disk, or None for any other error."""
    if isinstance(error, OSError) and error.errno and error.errno not in FULL:
        return error.strerror if error.errno in (errno.EACCES, errno.EROFS, errno.EIO) else None
    free = shutil.disk_usage(out.parent).free
    words = ("no space left", "enospc", "file too large", "failed to write", "errno 28")
    told = isinstance(error, OSError) and error.errno in FULL
    if told or any(word in str(error).lower() for word in words) or free < 2**20:
        return f"the disk is full ({free / 2**20:.0f} MiB free)"
    return None


def write(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest, with the hashes of the files that are in the folder by now. Returns it as written."""
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name not in (MANIFEST, VERIFICATION, README)
    }
    manifest = replace(manifest, files=files)
    (folder / MANIFEST).write_text(text_of(manifest), "utf-8")
    return manifest


def text_of(manifest: Manifest) -> str:
    """The content of a manifest's file."""
    return json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=1) + "\n"


def read(folder: Path) -> Manifest:
    """The manifest of a folder, every field checked. Raises UsageError for what is not an artefact of today."""
    path = folder / MANIFEST
    try:
        with opened(path, follow=False) as file:
            text = file.read(MOST_BYTES + 1)
        content = json_value(text) if len(text) <= MOST_BYTES else None
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder} is not an artefact: it has no {MANIFEST}; `convbench export` makes one") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"cannot read {path}: it is not a manifest of convbench: {first_line(error)}") from None
    schema = content.pop("schema", None) if isinstance(content, dict) else None
    if type(schema) is not int:
        raise UsageError(f"{path} is not a manifest of convbench")
    if schema > SCHEMA:
        raise UsageError(f"{folder} was made by a newer convbench: upgrade")
    if schema < SCHEMA:
        raise UsageError(f"{folder} was made by an older convbench: export it again")
    try:
        return parsed(content)
    except ValueError as error:
        raise UsageError(f"{path} is not a manifest of convbench: {error}") from None


def changed_files(folder: Path, manifest: Manifest) -> list[str]:
    """Files that are missing or differ from the manifest, in words."""
    found = []
    for name, facts in manifest.files.items():
        try:
            same = (sha256(folder / name), (folder / name).stat().st_size) == (facts["sha256"], facts["bytes"])
        except FileNotFoundError:
            found.append(f"{name} is missing")
        except OSError as error:  # a link, a pipe or a folder of that name
            found.append(f"{name} cannot be read: {error.strerror}")
        else:
            found += [] if same else [f"{name} {CHANGED}"]
    return found


def sha256(path: Path) -> str:
    """Hash of a regular file that is not a link. Raises OSError for anything else."""
    with opened(path, follow=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Damaged(UsageError):
    """An artefact whose files are not those of its manifest."""

    def __init__(self, folder: Path, changes: list[str]) -> None:
        super().__init__(f"{folder} is damaged: {'; '.join(changes)}: export it again")
        self.changes = changes


@contextmanager
def sealed(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """A private copy of the files that a manifest lists, each with the SHA-256 that it lists; nothing else is there.

    What is opened from it is what was hashed, whoever writes into the folder meanwhile, and a file in it that names
    another finds only listed ones.

    Raises:
        Damaged: a file is missing, is a link or not a regular file, or has another hash.
        UsageError: there is no room for the copy.
    """
    needed = sum(facts["bytes"] for facts in manifest.files.values())
    with tempfile.TemporaryDirectory(prefix="convbench-") as private:
        free = shutil.disk_usage(private).free
        if needed > free:
            raise UsageError(
                f"{folder} has {needed} bytes, {private} has room for {free}: set TMPDIR to a folder on a larger disk"
            )
        try:
            changes = [copied(folder / name, Path(private, name), facts) for name, facts in manifest.files.items()]
        except OSError as error:
            raise UsageError(f"cannot copy {folder}: {error.strerror}") from None
        if found := [change for change in changes if change]:
            raise Damaged(folder, found)
        yield Path(private)


def copied(source: Path, target: Path, facts: dict[str, Any]) -> str | None:
    """Copy a file to a new name and hash what was copied.

    Args:
        facts: "sha256" and "bytes" of the manifest.

    Returns what is wrong with it.
    """
    digest = hashlib.sha256()
    try:
        file = opened(source, follow=False)
    except FileNotFoundError:
        return f"{source.name} is missing"
    except OSError as error:
        return f"{source.name} cannot be read: {error.strerror}"
    with file, target.open("xb") as copy:
        if os.fstat(file.fileno()).st_size != facts["bytes"]:
            return f"{source.name} {CHANGED}"
        while block := file.read(BLOCK):
            digest.update(block)
            copy.write(block)
            if copy.tell() > facts["bytes"]:  # it grows while it is read
                break
    return None if digest.hexdigest() == facts["sha256"] else f"{source.name} {CHANGED}"
