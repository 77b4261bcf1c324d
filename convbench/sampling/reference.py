"""Reference statistics of an FID: an .npz file of the usual evaluation suites (ADM, EDM) with mu (F,) and sigma (F, F).

Such a file is data from elsewhere. Its two arrays are read only once their sizes, types and shapes have been found to
be those of statistics, so that a small file cannot unpack to more than it may; no array of objects is read. Other
arrays, such as the images ``arr_0`` and the spatial features ``mu_s`` and ``sigma_s`` of ADM's files, are not touched.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..files import opened
from ..weights.container import BoundedReader
from .frechet import Statistics

MOST_FEATURES = 8192
MOST_HEADER = 4096  # bytes of the head of an array, of which one of numbers needs 128
# Version 1.0 of the format alone: the head of another may be of any length. numpy parses less plain ones as Python.
HEAD = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']{2,9})', "
    rb"'fortran_order': (?:True|False), 'shape': \(([0-9, ]{0,60})\), \} *\n",
    re.DOTALL,
)
LARGEST = 1e15  # what is beyond overflows in products
ROUNDING = 1e-5  # of the largest value: how asymmetric, and how far below 0, rounding to float32 leaves a covariance
FORM = "expected an .npz file with the arrays mu (F) and sigma (F, F), as the evaluation suites of ADM and EDM use"


def read(path: Path) -> tuple[Statistics, str]:
    """Read statistics and the SHA-256 of their file. Raises UsageError with one line for anything else."""
    try:
        with opened(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with BoundedReader(io.FileIO(file.fileno(), closefd=False)) as bounded, zipfile.ZipFile(bounded) as archive:
                mean = _array(path, archive, "mu", 1)
                covariance = _array(path, archive, "sigma", 2, len(mean))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        raise UsageError(f"{path} is not a readable .npz file: {FORM}") from None
    return _checked(path, mean, covariance), digest


def _array(path: Path, archive: zipfile.ZipFile, name: str, axes: int, features: int | None = None) -> Tensor:
    """Read an array of float32 or float64 of ``axes`` equal sides, those of ``features`` if given. -> float64"""
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise UsageError(f"{path} holds no array {name}: {FORM}") from None
    most = MOST_HEADER + 8 * MOST_FEATURES**axes
    if entry.file_size > most:
        raise UsageError(f"{path}: {name} claims {entry.file_size} bytes; statistics of features have at most {most}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("a compression that numpy does not write")
    with archive.open(entry) as stream:
        head = HEAD.match(stream.read(MOST_HEADER))
    if head is None:
        raise ValueError("a head that numpy does not write for numbers")
    kind, shape = head[1].decode("latin-1"), head[2].decode()
    sides = [int(side) for side in shape.split(",") if side.strip()]
    if len(sides) != axes or len(set(sides)) != 1 or not 0 < sides[0] <= MOST_FEATURES:
        wanted = "(F,)" if axes == 1 else "(F, F)"
        raise UsageError(f"{path}: {name} has the shape ({shape}), not {wanted} with F at most {MOST_FEATURES}")
    if kind[1:] not in ("f4", "f8"):
        raise UsageError(f"{path}: {name} has the type {kind}, not float32 or float64")
    if features not in (None, sides[0]):
        raise UsageError(f"{path}: mu is of {features} features, {name} of {sides[0]}")
    if entry.file_size != head.end() + int(kind[-1]) * math.prod(sides):
        raise ValueError("more or fewer values than the shape says")
    with archive.open(entry) as stream:
        values = np.lib.format.read_array(stream, allow_pickle=False)
    return torch.from_numpy(values.astype("f8", order="C", copy=False))


def _checked(path: Path, mean: Tensor, covariance: Tensor) -> Statistics:
    """Check that a mean and a covariance can be those of features."""
    for name, values in (("mu", mean), ("sigma", covariance)):
        if not (values.isfinite().all() and values.abs().max() <= LARGEST):
            raise UsageError(f"{path}: {name} holds values that are not finite or above {LARGEST:g}")
    largest = covariance.abs().max().item()
    if (covariance - covariance.T).abs().max() > ROUNDING * largest:
        raise UsageError(f"{path}: sigma is not symmetric, which a covariance is")
    real = Statistics(mean, (covariance + covariance.T) / 2, biased=True)
    if real.smallest < -ROUNDING * largest:
        raise UsageError(
            f"{path}: sigma has the eigenvalue {real.smallest:.1e}; those of a covariance are not negative"
        )
    return real
