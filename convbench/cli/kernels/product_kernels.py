"""``convbench kernels products``: our 1x1 products and the library's, and the table that chooses between them."""

import itertools
from pathlib import Path
from typing import Any

import click

from ...errors import NothingMeasured, UsageError, first_line
from .. import INTERRUPTED, options
from ..progress import StepProgress
from . import selection

KEYS = ("family", "product", "level", "channels", "batch", "precision", "tile", "ours_s", "library_s", "ratio")
NOTE = (
    "tile: our fastest configuration, rows x columns x inner length. ratio: the library's product with its separate "
    "passes over our fused kernel with that tile, in seconds; above 1, ours is faster."
)


@click.command(
    "products",
    short_help="compare our 1x1 products with the library's",
    epilog="\b\nExamples:\n  convbench kernels products\n"
    "  convbench kernels products --batch 32,64 --write product_dispatch.toml",
)
@selection.precision(default="bf16")
@click.option(
    "--batch", type=options.CommaList(int), default="64", show_default=True, metavar="N[,N…]", help="Batch sizes."
)
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table of choices with these measurements in place of this GPU generation's rows.",
)
@options.form()
def product_kernels(precision: list[str], batch: list[int], write: Path | None, form: str) -> int:
    """Time each 1x1 product of the fused blocks on this GPU: our kernel, and the library's product with its passes.

    Of our kernel every configuration of kernels/product_dispatch.toml is timed. The file of --write takes the place of
    that table, from which the backends triton and triton_graphs choose.
    """
    import torch

    if any(n < 1 for n in batch):
        raise UsageError("--batch must be at least 1")
    if not torch.cuda.is_available():
        raise NothingMeasured("kernels products needs an NVIDIA GPU, and none is available")
    selection.require_triton()
    from ...kernels.bench import products
    from ...kernels.product_tiles import TABLE, generation

    gpu = generation(torch.cuda.get_device_capability())
    if write and not gpu:
        raise UsageError("--write: product_dispatch.toml has no rows for this generation of GPUs")
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    interrupted = False
    works = list(itertools.product(products.places(), batch, precision))
    with StepProgress(len(works)) as progress:
        try:
            for place, size, label in works:
                name = f"{place.family} {place.name} level {place.level}"
                progress.step(name)
                unusable: list[str] = []
                try:
                    rows.append(products.measure(place, size, label, unusable.append))
                except Exception as error:  # too little memory, or a kernel that fails here; the others can be measured
                    failed.append(f"{name}: {type(error).__name__}: {first_line(error)}")
                failed += [f"{name}: {reason}" for reason in unusable]
        except KeyboardInterrupt:
            interrupted = True
    if not rows:
        raise NothingMeasured(f"no product could be measured: {failed[0] if failed else 'interrupted'}")
    if write and gpu:
        text = TABLE.read_text("utf-8")
        where = products.where(max(batch), ",".join(precision))
        write.write_text(products.written(text, gpu, rows, where), "utf-8")
        click.echo(f"Wrote {write}.", err=True)
    options.show(rows, KEYS, form, [NOTE, *failed])
    return INTERRUPTED if interrupted else 0
