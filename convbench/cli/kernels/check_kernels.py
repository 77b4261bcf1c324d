"""``convbench kernels check``: the error of each fused operation against float64."""

import click

from .. import options
from ..progress import StepProgress
from . import selection

KEYS = ("kernel", "where", "precision", "device", "path", "error", "error_eager", "error_limit", "status")
NOTE = "Relative L2 errors against float64. The limit is the error of eager in the same precision, or that of rounding."
ON_CPU = (
    "No GPU is available: the operations ran their PyTorch references, so this checked the references and not the "
    "Triton kernels. The tests check those in Triton's interpreter."
)


@click.command(
    "check",
    short_help="compare each operation with its float64 reference",
    epilog="\b\nExamples:\n  convbench kernels check\n"
    "  convbench kernels check --kernel gate_residual --precision bf16",
)
@selection.kernel()
@selection.precision(default=",".join(selection.PRECISIONS))
@options.form()
def check_kernels(names: list[str] | None, precision: list[str], form: str) -> int:
    """Compare each fused operation with its float64 reference, on the GPU if there is one, otherwise on the CPU.

    Exits with 1 if an error exceeds its limit.
    """
    from ...environment import default_device
    from ...kernels.accuracy import check_accuracy

    kernels, device = selection.selected(names), default_device()
    if device == "cuda":
        selection.require_triton()
        places = [(kernel, shape) for kernel in kernels for shape in kernel.shapes]
    else:  # the levels differ in how they use a GPU; on a CPU the smallest one is enough
        places = [(kernel, min(kernel.shapes, key=lambda shape: shape.pixels * shape.channels)) for kernel in kernels]
    rows = []
    with StepProgress(len(places) * len(precision)) as progress:
        for kernel, shape in places:
            for label in precision:
                progress.step(f"{kernel.name} {label}")
                rows.append(check_accuracy(kernel, shape, label, device))
    options.show(rows, KEYS, form, [NOTE, *([ON_CPU] if device == "cpu" else [])])
    return 0 if all(row["status"] == "ok" for row in rows) else 1
