"""Files on a node's own disk before any clock starts: copied once a node, and checked by hash."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..files import locked, opened

BLOCK = 2**22  # bytes copied at a time


@dataclass(frozen=True)
class Staged:
    """A file that every node needs: its path where the driver runs, its SHA-256 and its size."""

    file: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path, digest: str) -> "Staged":
        """Describe a file."""
        return cls(str(path.resolve()), digest, path.stat().st_size)


def scratch() -> Path:
    """Folder on this node's own disk: $CONVBENCH_SCRATCH, else one of this user in $SLURM_TMPDIR or $TMPDIR."""
    if own := os.environ.get("CONVBENCH_SCRATCH"):
        return Path(own)
    return Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()) / f"convbench-scratch-{os.getuid()}"


def stage(wanted: Staged, folder: Path) -> Path:
    """Copy a file to the folder unless it is there, and check its hash either way. Returns its path.

    Jobs of one node wait for each other here. Raises UsageError with one line where the file cannot be read, the disk
    is full, or the content is another one.
    """
    source = Path(wanted.file)
    target = folder / f"{wanted.sha256}{source.suffix}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_own(folder)
        with locked(folder / "lock"):
            if not target.exists():
                if (free := shutil.disk_usage(folder).free) < wanted.size:
                    raise UsageError(
                        f"the scratch disk is full: {folder} has {free} bytes free, {source.name} needs {wanted.size}"
                    )
                _copy(source, target)
            if (found := _sha256(target)) != wanted.sha256:
                target.unlink()
                raise UsageError(
                    f"{source.name} has another content here: SHA-256 {found[:12]}…, not {wanted.sha256[:12]}…"
                )
    except OSError as error:
        name = error.filename or folder
        raise UsageError(f"cannot stage {source.name} on {folder}: {name}: {error.strerror}") from None
    return target


def require_own(folder: Path) -> None:
    """Raise UsageError unless the folder is this user's: its name can be guessed in a public place."""
    if folder.stat().st_uid != os.getuid():
        raise UsageError(f"{folder} belongs to another user: set CONVBENCH_SCRATCH to a folder of your own")


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    try:
        with opened(source) as file, part.open("wb") as copy:
            shutil.copyfileobj(file, copy, BLOCK)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
