"""Looks at a checkpoint before anything in it is made: sizes, places and contents that cannot be are refused.

So a small file cannot ask for more memory than its own length, whatever it claims to hold.
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

MOST_BYTES = 2**37
"""128 GiB: a training checkpoint of the largest model here, with averages and optimiser state, has a tenth of it."""
MOST_HEADER_BYTES = 10**7  # of a safetensors file: a hundred bytes for each tensor
MOST_TENSORS = 50_000  # a training checkpoint of the largest model here has some thousand
MOST_PICKLE_BYTES = 2**24  # of what says where the tensors lie; a large model has some hundred kilobytes
MOST_DIRECTORY_BYTES = 2**24  # of the list of entries of an archive
MOST_SMALL_BYTES = 2**16  # of the other entries of an archive: a version, a byte order
MOST_SIDE, MOST_AXES, MOST_KEY = 2**40, 16, 1024  # of a tensor, and characters of its name
ZIP = b"PK\x03\x04"
END, LOCATOR, END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")  # of an archive
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # with which torch.save before 1.6 began
BITS = {  # of one element of each safetensors type
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


def require_sane_size(file: Path) -> None:
    """Raise WeightsError for a file that no checkpoint of these models can be as large as."""
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise WeightsError(f"{file} has {size / 2**30:.0f} GiB, no checkpoint of these models has over 128")


def require_plain(file: Path) -> bool:
    """Raise WeightsError unless a file of torch.save holds plain data and dense tensors, all of them in the file.

    Returns whether it is a zip archive, as torch.save writes them since 1.6.
    """
    try:
        with file.open("rb") as stream:
            zipped = stream.read(len(ZIP)) == ZIP  # as torch decides
            stream.seek(0)
            (_require_plain_zip if zipped else _require_plain_stream)(file, stream)
    except pickles.NotPlain:
        raise WeightsError(
            f"{file} holds more than plain tensors and was not opened, as reading it could run code in it: "
            "save the state dict alone, or as .safetensors"
        ) from None
    except pickles.Malformed:
        raise WeightsError(
            f"{file} is not a readable PyTorch checkpoint: it is cut off, or torch.save did not write it"
        ) from None
    return zipped


def _require_plain_stream(file: Path, stream: BinaryIO) -> None:
    """Of a file before torch 1.6: five pickles, then the numbers of one storage after the other."""
    size = file.stat().st_size
    head = io.BytesIO(stream.read(MOST_PICKLE_BYTES))
    if _is_tar(head.getvalue()[: tarfile.BLOCKSIZE]):  # older still; torch would unpack it
        raise pickles.Malformed("a tar archive")
    held: dict[str, int] = {}

    def has_room(key: str, count: int) -> bool:
        held[key] = max(count, held.get(key, 0))
        return sum(held.values()) <= size if len(held) <= MOST_TENSORS else False

    if pickles.read(head, has_room) != MAGIC or pickles.read(head, has_room) != PROTOCOL:
        raise pickles.Malformed("another format")
    pickles.read(head, has_room)  # of the machine that wrote it
    pickles.read(head, has_room)
    keys = pickles.read(head, has_room)
    if not isinstance(keys, pickles.Items) or not keys.of_texts:
        raise pickles.Malformed("no list of storages")


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class _Modest(io.BufferedReader):
    """A file that is never asked for much at once: the directory of an archive may claim any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(min(MOST_DIRECTORY_BYTES + 1, size if size is not None and size >= 0 else MOST_BYTES))
        if len(found) > MOST_DIRECTORY_BYTES:
            raise ValueError("a directory beyond all reason")
        return found


def _require_plain_zip(file: Path, stream: BinaryIO) -> None:
    """Of an archive: FOLDER/data.pkl, the numbers of each storage in FOLDER/data/KEY, and small entries beside."""
    with _Modest(io.FileIO(stream.fileno(), closefd=False)) as modest:
        try:
            with zipfile.ZipFile(modest) as archive:
                _require_one_directory(modest, archive)
                entries = _sane_entries(file, archive)
                (pickle,) = [name for name in entries if name.partition("/")[2] == "data.pkl"]
                content = archive.read(pickle)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
            raise WeightsError(f"{file} is not a readable PyTorch checkpoint: its archive is damaged") from None
    folder = pickle.partition("/")[0]
    rest = io.BytesIO(content)
    pickles.read(rest, lambda key, count: entries.get(f"{folder}/data/{key}", -1) >= count)


def _require_one_directory(stream: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Raise ValueError unless the directory of an archive lies where its end says, and only there.

    Python looks for it just before the end, torch's reader at the offset that stands there: a file could show a
    harmless one to the first and another to the second.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(size - END.size)
    mark, *_, length, start, comment = END.unpack(stream.read(END.size))
    behind = size - END.size
    stream.seek(max(0, behind - LOCATOR.size))
    mark64, _, where, _ = LOCATOR.unpack(stream.read(LOCATOR.size))
    if mark64 == b"PK\x06\x07":  # an archive of over 4 GiB says it again, in 64 bits
        behind -= LOCATOR.size + END64.size
        stream.seek(behind)
        again, *_, length64, start64 = END64.unpack(stream.read(END64.size))
        if again != b"PK\x06\x06" or where != behind or {length, start} - {length64, start64, 2**32 - 1}:
            raise ValueError("two ends")
        length, start = length64, start64
    if mark != b"PK\x05\x06" or comment or start + length != behind or archive.start_dir != start:
        raise ValueError("a directory somewhere else")


def _sane_entries(file: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """The length of each entry. torch.save stores without compression, so compressed or overlapping ones are not its.

    Raises WeightsError where they could unpack to more than the file, ValueError where names are ambiguous: torch's
    reader of archives is another, which takes the names of a folder for the same in capitals.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{file} is a compressed archive, which torch.save does not write and which may be a bomb")
    claimed, size = sum(entry.file_size for entry in entries), file.stat().st_size
    if claimed > size:
        raise WeightsError(f"{file} claims to hold {_bytes(claimed)}, but is only {_bytes(size)} long")
    for entry in entries:
        place = entry.filename.partition("/")[2]
        most = MOST_PICKLE_BYTES if place == "data.pkl" else MOST_SMALL_BYTES
        if not place.startswith("data/") and entry.file_size > most:
            raise WeightsError(f"{file} describes its tensors in {_bytes(entry.file_size)}, which no model needs")
    names = [entry.filename for entry in entries]
    folders = {name.partition("/")[0] for name in names}
    odd = any(each.orig_filename != each.filename or each.compress_size != each.file_size for each in entries)
    if odd or len({name.casefold() for name in names}) < len(names) or len(folders) != 1:
        raise ValueError("names that are not those of one checkpoint")
    return {entry.filename: entry.file_size for entry in entries}


def require_sane_header(file: Path) -> None:
    """Raise WeightsError unless the header of a safetensors file fits the file behind it.

    Format: 8 bytes of header length, little-endian; the header, JSON; then the tensors. Each tensor must take exactly
    the bytes that its type and shape need, inside the file.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        space = file.stat().st_size - 8
        if len(start) < 8 or length > space:
            raise _unreadable(file, "its header does not fit in it: cut off, or another format")
        if length > MOST_HEADER_BYTES:
            raise _unreadable(file, f"its header has {_bytes(length)}; at most {_bytes(MOST_HEADER_BYTES)} are read")
        raw = stream.read(length)
    try:
        header: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise _unreadable(file, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _unreadable(file, "its header is not a table of tensors")
    if len(header) > MOST_TENSORS:
        raise _unreadable(file, f"it lists {len(header)} tensors; at most {MOST_TENSORS} are read")
    for key, entry in header.items():
        if key != "__metadata__":
            _require_sane_tensor(file, key, entry, space - length)


def _require_sane_tensor(file: Path, key: str, entry: Any, space: int) -> None:
    name = key[:80]
    if len(key) > MOST_KEY:
        raise _unreadable(file, f"the name {name}… has over {MOST_KEY} characters")
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(start), int(end)]} if kind in BITS:
            pass
        case _:
            raise _unreadable(file, f"{name} has no type, shape and place that safetensors knows")
    if not all(type(side) is int and 0 <= side <= MOST_SIDE for side in shape) or len(shape) > MOST_AXES:
        raise _unreadable(file, f"{name} has a side that is no whole number, or too many of them")
    elements = math.prod(shape)
    if elements * BITS[kind] > 8 * space:
        raise WeightsError(f"{file} claims {elements:.3g} elements for {name}, but holds only {_bytes(space)}")
    if not 0 <= start <= end <= space or 8 * (end - start) != elements * BITS[kind]:
        raise _unreadable(file, f"{name} does not lie where the header says")


def _unreadable(file: Path, reason: str) -> WeightsError:
    return WeightsError(f"{file} is not a readable safetensors file: {reason}")


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
