"""Large runs: numbered images in shards, one atomically written file each, merged into an .npz in ADM's layout.

The images of a shard do not depend on the process, so a run can be killed and resumed, and split between the processes
of torchrun: shard s belongs to rank s modulo the world size. The evaluation of ADM (Dhariwal and Nichol 2021) reads the
merged file: arr_0 uint8 (N, H, W, 3), arr_1 int64 labels; or arr_0 float32 (N, C, S, S) latents.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..files import locked, opened, read_json, whole, write_whole

MOST_RECIPE = 2**20  # bytes
SHARD = 256  # images per file: the work that a kill can lose


@dataclass(frozen=True)
class World:
    """Rank of this process among several."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_torchrun(cls) -> "World":
        """Read RANK and WORLD_SIZE as set by torchrun; a single process without them. Raises UsageError if invalid."""
        texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        try:
            rank, size = map(int, texts)
        except ValueError:
            rank, size = -1, 0
        if not 0 <= rank < size:
            raise UsageError(f"RANK={texts[0]}, WORLD_SIZE={texts[1]} are invalid: need 0 <= RANK < WORLD_SIZE")
        return cls(rank, size)

    @property
    def local_rank(self) -> int:
        """Rank among the processes of this machine."""
        return int(os.environ.get("LOCAL_RANK", self.rank))

    def take_gpu(self) -> None:
        """Make a GPU of its own the current one. Raises UsageError if there are fewer than processes."""
        import torch

        if (count := torch.cuda.device_count()) <= self.local_rank:
            raise UsageError(f"process {self.local_rank} has no GPU of its own: this machine has {count}")
        torch.cuda.set_device(self.local_rank)


@dataclass(frozen=True)
class ShardedNpz:
    """An .npz file in progress: FILE, with the folder FILE.parts beside it until all shards are complete."""

    file: Path
    count: int
    facts: Mapping[str, Any]  # of the recipe, which determines the images

    @property
    def parts(self) -> Path:
        return self.file.with_name(self.file.name + ".parts")

    @property
    def record(self) -> Path:
        """Path of the JSON file with the recipe, beside the finished file."""
        return self.file.with_name(self.file.name + ".json")

    def shards(self) -> dict[Path, range]:
        """List the shards with the numbers of their images."""
        starts = range(0, self.count, SHARD)
        return {self.parts / f"{start:09}.npz": range(start, min(start + SHARD, self.count)) for start in starts}

    def begin(self) -> None:
        """Create the folder of parts, or resume one of the same recipe. Raises UsageError if its recipe differs."""
        if not self.file.parent.is_dir():
            raise UsageError(f"cannot write {self.file}: the folder {self.file.parent} does not exist")
        if self.file.exists():
            self._require_same(self.record, f"{self.file} already exists")
            return
        try:
            self.parts.mkdir(exist_ok=True)
            with self._locked():
                recipe = self.parts / "recipe.json"
                if recipe.exists():
                    self._require_same(recipe, f"{self.parts} already exists")
                else:
                    write_whole(recipe, json.dumps(self._facts(), indent=1).encode())
        except OSError as error:
            raise UsageError(f"cannot write {self.parts}: {error.strerror}") from None

    def missing(self, world: World) -> dict[Path, range]:
        """List the shards that this process still has to make."""
        if self.file.exists():
            return {}
        mine = list(self.shards().items())[world.rank :: world.size]
        return {path: numbers for path, numbers in mine if not path.exists()}

    def merge(self) -> bool:
        """Merge the shards once all exist; return True if the file is complete. Any process may call this."""
        if self.file.exists():
            return True
        if not all(path.exists() for path in self.shards()):
            return False
        try:
            with self._locked():
                if not self.file.exists():
                    write_whole(self.record, json.dumps(self._facts(), indent=1).encode())
                    _merge(self.shards(), self.file, self.count)
        except FileNotFoundError:  # another process has merged and removed the parts
            return self.file.exists()
        shutil.rmtree(self.parts, ignore_errors=True)
        return True

    def _facts(self) -> dict[str, Any]:
        return {**self.facts, "count": self.count}

    def _require_same(self, path: Path, what: str) -> None:
        try:
            found = read_json(path, MOST_RECIPE)
        except UsageError:
            found = None
        found = found if isinstance(found, dict) else {}
        differing = [key for key, value in self._facts().items() if found.get(key, "nothing") != value]
        if differing:
            key = differing[0]
            raise UsageError(
                f"{what} with a different recipe: {key} is {found.get(key, 'unknown')}, not {self._facts()[key]}; "
                "specify a different --npz or remove it"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.parts / "lock"):
            yield


def write_shard(path: Path, images: NDArray[Any], labels: list[int]) -> None:
    """Write a shard atomically."""
    with whole(path) as file:
        np.savez(file, arr_0=images, arr_1=np.array(labels, np.int64))


def _merge(shards: Mapping[Path, range], into: Path, count: int) -> None:
    """Copy the arrays of the parts in order, so that memory holds one part at a time."""
    first, numbers = next(iter(shards.items()))
    arrays = {name: (value.shape[1:], value.dtype) for name, value in _arrays(first, len(numbers)).items()}
    with whole(into) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, (shape, kind) in arrays.items():
            # The date of a ZipInfo is fixed, so the same images give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                for part, numbers in shards.items():
                    value = _arrays(part, len(numbers))[name]
                    if (value.shape[1:], value.dtype) != (shape, kind):
                        raise _foreign(part)
                    stream.write(np.ascontiguousarray(value).tobytes())


def _arrays(part: Path, images: int) -> dict[str, NDArray[Any]]:
    """The arrays of a part, whoever wrote it: images (N, H, W, 3) or latents (N, C, S, S), and labels (N,).

    Raises UsageError for anything else, and for packed arrays, which could take any memory.
    """
    try:
        with opened(part) as file, zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError
            file.seek(0)
            with np.load(file, allow_pickle=False) as given:
                found = {name: given[name] for name in ("arr_0", "arr_1")}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile):
        raise _foreign(part) from None
    values, labels = found.values()
    is_right = values.dtype in (np.uint8, np.float32) and values.ndim == 4 and labels.dtype == np.int64
    if not is_right or len(values) != images or labels.shape != (images,):
        raise _foreign(part)
    return found


def _foreign(part: Path) -> UsageError:
    return UsageError(f"{part} does not hold the images of this run: remove it, and the same command makes them again")
