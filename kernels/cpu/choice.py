"""The fastest algorithm for a convolution on this processor: measured once, in some milliseconds, and kept.

Which of F(4x4), F(2x2) and direct convolution wins depends on whether reading the weights, which are 4 or 1.8 times as
many transformed, or computing takes longer: on channels, tiles, threads and the processor.
"""

import json
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median

import torch

from ...errors import UsageError
from ...files import read_json
from . import compiled, convolution
from .convolution import KINDS

CALLS = 25
COLD_BYTES, MOST_COPIES = 2**26, 16  # of weights: more than a cache holds
MOST_BATCH = 8  # measured: with more images, only the number of equal blocks grows
MOST_ENTRIES = 10_000


@dataclass(frozen=True)
class ConvShape:
    """A convolution, as far as its speed depends on it."""

    inputs: int
    outputs: int
    height: int
    width: int
    batch: int
    threads: int

    @property
    def key(self) -> str:
        return "x".join(map(str, astuple(self)))


def fastest(shapes: list[ConvShape]) -> dict[ConvShape, str]:
    """The name of the fastest of KINDS for each shape. Measures, and keeps, what is not known yet."""
    measured = [_bounded(shape) for shape in shapes]
    known = _read()
    if unknown := [shape for shape in dict.fromkeys(measured) if shape.key not in known]:
        known |= {shape.key: measure(shape) for shape in unknown}
        _write(known)
    return {
        shape: min(known[each.key], key=known[each.key].__getitem__)
        for shape, each in zip(shapes, measured, strict=True)
    }


def measure(shape: ConvShape) -> dict[str, float]:
    """Median seconds of each of KINDS, interleaved, on random data.

    As in a network, each call finds its input in a cache and its weights in memory: it takes the next of many copies.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.batch, shape.inputs, shape.height, shape.width, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(shape.outputs, shape.inputs, 3, 3, generator=generator)
    copies: dict[str, list[torch.Tensor]] = {}
    for name, kind in KINDS.items():
        first = convolution.packed(weight, kind)
        copies[name] = [first.clone() for _ in range(min(MOST_COPIES, 1 + COLD_BYTES // first.nbytes))]
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    threads = torch.get_num_threads()
    torch.set_num_threads(shape.threads)
    try:
        for call in range(CALLS):
            for name, kind in KINDS.items():
                packed = copies[name][call % len(copies[name])]
                started = time.perf_counter()
                convolution.conv3x3(x, packed, kind, shape.outputs)
                seconds[name].append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return {name: median(taken) for name, taken in seconds.items()}


def table() -> Path:
    """The file of measured seconds, which belongs to one build of the library."""
    return Path(compiled.library()._name).with_suffix(".json")


def _bounded(shape: ConvShape) -> ConvShape:
    return replace(shape, batch=min(shape.batch, MOST_BATCH))


def _read() -> dict[str, dict[str, float]]:
    """Read the stored times. A damaged file counts as none: it is measured again."""
    try:
        found = read_json(table())
    except UsageError:
        return {}
    if not isinstance(found, dict) or len(found) > MOST_ENTRIES:
        return {}
    return {key: times for key, times in found.items() if _is_sound(times)}


def _is_sound(times: object) -> bool:
    return (
        isinstance(times, dict) and set(times) == set(KINDS) and all(type(s) is float and s > 0 for s in times.values())
    )


def _write(known: dict[str, dict[str, float]]) -> None:
    path = table()
    partial = path.with_suffix(f".{time.monotonic_ns()}.partial")
    try:
        partial.write_text(json.dumps(known, indent=0) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path} (set CONVBENCH_CACHE to another folder): {error.strerror}") from None
