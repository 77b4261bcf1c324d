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
from ..fused import product_dispatch
from ..fused.pointwise_products import product_gelu, product_residual, product_squares
from ..registry import all_kernels
from ..schema import DTYPES, Kernel, Shape
from .graph_timing import buffer_sets, capture, tensor_bytes, time_interleaved

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
    for entry in product_dispatch.table()["products"]:
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
    return shape.channels * shape.out_channels == entry["macs_per_c2"] * width**2


def measure(place: Place, batch: int, label: str, device: str = "cuda") -> dict[str, Any]:
    """Time one product in both ways on buffers that have left the cache; ``ratio`` is the library's time over ours."""
    kernel, dtype = place.kernel, DTYPES[label]
    cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
    with torch.inference_mode(), precision.applied(label):
        first = kernel.inputs(place.shape, batch, dtype, device, 1)
        count = buffer_sets(2 * tensor_bytes(first), cache_bytes)
        sets = [first, *(kernel.inputs(place.shape, batch, dtype, device, seed) for seed in range(2, count + 1))]
        graphs = [capture(way, sets, keep=count) for way in (kernel.op, LIBRARY[kernel.name])]
        ours, library = time_interleaved(graphs)
    return {
        "family": place.family,
        "product": place.name,
        "level": place.level,
        "channels": place.channels,
        "batch": batch,
        "precision": label,
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

    Rows of one product and level, of several batches or precisions, become one with their median ratio.
    """
    found: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["family"], row["product"], row["level"]), []).append(row["ratio"])
    lines, names = [], {"family": "", "name": ""}
    for line in text.splitlines():
        if key := re.match(r'(family|name) +?= "(\w+)"', line):
            names[key[1]] = key[2]
        place = re.match(r'  \{ gpu = "(\w+)", +level = (\d), channels = (\d+), ', line)
        ratios = found.get((names["family"], names["name"], int(place[2]))) if place and place[1] == gpu else None
        if place and ratios:
            ratio = round(median(ratios), 3)
            told = f'ours = {str(ratio > 1).lower()}, ratio = {ratio}, basis = "measured", where = "{where}"'
            lines.append(f"{place[0]}{told} }},")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"
