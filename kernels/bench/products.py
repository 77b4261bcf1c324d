"""The 1x1 products of the fused blocks in both ways, timed interleaved: the measured rows of product_dispatch.toml."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any

import torch

from ... import precision
from ...catalogue import find
from ...errors import ConvbenchError, first_line
from ..fused.pointwise_products import product_gelu, product_residual, product_squares
from ..product_tiles import OTHER_GPUS, ProductTile, candidates, generation, table, using
from ..registry import all_kernels
from ..schema import DTYPES, Kernel, Shape
from .graph_timing import Graph, buffer_sets, capture, tensor_bytes, time_interleaved

RES = 256
LIBRARY: dict[str, Callable[..., Any]] = {  # kernel -> the same through the library's product and separate passes
    "pointwise_gelu": lambda x, weight, bias, gelu: product_gelu(x, weight, bias, ours=False),
    "pointwise_squares": partial(product_squares, ours=False),
    "pointwise_scaled_residual": partial(product_residual, ours=False),
    "pointwise_residual": partial(product_residual, ours=False),
}


@dataclass(frozen=True)
class Place:
    """A product of a block at one level of the XL network."""

    family: str
    name: str  # of the convolution in the block
    level: int
    channels: int  # width of the block
    kernel: Kernel
    shape: Shape


def places() -> Iterator[Place]:
    """Every product at every level, in the order of product_dispatch.toml."""
    known = {kernel.name: kernel for kernel in all_kernels()}
    for entry in table()["products"]:
        kernel = known[entry["kernel"]]
        model = f"{entry['family']}_xl"
        widths = {level: find(model).options["width"] * 2 ** (level - 1) for level in (1, 2, 3)}
        for level, width in widths.items():
            shape = next(
                s
                for s in kernel.shapes
                if (s.model, s.res, s.level) == (model, RES, level) and _has_width(s, width, entry)
            )
            yield Place(entry["family"], entry["name"], level, width, kernel, shape)


def _has_width(shape: Shape, width: int, entry: dict[str, Any]) -> bool:
    return (shape.channels, shape.out_channels) == (entry["inner"] * width, entry["outer"] * width)


def measure(
    place: Place, batch: int, label: str, failed: Callable[[str], None] = lambda reason: None, device: str = "cuda"
) -> dict[str, Any]:
    """Time one product with each configuration and in the library on buffers that have left the cache.

    ``ratio`` is the library's time over that of our fastest configuration, ``tile``.

    Args:
        failed: called with the name of a configuration that does not compile or launch, and why; the others count.
    """
    kernel, dtype = place.kernel, DTYPES[label]
    gpu = generation(torch.cuda.get_device_capability()) or OTHER_GPUS
    cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
    with torch.inference_mode(), precision.applied(label):
        first = kernel.inputs(place.shape, batch, dtype, device, 1)
        count = buffer_sets(2 * tensor_bytes(first), cache_bytes)
        sets = [first, *(kernel.inputs(place.shape, batch, dtype, device, seed) for seed in range(2, count + 1))]
        ways: dict[ProductTile, Graph] = {}
        for tile in candidates(gpu, dtype.itemsize):
            try:
                with using(tile) as launched:
                    kernel.op(*first)
                    if launched in ([tile], []):  # and not one that is close to it
                        ways[tile] = capture(kernel.op, sets, keep=count)
            except Exception as error:  # of the compiler or the launch, on a machine that no test has seen
                failed(f"{tile.label}: {type(error).__name__}: {first_line(error)}")
        if not ways:
            raise ConvbenchError("no configuration of ours could be launched")
        *times, library = time_interleaved([*ways.values(), capture(LIBRARY[kernel.name], sets, keep=count)])
    fastest, ours = min(zip(ways, times, strict=True), key=lambda way: way[1].p50)
    return {
        "family": place.family,
        "product": place.name,
        "level": place.level,
        "channels": place.channels,
        "batch": batch,
        "precision": label,
        "tile": fastest.label,
        "ours_s": ours.p50,
        "library_s": library.p50,
        "ratio": library.p50 / ours.p50,
    }


def where(batch: int, label: str) -> str:
    """Say on what a row was measured."""
    import triton

    gpu = torch.cuda.get_device_properties(0).name
    return (
        f"{gpu}, torch {torch.__version__}, triton {triton.__version__}, {datetime.now(UTC):%Y-%m-%d}, "
        f"batch {batch}, {label}"
    )


def written(text: str, gpu: str, rows: Sequence[dict[str, Any]], where: str) -> str:
    """The text of product_dispatch.toml with these measured rows in place of those of a GPU generation.

    Rows of one product and level, of several batches or precisions, become one with their median ratio, and the
    configuration of the largest batch in half precision; without half precision none is named.
    """
    found: dict[tuple[str, str, int], list[float]] = {}
    tiles: dict[tuple[str, str, int], str] = {}
    for row in sorted(rows, key=lambda row: row["batch"]):
        place = row["family"], row["product"], row["level"]
        found.setdefault(place, []).append(row["ratio"])
        if DTYPES[row["precision"]].itemsize == 2:
            tiles[place] = row["tile"]
    lines, names = [], {"family": "", "name": ""}
    for line in text.splitlines():
        if key := re.match(r'(family|name) +?= "(\w+)"', line):
            names[key[1]] = key[2]
        start = re.match(r'  \{ gpu = "(\w+)", +level = (\d), channels = (\d+), ', line)
        at = (names["family"], names["name"], int(start[2])) if start and start[1] == gpu else None
        if start and at in found:
            ratio = round(median(found[at]), 3)
            tile = f'tile = "{tiles[at]}", ' if at in tiles else ""
            told = f'ours = {str(ratio > 1).lower()}, ratio = {ratio}, {tile}basis = "measured", where = "{where}"'
            lines.append(f"{start[0]}{told} }},")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"
