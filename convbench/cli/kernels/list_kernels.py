"""``convbench kernels list``: the fused kernels and what they replace."""

import click

from .. import options
from . import selection

KEYS = ("kernel", "families", "replaces", "min_bytes", "min_flops", "summary")
NOTE = (
    "least MB, MFLOPs: memory traffic and products of one image in half precision at the first level of the XL "
    "network, 256 px."
)


@click.command(
    "list",
    short_help="the kernels and the modules that they replace",
    epilog="\b\nExamples:\n  convbench kernels list\n  convbench kernels list --kernel gate_residual --format json",
)
@selection.kernel()
@options.form()
def list_kernels(names: list[str] | None, form: str) -> int:
    """List the fused Triton kernels, one operation each, and the network modules that they replace."""
    from ... import catalogue

    rows = []
    for kernel in selection.selected(names):
        shape = kernel.shapes[0]
        families = dict.fromkeys(catalogue.find(shape.model).family.name for shape in kernel.shapes)
        rows.append(
            {
                "kernel": kernel.name,
                "families": ", ".join(families),
                "replaces": kernel.replaces,
                "summary": kernel.summary,
                "where": shape.label,
                "batch": 1,
                "min_bytes": kernel.min_bytes(shape, 1, 2),
                "min_flops": kernel.flops(shape, 1),
            }
        )
    options.show(rows, KEYS, form, [NOTE])
    return 0
