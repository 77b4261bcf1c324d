"""Sources of weights: a file, the Hugging Face hub, the authors' address, or the package itself.

Resolves the argument of ``--weights`` to a file on this machine, which read.py loads.
"""

import hashlib
import re
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ..catalogue import Variant
from ..errors import WeightsError, first_line, printable
from ..files import appended, cache_home, read_bytes, whole
from .container import MAX_BYTES

HUB = "hf:"
MAX_RECORD_BYTES = 2**20  # of the list of downloads
KINDS = "a .pt or .safetensors file, hf:owner/repo/file[@revision], official, or shipped"


@dataclass(frozen=True)
class Source:
    """A file of weights on this machine and its origin."""

    path: Path
    origin: str  # as requested, in full
    revision: str | None = None  # commit of a file of the hub
    licence: str | None = None
    digest: str | None = None  # its SHA-256, if already computed

    def sha256(self) -> str:
        """SHA-256 of the content, the only identifier of a checkpoint that cannot change."""
        return self.digest or sha256(self.path)

    def __str__(self) -> str:
        parts = [self.origin] + ([f"revision {self.revision}"] if self.revision else [])
        parts += [f"licence {self.licence}"] if self.licence else []
        return ", ".join(parts)


def locate(weights: str, variant: Variant, res: int) -> Source:
    """Find the file of ``--weights`` for a variant; download it if it is not on this machine yet.

    Raises WeightsError with one line if a file, repository or address does not exist or cannot be reached.
    """
    if weights == "shipped":
        if variant.shipped_weights is None:
            raise WeightsError(f"convbench ships no weights of {variant.id}: specify {KINDS}")
        return Source(variant.shipped_weights, "shipped with convbench")
    if weights == "official":
        return official(variant, res)
    if weights.startswith(HUB):
        return from_hub(weights)
    if not Path(weights).is_file():
        raise WeightsError(f"no checkpoint at {weights}")
    return Source(Path(weights), weights)


def official(variant: Variant, res: int) -> Source:
    """Find the authors' file for this size, listed under ``official`` in the .toml of the family.

    If a network works at any size and none was trained at this one, the first listed file is used.
    """
    if variant.shipped_weights:
        return locate("shipped", variant, res)
    known = variant.family.facts.get("official", {}).get(variant.id, [])
    fitting = [entry for entry in known if entry["res"] == res] or ([] if variant.family.facts["fixed_res"] else known)
    if not fitting:
        sizes = ", ".join(str(entry["res"]) for entry in known)
        note = f"only one for {sizes} px" if sizes else variant.family.facts.get("official_note", "none is listed")
        raise WeightsError(f"no official weights of {variant.id} at {res} px are known: {note}")
    entry = fitting[0]
    address, licence = entry["address"], entry["licence"]
    found = from_hub(address) if address.startswith(HUB) else Source(download(address, cache()), address)
    digest = require_same(address, found.path, entry.get("sha256"))
    return Source(found.path, found.origin, found.revision, licence, digest)


def require_same(address: str, file: Path, stated: str | None = None) -> str:
    """Raise WeightsError if a file is not the expected one for an address; return its SHA-256.

    The expected SHA-256 is ``stated`` or, if None, that of the first download from the address, which is recorded.
    """
    digest, known = sha256(file), record()
    first = stated or next((line[0] for line in _remembered(known) if line[1] == address), None)
    if first is None:
        known.parent.mkdir(parents=True, exist_ok=True)
        with appended(known) as remembered:
            remembered.write(f"{digest} {address}\n".encode())
    elif digest != first:
        why = "as stated in the catalogue" if stated else f"as at its first use ({known})"
        raise WeightsError(
            f"{file} is not the file of {address}: its SHA-256 is {digest}, not {first}, {why}; remove the file to "
            "download it again" + ("" if stated else ", or that line if the authors have replaced it")
        )
    return digest


def _remembered(known: Path) -> list[tuple[str, str]]:
    try:
        lines = read_bytes(known, MAX_RECORD_BYTES).decode().splitlines() if known.exists() else []
    except UnicodeDecodeError:
        raise WeightsError(f"{known} is not a list of downloads: remove it") from None
    return [(digest, address) for digest, _, address in (line.partition(" ") for line in lines)]


def record() -> Path:
    """Path of the list of addresses with the SHA-256 at their first use."""
    return cache_home() / "downloads"


def sha256(file: Path) -> str:
    """Compute the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def from_hub(weights: str) -> Source:
    """Get a file of a model repository: "hf:owner/repo/file", with "@revision" for a commit, tag or branch."""
    match = re.fullmatch(r"hf:([^/@\s]+/[^/@\s]+)/([^@\s]+)(?:@(\S+))?", weights)
    if not match or ".." in match[2].split("/"):
        raise WeightsError(f"'{weights}' is not of the form hf:owner/repo/file[@revision]")
    repository, name, revision = match.groups()
    try:
        hub: Any = import_module("huggingface_hub")
    except ImportError:
        raise WeightsError(f"{weights} needs huggingface_hub: pip install 'convbench[sample]'") from None
    errors: Any = import_module("huggingface_hub.errors")
    where = f"{repository}{f' at {revision}' if revision else ''}"
    logging: Any = import_module("huggingface_hub.utils").logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports each retry
    try:
        path = Path(hub.hf_hub_download(repository, name, revision=revision))
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise WeightsError(f"{weights}: {_hub_reason(errors, error, where, name)}") from None
    finally:
        logging.set_verbosity(verbosity)
    commit = path.parts[path.parts.index("snapshots") + 1] if "snapshots" in path.parts else revision
    return Source(path, weights, commit)


def _hub_reason(errors: Any, error: Exception, where: str, name: str) -> str:
    # The order matters: several of the later classes include earlier ones.
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "not on this machine, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"
    if isinstance(error, errors.GatedRepoError):
        return f"{where} requires accepting its terms on its page first"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no public repository {where}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"unknown revision: {where}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{where} has no file {name}"
    return first_line(error)


def cache() -> Path:
    """Folder for files from the authors' addresses."""
    return cache_home() / "weights"


def download(address: str, folder: Path) -> Path:
    """Download a file once and atomically, with progress on stderr."""
    file = folder / PurePosixPath(urlsplit(address).path).name
    if file.is_file():
        return file
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            folder.mkdir(parents=True, exist_ok=True)
            _require_room(address, length, shutil.disk_usage(folder).free)
            with whole(file) as part:
                _copy(answer, part, length, f"downloading {file.name}")
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{address} answered {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:  # no network, a lost connection, a full disk
        raise WeightsError(
            f"{address} is not on this machine and could not be downloaded: {first_line(error)}; download it "
            f"elsewhere and specify its path, or place it in {folder}"
        ) from None
    return file


def _require_room(address: str, length: int, free: int) -> None:
    if length > MAX_BYTES:
        raise WeightsError(f"{address} has {length / 2**30:.0f} GiB; checkpoints of these models have at most 128")
    if length > free:
        raise WeightsError(
            f"{address} has {length / 2**30:.1f} GiB, but the disk of the cache has only {free / 2**30:.1f} free"
        )


def _copy(answer: BinaryIO, part: BinaryIO, length: int, what: str) -> None:
    from rich.console import Console
    from rich.progress import wrap_file

    with wrap_file(answer, length, description=what, console=Console(stderr=True), transient=True) as shown:
        copied = 0
        while block := shown.read(2**20):
            copied += part.write(block)
            if copied > MAX_BYTES:  # regardless of the announced length
                raise OSError("it exceeds 128 GiB")
    if length and copied != length:
        raise OSError(f"the connection ended after {copied} of {length} bytes")


def announce(source: Source) -> str:
    """Report the weights in use on stderr; return their SHA-256."""
    digest = source.sha256()
    print(printable(f"weights: {source}, sha256 {digest}"), file=sys.stderr)
    return digest
