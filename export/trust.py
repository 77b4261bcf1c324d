"""Record of the compiled artefacts that this user built on this machine; any other is foreign machine code.

The record is a file of the user's cache, a line for each file that was built: its SHA-256 and the machine. It counts
only where it belongs to the user and nobody else can write it.
"""

import hashlib
import os
import platform
import stat
from pathlib import Path

from convbench.errors import UsageError
from convbench.files import cache_home

from .manifest import NATIVE, Manifest

MACHINE_ID = Path("/etc/machine-id")


def record() -> Path:
    """The file that says what was built here."""
    return cache_home() / "built"


def add(manifest: Manifest) -> None:
    """Remember that the entry of an artefact was built here. Raises OSError where the cache cannot be written."""
    path = record()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        if not _is_private(os.fstat(file.fileno())):
            raise PermissionError(1, "it is another user's, or others can write it", str(path))
        file.write(f"{manifest.files[manifest.entry]['sha256']} {machine()}\n".encode())


def built_here(manifest: Manifest) -> bool:
    """True if this user built the entry of an artefact on this machine."""
    line = f"{manifest.files[manifest.entry]['sha256']} {machine()}\n".encode()
    try:
        handle = os.open(record(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(handle, "rb") as file:
        return _is_private(os.fstat(handle)) and line in file


def require(artefact: Path, manifest: Manifest, trust_native: bool = False) -> None:
    """Raise UsageError for machine code that this user did not build on this machine, unless told to trust it."""
    if manifest.to in NATIVE and not trust_native and not built_here(manifest):
        raise UsageError(
            f"{artefact / manifest.entry} is {_what(manifest.to)}, and this user did not build it on this machine: "
            "opening it would run it; --trust-native opens it if you trust its author"
        )


def _what(to: str) -> str:
    return "machine code" if to in ("aoti", "tensorrt") else f"a file that {to} reads without checking it"


def machine() -> str:
    """A name of this machine that tells nobody its id."""
    try:
        known = MACHINE_ID.read_bytes().strip()
    except OSError:
        known = b""
    return hashlib.sha256(b"convbench " + (known or platform.node().encode())).hexdigest()[:32]


def _is_private(facts: os.stat_result) -> bool:
    return stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022
