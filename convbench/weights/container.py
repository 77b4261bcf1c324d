"""Looks at the outside of a checkpoint before anything in it is read: sizes and places that cannot be are refused.

So a small file cannot ask for more memory than its own length, whatever it claims to hold.
"""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

from ..errors import WeightsError

MOST_BYTES = 2**37
"""128 GiB: a training checkpoint of the largest model here, with averages and optimiser state, has a tenth of it."""
MOST_HEADER_BYTES = 10**8  # of a safetensors file: the limit of the format
MOST_PICKLE_BYTES = 10**8  # of what says where the tensors lie; a large model has some hundred kilobytes
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


def require_sane_zip(file: Path) -> bool:
    """Raise WeightsError for a zip archive that could unpack to more than its own size.

    torch.save stores without compression, so compressed or overlapping entries are not its work. Returns whether it
    is such an archive at all.
    """
    try:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        raise _unreadable_zip(file) from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{file} is a compressed archive, which torch.save does not write and which may be a bomb")
    claimed = sum(entry.file_size for entry in entries)
    if claimed > file.stat().st_size:
        raise WeightsError(f"{file} claims to hold {_bytes(claimed)}, but is only {_bytes(file.stat().st_size)} long")
    for entry in entries:
        if entry.filename.endswith("data.pkl") and entry.file_size > MOST_PICKLE_BYTES:
            raise WeightsError(f"{file} describes its tensors in {_bytes(entry.file_size)}, which no model needs")
    return True


def _unreadable_zip(file: Path) -> WeightsError:
    return WeightsError(f"{file} is not a readable PyTorch checkpoint: its archive is damaged")


def require_sane_header(file: Path) -> None:
    """Raise WeightsError unless the header of a safetensors file fits the file behind it.

    Format: 8 bytes of header length, little-endian; the header, JSON; then the tensors. Each tensor must take exactly
    the bytes that its type and shape need, inside the file.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        space = file.stat().st_size - 8
        if len(start) < 8 or length > space or length > MOST_HEADER_BYTES:
            raise _unreadable(file, "its header does not fit in it: cut off, or another format")
        raw = stream.read(length)
    try:
        header: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise _unreadable(file, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _unreadable(file, "its header is not a table of tensors")
    for key, entry in header.items():
        if key != "__metadata__":
            _require_sane_tensor(file, key, entry, space - length)


def _require_sane_tensor(file: Path, key: str, entry: Any, space: int) -> None:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(start), int(end)]} if kind in BITS:
            pass
        case _:
            raise _unreadable(file, f"{key[:80]} has no type, shape and place that safetensors knows")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise _unreadable(file, f"{key[:80]} has a side that is no whole number")
    elements = math.prod(shape)
    if elements * BITS[kind] > 8 * space:
        raise WeightsError(f"{file} claims {elements:.3g} elements for {key[:80]}, but holds only {_bytes(space)}")
    if not 0 <= start <= end <= space or 8 * (end - start) != elements * BITS[kind]:
        raise _unreadable(file, f"{key[:80]} does not lie where the header says")


def _unreadable(file: Path, reason: str) -> WeightsError:
    return WeightsError(f"{file} is not a readable safetensors file: {reason}")


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
