"""The folder of an artefact: written whole or not at all, described by its manifest, checked by its hashes."""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from convbench.catalogue import Signature
from convbench.errors import UsageError

SCHEMA = 2
MANIFEST, VERIFICATION, LAYERS, README = "manifest.json", "verification.json", "layers.json", "README.md"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Port:
    """An input or output. ``shape``: numbers, and for what may vary a name or a multiple of one, such as "4*h4"."""

    name: str
    dtype: str  # float32 or int64
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Manifest:
    """What an artefact is."""

    model: str  # an id of `convbench models`, or the class of a network of one's own
    res: int  # side of the decoded image, pixels
    to: str  # one of TARGETS
    precision: str  # one of PRECISIONS
    batch: tuple[int, int]  # the fewest and most images of a call
    dimensions: dict[str, tuple[int, int]]  # the smallest and largest value of each name in the shapes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signature: Signature  # of the model when it was exported: serving reads it here and imports nothing of the model
    entry: str  # the file that a runtime opens
    weights: dict[str, str]  # "source" in words or a path, "sha256" of the parameters
    versions: dict[str, str]
    target: dict[str, str]  # where it runs: "device", and for compiled code what that must be
    command: str
    created_utc: str
    build_s: float
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # "sha256" and "bytes" of each
    details: dict[str, Any] = field(default_factory=dict)  # of one target: opset, packed operators, profiles

    @property
    def dynamic(self) -> bool:
        """Whether height and width may vary."""
        return any(name != "batch" for name in self.dimensions)


@contextmanager
def making(out: Path, force: bool = False) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which becomes ``out`` at the end, or vanishes after an error.

    Raises UsageError where ``out`` exists already (unless ``force``), cannot be made, or the disk is full.
    """
    out = out.absolute()
    require_free(out, force)
    _remove_leftovers(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
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
        raise UsageError(f"cannot write {out}: there is no folder {out.absolute().parent}")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UsageError(f"cannot write {out}: its folder is write-protected")
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise UsageError(f"{out} exists and is no artefact of convbench: give another --out")
    if not force:
        raise UsageError(f"{out} exists: give another --out, or --force to replace it")


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
    for leftover in out.parent.glob(f".{out.name}.partial-*"):
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
    """What an error says about the disk, or None where it is about something else."""
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
    (folder / MANIFEST).write_text(json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=1) + "\n", "utf-8")
    return manifest


def read(folder: Path) -> Manifest:
    """Raises UsageError for what is no artefact, or one of a newer convbench."""
    try:
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} is no artefact: it has no {MANIFEST}; `convbench export` makes one") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {folder / MANIFEST}: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise UsageError(f"{folder / MANIFEST} is not a manifest of convbench")
    schema = content.pop("schema")
    if schema > SCHEMA:
        raise UsageError(f"{folder} was made by a newer convbench: upgrade")
    if schema < SCHEMA:
        raise UsageError(f"{folder} was made by an older convbench: export it again")
    try:
        ports = {
            key: tuple(Port(port["name"], port["dtype"], tuple(port["shape"])) for port in content[key])
            for key in ("inputs", "outputs")
        }
        dimensions = {name: (int(low), int(high)) for name, (low, high) in content["dimensions"].items()}
        low, high = content["batch"]
        known = {"dimensions": dimensions, "batch": (int(low), int(high)), "signature": signature(content["signature"])}
        manifest = Manifest(**{**content, **ports, **known})
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder / MANIFEST} is not a manifest of convbench: {error}") from None
    for name in (manifest.entry, *manifest.files):
        if Path(name).name != name:
            raise UsageError(f"{folder / MANIFEST} names a file outside its folder: {name}")
    return manifest


def signature(content: Any) -> Signature:
    """What a manifest says that the model takes and returns. Raises TypeError or ValueError, naming what is wrong."""
    given = dict(vars(Signature(**content)))
    caption = given["caption"]
    if caption is not None and (type(caption) is not list or len(caption) != 2):
        raise ValueError("signature: caption must be null or a number of tokens and their width")
    numbers = [given["channels"], given["factor"], given["classes"], *(caption or ())]
    if not all(type(number) is int and 0 < number < 2**31 for number in numbers):
        raise ValueError("signature: channels, factor, classes and caption must be whole numbers above 0")
    if type(given["null_class"]) is not bool:
        raise ValueError("signature: null_class must be true or false")
    if type(given["t_end"]) not in (int, float) or not 0 < given["t_end"] < math.inf:
        raise ValueError("signature: t_end must be a number above 0")
    if type(given["predicts"]) is not str or type(given["takes"]) is not list or not set(given["takes"]) <= set("xty"):
        raise ValueError("signature: predicts must be a text, takes a list of x, t and y")
    return Signature(**{**given, "caption": tuple(caption) if caption else None, "takes": tuple(given["takes"])})


def changed_files(folder: Path, manifest: Manifest) -> list[str]:
    """What is missing or no longer what the manifest says, in words."""
    found = []
    for name, facts in manifest.files.items():
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
        elif sha256(folder / name) != facts["sha256"]:
            found.append(f"{name} is not the file that was made: its SHA-256 differs")
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
