"""Who computes the 1x1 products of a fused block, our kernel or the library: what dispatch.toml says."""

import math
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PRODUCTS = ("table", "ours", "library")
"""How ``fuse`` may be told to choose: by the table, or one of the two for every product."""


@cache
def table() -> dict[str, Any]:
    """dispatch.toml as it is."""
    return tomllib.loads(Path(__file__).with_name("dispatch.toml").read_text("utf-8"))


def rows(family: str, product: str) -> list[dict[str, Any]]:
    """What is known about one product of one family. Raises KeyError for a product without an entry."""
    for entry in table()["products"]:
        if (entry["family"], entry["name"]) == (family, product):
            return list(entry["rows"])
    raise KeyError(f"dispatch.toml has no product {product} of {family}")


def row_for(family: str, product: str, gpu: str, channels: int) -> dict[str, Any] | None:
    """The row of that GPU generation whose width is nearest, by ratio; None for a generation without rows."""
    known = [row for row in rows(family, product) if row["gpu"] == gpu]
    return min(known, key=lambda row: abs(math.log(row["channels"] / channels)), default=None)


def generation(capability: tuple[int, int]) -> str | None:
    """The rows that a GPU goes by. The smaller shared memory of consumer parts (8.6, 8.9, 12.x) has none."""
    return {(8, 0): "sm_80", (9, 0): "sm_90", (10, 0): "sm_100", (10, 3): "sm_100"}.get(capability)


def choose(family: str, product: str, weight: Tensor, products: str) -> bool:
    """Whether our kernel computes a product of a block, from the device, type and width of the block's first weight.

    On a CPU every op is its PyTorch reference, so that the reference of each is what is run and tested there.
    """
    if products != "table":
        return products == "ours"
    if weight.device.type != "cuda":
        return True
    if weight.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32:
        return False
    gpu = generation(torch.cuda.get_device_capability(weight.device))
    row = gpu and row_for(family, product, gpu, weight.shape[1])
    return bool(row and row["ours"])
