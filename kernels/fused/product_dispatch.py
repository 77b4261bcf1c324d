"""The choice between our kernel and the library for each 1x1 product of a fused block, from product_dispatch.toml."""

import math
from typing import Any

import torch
from torch import Tensor

from ..product_tiles import generation, table

PRODUCTS = ("table", "ours", "library")
"""The choices of ``fuse``: by the table, or one of the two for every product."""


def rows(family: str, product: str) -> list[dict[str, Any]]:
    """Return the rows of one product of one family. Raises KeyError for a product without an entry."""
    for entry in table()["products"]:
        if (entry["family"], entry["name"]) == (family, product):
            return list(entry["rows"])
    raise KeyError(f"product_dispatch.toml has no product {product} of {family}")


def row_for(family: str, product: str, gpu: str, channels: int) -> dict[str, Any] | None:
    """Return the row of a GPU generation whose width is nearest, by ratio; None for a generation without rows."""
    known = [row for row in rows(family, product) if row["gpu"] == gpu]
    return min(known, key=lambda row: abs(math.log(row["channels"] / channels)), default=None)


def choose(family: str, product: str, weight: Tensor, products: str) -> bool:
    """Decide whether our kernel computes a product of a block, from the device, type and width of its first weight.

    On a CPU the answer is yes: every operation is its PyTorch reference there, and runs and is tested as such.

    Args:
        weight: First weight of the block, (C, C) or (C, C, 1, 1).
        products: One of ``PRODUCTS``.
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
