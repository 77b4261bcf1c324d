"""The configurations of the 1x1 products and the choice among them, both from product_dispatch.toml.

A measured row names the configuration of its product; for every other shape the model of docs/kernels.md takes the
candidate with the least time. K is the inner length (input channels), C the number of columns (output channels).
"""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ..schema import Second
from .layout import cdiv

TABLE = Path(__file__).with_name("product_dispatch.toml")
OTHER_GPUS = "sm_80"  # whose candidates other generations take: they need no descriptors and the least shared memory


@dataclass(frozen=True)
class ProductTile:
    """Rows (pixels), columns (output channels) and inner length of a program's step, and how it runs."""

    rows: int
    cols: int
    inner: int
    warps: int
    stages: int
    descriptors: bool = False  # operands are copied by the tensor memory accelerator (from sm_90), not by threads
    persistent: bool = False  # as many programs as multiprocessors, each of which computes one tile after the other

    @property
    def label(self) -> str:
        """Name of the configuration, as the table and the budgets write it."""
        ways = [name for name in ("descriptors", "persistent") if getattr(self, name)]
        return ", ".join([f"{self.rows}x{self.cols}x{self.inner}", f"{self.warps}w{self.stages}s", *ways])


@dataclass(frozen=True)
class Product:
    """A product as the choice sees it."""

    kernel: str  # its name in ``convbench kernels``
    gpu: str  # generation, such as sm_90
    itemsize: int  # bytes of an element
    rows: int  # pixels of the whole batch
    inner: int
    cols: int
    most_rows: int | None = None  # of a tile, where it may hold pixels of one sample only
    described: bool = True  # whether descriptors can describe the operands


@cache
def table() -> dict[str, Any]:
    """Read product_dispatch.toml."""
    return tomllib.loads(TABLE.read_text("utf-8"))


def generation(capability: tuple[int, int]) -> str | None:
    """Name the rows that apply to a GPU. Consumer parts (8.6, 8.9, 12.x), with less shared memory, have none."""
    return {(8, 0): "sm_80", (9, 0): "sm_90", (10, 0): "sm_100", (10, 3): "sm_100"}.get(capability)


@cache
def candidates(gpu: str, itemsize: int) -> tuple[ProductTile, ...]:
    """The configurations for a generation of GPUs and elements of ``itemsize`` bytes, the preferred ones first."""
    names = [field.name for field in fields(ProductTile)]
    return tuple(
        ProductTile(**{key: value for key, value in entry.items() if key in names})
        for entry in table()["tiles"]
        if gpu in entry["gpus"] and entry["bytes"] == itemsize
    )


def usable(product: Product) -> list[ProductTile]:
    """The candidates that can compute a product; for maps smaller than every tile, the plainest with fewer rows."""
    able = [t for t in candidates(product.gpu, product.itemsize) if product.described or not t.descriptors]
    most = product.most_rows
    return [t for t in able if not most or t.rows <= most] or [limited(t, product) for t in able if not t.descriptors]


def limited(tile: ProductTile, product: Product) -> ProductTile:
    """A configuration with no more rows than the product may have, and without descriptors where it has none."""
    rows = min(tile.rows, product.most_rows or tile.rows)
    return replace(tile, rows=rows, descriptors=tile.descriptors and product.described)


def modelled_s(tile: ProductTile, product: Product) -> Second:
    """Least seconds of a product: tensor cores or L2, of whole tiles, in whole rounds over the multiprocessors.

    A program reads BM + BN rows of its operands from L2 for BM x BN outputs, and what lies outside of the matrix is
    multiplied, though not read.
    """
    rates = table()["rates"][product.gpu]
    flops = 2 * tile.rows * tile.cols * cdiv(product.inner, tile.inner) * tile.inner
    read = (tile.rows + tile.cols) * product.inner * product.itemsize
    programs = cdiv(product.rows, tile.rows) * cdiv(product.cols, tile.cols)
    rounded = cdiv(programs, rates["multiprocessors"]) * rates["multiprocessors"]
    return float(rounded * max(flops / rates["matmul_flops_per_s"], read / rates["l2_bytes_per_s"]))


@lru_cache(maxsize=4096)
def chosen(product: Product) -> ProductTile:
    """The configuration of a product: that of its measured row, or the usable candidate of least modelled time."""
    able = usable(product)
    for entry in table()["products"]:
        for row in entry["rows"]:
            widths = row["channels"] * entry["inner"], row["channels"] * entry["outer"]
            if "tile" in row and (entry["kernel"], row["gpu"], *widths) == (
                *(product.kernel, product.gpu, product.inner, product.cols),
            ):
                measured = [t for t in able if product.itemsize == 2 and t.label == row["tile"]]
                if measured:
                    return measured[0]
    return min(able, key=lambda tile: modelled_s(tile, product))


_forced: list[tuple[ProductTile, list[ProductTile]]] = []


@contextmanager
def using(tile: ProductTile) -> Iterator[list[ProductTile]]:
    """Make every product inside the block use a configuration, for the bench and the tests.

    Yields the list of what is launched: a product that cannot have the configuration takes one that is close to it.
    """
    launched: list[ProductTile] = []
    _forced.append((tile, launched))
    try:
        yield launched
    finally:
        _forced.pop()


def tile_of(product: Product) -> ProductTile:
    """The configuration to launch: ``chosen``, or the one of ``using`` as far as the product can have it."""
    if not _forced:
        return chosen(product)
    asked, launched = _forced[-1]
    launched.append(limited(asked, product))
    return launched[-1]
