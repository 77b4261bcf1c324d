"""Large runs: numbered images in shards, one file each, written whole; merged into ADM's .npz at the end.

A shard holds the same images whoever computes it, so a run can be killed and resumed, and split between the processes
of torchrun: shard s belongs to rank s modulo the world size. The merged file is what the evaluation of ADM (Dhariwal
and Nichol 2021) reads: arr_0 uint8 (N, H, W, 3), arr_1 int64 labels; or arr_0 float32 (N, C, S, S) latents.
"""

import fcntl
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
from ..files import whole, write_whole

SHARD = 256  # images a file: the most work that a kill can lose


@dataclass(frozen=True)
class World:
    """Which of several processes this one is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_torchrun(cls) -> "World":
        """As torchrun says in RANK and WORLD_SIZE; alone without them. Raises UsageError for what cannot be."""
        texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        try:
            rank, size = map(int, texts)
        except ValueError:
            rank, size = -1, 0
        if not 0 <= rank < size:
            raise UsageError(f"RANK={texts[0]} and WORLD_SIZE={texts[1]} are no place among processes")
        return cls(rank, size)


@dataclass(frozen=True)
class Run:
    """A .npz that is being made: FILE, with FILE.parts beside it until all of it is there."""

    file: Path
    count: int
    facts: Mapping[str, Any]  # of the recipe: what decides the images

    @property
    def parts(self) -> Path:
        return self.file.with_name(self.file.name + ".parts")

    @property
    def record(self) -> Path:
        """The recipe of the finished file, as JSON beside it."""
        return self.file.with_name(self.file.name + ".json")

    def shards(self) -> dict[Path, range]:
        """The numbers of the images in each part."""
        starts = range(0, self.count, SHARD)
        return {self.parts / f"{start:09}.npz": range(start, min(start + SHARD, self.count)) for start in starts}

    def begin(self) -> None:
        """Make the folder of parts, or go on with one of the same recipe. Raises UsageError for one of another."""
        if not self.file.parent.is_dir():
            raise UsageError(f"cannot write {self.file}: there is no folder {self.file.parent}")
        if self.file.exists():
            self._require_same(self.record, f"{self.file} is there already")
            return
        try:
            self.parts.mkdir(exist_ok=True)
            with self._locked():
                recipe = self.parts / "recipe.json"
                if recipe.exists():
                    self._require_same(recipe, f"{self.parts} holds parts")
                else:
                    write_whole(recipe, json.dumps(self._facts(), indent=1).encode())
        except OSError as error:
            raise UsageError(f"cannot write {self.parts}: {error.strerror}") from None

    def left(self, world: World) -> dict[Path, range]:
        """Parts that this process still has to make."""
        if self.file.exists():
            return {}
        mine = list(self.shards().items())[world.rank :: world.size]
        return {path: numbers for path, numbers in mine if not path.exists()}

    def merge(self) -> bool:
        """Put the parts together once all are there, and say whether the file is complete. Any process may ask."""
        if self.file.exists():
            return True
        if not all(path.exists() for path in self.shards()):
            return False
        try:
            with self._locked():
                if not self.file.exists():
                    write_whole(self.record, json.dumps(self._facts(), indent=1).encode())
                    _merge(list(self.shards()), self.file, self.count)
        except FileNotFoundError:  # another process was faster and has removed the parts
            return self.file.exists()
        shutil.rmtree(self.parts, ignore_errors=True)
        return True

    def _facts(self) -> dict[str, Any]:
        return {**self.facts, "count": self.count}

    def _require_same(self, path: Path, what: str) -> None:
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            found = {}
        other = [key for key, value in self._facts().items() if found.get(key, "nothing") != value]
        if other:
            raise UsageError(
                f"{what} of another run: {other[0]} is {found.get(other[0], 'not known')}, asked for is "
                f"{self._facts()[other[0]]}; give another --npz or remove it"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.parts / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def write_shard(path: Path, images: NDArray[Any], labels: list[int]) -> None:
    """Write a part, whole or not at all."""
    with whole(path) as file:
        np.savez(file, arr_0=images, arr_1=np.array(labels, np.int64))


def _merge(parts: list[Path], into: Path, count: int) -> None:
    """Copy the arrays of the parts one after the other, so that memory holds one part at a time."""
    with np.load(parts[0]) as first:
        arrays = {name: (first[name].shape[1:], first[name].dtype) for name in ("arr_0", "arr_1")}
    with whole(into) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, (shape, kind) in arrays.items():
            # The date of a ZipInfo is fixed, so the same images give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                for part in parts:
                    with np.load(part) as arrays_of_part:
                        stream.write(np.ascontiguousarray(arrays_of_part[name]).tobytes())
