"""Validation of a checkpoint before it is loaded: impossible sizes, positions and contents are refused.

A small file therefore cannot allocate more memory than its own length, whatever it claims to contain.
"""

import io
import json
import math
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import WeightsError
from . import pickles

MAX_BYTES = 2**37
"""128 GiB: a training checkpoint of the largest model, with averages and optimiser state, has a tenth of that."""
MAX_HEADER_BYTES = 10**7  # of a safetensors file: about a hundred bytes per tensor
MAX_TENSORS = 50_000  # a training checkpoint of the largest model has several thousand
MAX_PICKLE_BYTES = 2**24  # describes the tensors; several hundred kilobytes for a large model
MAX_DIRECTORY_BYTES = 2**24  # list of entries of an archive
MAX_SMALL_BYTES = 2**16  # other entries of an archive: version, byte order
MAX_SIDE, MAX_AXES, MAX_KEY = 2**40, 16, 1024  # of a tensor; characters of its name
ZIP = b"PK\x03\x04"
END, LOCATOR, END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")  # of an archive
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # start of a file by torch.save before 1.6
BITS = {  # per element of each safetensors type
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


def require_sane_size(file: Path) -> None:
    """Raise WeightsError for a file that is larger than any checkpoint of these models."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{file} has {size / 2**30:.0f} GiB; checkpoints of these models have at most 128")


def require_plain(file: Path) -> bool:
    """Raise WeightsError unless a file of torch.save only contains plain data and dense tensors within the file.

    Returns True if it is a zip archive, as torch.save writes since 1.6.
    """
    try:
        with file.open("rb") as stream:
            zipped = stream.read(len(ZIP)) == ZIP  # as torch decides
            stream.seek(0)
            (_require_plain_zip if zipped else _require_plain_stream)(file, stream)
    except pickles.NotPlain:
        raise WeightsError(
            f"{file} contains more than plain tensors and was not opened, as reading it could execute code: "
            "save the state dict alone, or as .safetensors"
        ) from None
    except pickles.Malformed:
        raise WeightsError(
            f"{file} is not a readable PyTorch checkpoint: it is truncated, or torch.save did not write it"
        ) from None
    return zipped


def _require_plain_stream(file: Path, stream: BinaryIO) -> None:
    """Check a file from before torch 1.6: five pickles, then the values of the storages."""
    size = file.stat().st_size
    head = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
    if _is_tar(head.getvalue()[: tarfile.BLOCKSIZE]):  # an even older format, which torch would unpack
        raise pickles.Malformed("a tar archive")
    storage_bytes: dict[str, int] = {}

    def has_room(key: str, count: int) -> bool:
        storage_bytes[key] = max(count, storage_bytes.get(key, 0))
        return sum(storage_bytes.values()) <= size if len(storage_bytes) <= MAX_TENSORS else False

    if pickles.simulate(head, has_room) != MAGIC or pickles.simulate(head, has_room) != PROTOCOL:
        raise pickles.Malformed("unknown format")
    pickles.simulate(head, has_room)  # description of the machine that wrote the file
    pickles.simulate(head, has_room)
    keys = pickles.simulate(head, has_room)
    if not isinstance(keys, pickles.ListStandIn) or not keys.of_texts:
        raise pickles.Malformed("no list of storages")


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class BoundedReader(io.BufferedReader):
    """A file reader with a limit per read, as the directory of an archive may claim any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(min(MAX_DIRECTORY_BYTES + 1, size if size is not None and size >= 0 else MAX_BYTES))
        if len(found) > MAX_DIRECTORY_BYTES:
            raise ValueError("a directory beyond the limit")
        return found


def _require_plain_zip(file: Path, stream: BinaryIO) -> None:
    """Check an archive: FOLDER/data.pkl, the values of each storage in FOLDER/data/KEY, and small further entries."""
    with BoundedReader(io.FileIO(stream.fileno(), closefd=False)) as bounded:
        try:
            with zipfile.ZipFile(bounded) as archive:
                _require_one_directory(bounded, archive)
                entries = _entry_sizes(file, archive)
                (pickle,) = [name for name in entries if name.partition("/")[2] == "data.pkl"]
                content = archive.read(pickle)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
            raise WeightsError(f"{file} is not a readable PyTorch checkpoint: its archive is damaged") from None
    folder = pickle.partition("/")[0]
    rest = io.BytesIO(content)
    pickles.simulate(rest, lambda key, count: entries.get(f"{folder}/data/{key}", -1) >= count)


def _require_one_directory(stream: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Raise ValueError unless the only directory of an archive is at the position stated at its end.

    Python searches for it just before the end, the reader of torch at the stated offset: a file could show a harmless
    directory to the first and a different one to the second.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(size - END.size)
    mark, *_, length, start, comment = END.unpack(stream.read(END.size))
    behind = size - END.size
    stream.seek(max(0, behind - LOCATOR.size))
    mark64, _, where, _ = LOCATOR.unpack(stream.read(LOCATOR.size))
    if mark64 == b"PK\x06\x07":  # an archive of over 4 GiB repeats it in 64 bits
        behind -= LOCATOR.size + END64.size
        stream.seek(behind)
        again, *_, length64, start64 = END64.unpack(stream.read(END64.size))
        if again != b"PK\x06\x06" or where != behind or {length, start} - {length64, start64, 2**32 - 1}:
            raise ValueError("two ends")
        length, start = length64, start64
    if mark != b"PK\x05\x06" or comment or start + length != behind or archive.start_dir != start:
        raise ValueError("a directory at a different position")


def _entry_sizes(file: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """List the bytes of each entry. torch.save does not compress, so compressed or overlapping entries are refused.

    Raises WeightsError if they could unpack to more than the file, ValueError if names are ambiguous: the archive
    reader of torch ignores the case of names.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(
            f"{file} is a compressed archive, which torch.save does not write and which may be a zip bomb"
        )
    claimed, size = sum(entry.file_size for entry in entries), file.stat().st_size
    if claimed > size:
        raise WeightsError(f"{file} claims to contain {_bytes(claimed)}, but has only {_bytes(size)}")
    for entry in entries:
        place = entry.filename.partition("/")[2]
        most = MAX_PICKLE_BYTES if place == "data.pkl" else MAX_SMALL_BYTES
        if not place.startswith("data/") and entry.file_size > most:
            raise WeightsError(
                f"{file} uses {_bytes(entry.file_size)} to describe its tensors, more than any model needs"
            )
    names = [entry.filename for entry in entries]
    folders = {name.partition("/")[0] for name in names}
    odd = any(each.orig_filename != each.filename or each.compress_size != each.file_size for each in entries)
    if odd or len({name.casefold() for name in names}) < len(names) or len(folders) != 1:
        raise ValueError("ambiguous names of entries")
    return {entry.filename: entry.file_size for entry in entries}


def require_sane_header(file: Path) -> None:
    """Raise WeightsError unless the header of a safetensors file matches the rest of the file.

    Format: 8 bytes of header length, little-endian; the header, JSON; then the tensors. Each tensor must occupy exactly
    the bytes of its type and shape, inside the file.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        space = file.stat().st_size - 8
        if len(start) < 8 or length > space:
            raise _unreadable(file, "its header exceeds the file: truncated, or a different format")
        if length > MAX_HEADER_BYTES:
            raise _unreadable(file, f"its header has {_bytes(length)}; the limit is {_bytes(MAX_HEADER_BYTES)}")
        raw = stream.read(length)
    try:
        header: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise _unreadable(file, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _unreadable(file, "its header is not a table of tensors")
    if len(header) > MAX_TENSORS:
        raise _unreadable(file, f"it lists {len(header)} tensors; the limit is {MAX_TENSORS}")
    for key, entry in header.items():
        if key != "__metadata__":
            _require_sane_tensor(file, key, entry, space - length)


def _require_sane_tensor(file: Path, key: str, entry: Any, space: int) -> None:
    name = key[:80]
    if len(key) > MAX_KEY:
        raise _unreadable(file, f"the name {name}… has more than {MAX_KEY} characters")
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(start), int(end)]} if kind in BITS:
            pass
        case _:
            raise _unreadable(file, f"{name} has no valid type, shape and offsets")
    if not all(type(side) is int and 0 <= side <= MAX_SIDE for side in shape) or len(shape) > MAX_AXES:
        raise _unreadable(file, f"{name} has an invalid shape")
    elements = math.prod(shape)
    if elements * BITS[kind] > 8 * space:
        raise WeightsError(f"{file} claims {elements:.3g} elements for {name}, but contains only {_bytes(space)}")
    if not 0 <= start <= end <= space or 8 * (end - start) != elements * BITS[kind]:
        raise _unreadable(file, f"{name} is not at the position stated in the header")


def _unreadable(file: Path, reason: str) -> WeightsError:
    return WeightsError(f"{file} is not a readable safetensors file: {reason}")


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
