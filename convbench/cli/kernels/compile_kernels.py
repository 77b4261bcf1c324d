"""``convbench kernels compile``: ahead of time, for GPUs that this machine need not have."""

from typing import Any

import click

from .. import options
from ..progress import StepProgress
from . import selection

KEYS = (
    *("kernel", "configuration", "precision", "target"),
    *("registers", "stack", "spills", "shared", "loads_128", "loads", "mma", "seconds"),
)
TARGETS = ("sm_80", "sm_90", "sm_100")


@click.command(
    "compile",
    short_help="compile ahead of time, without a GPU",
    epilog="\b\nExamples:\n  convbench kernels compile --target sm_80,sm_90\n"
    "  convbench kernels compile --kernel depthwise_7x7 --target sm_90 --precision bf16,fp32",
)
@click.option(
    "--target",
    "targets",
    type=options.CommaList(known=lambda: TARGETS),
    default=",".join(TARGETS),
    show_default=True,
    metavar="SM[,SM…]",
    help="GPU targets to compile for.",
)
@selection.kernel()
@selection.precision(default="bf16")
@options.form()
def compile_kernels(targets: list[str], names: list[str] | None, precision: list[str], form: str) -> int:
    """Compile the kernels ahead of time and print the registers, stack, spills, shared memory and vector loads of each.

    Needs Triton, but no GPU. Exits with 1 if a kernel does not compile.
    """
    from ...kernels.aot.budgets import budget_key
    from ...kernels.aot.compiler import compile_for
    from ...kernels.aot.targets import require_known, ships_for
    from ...kernels.aot.worker import cache_folder

    require_known(targets)
    kernels = selection.selected(names)
    selection.require_triton()
    rows: list[dict[str, Any]] = []
    shipped = [each for kernel in kernels for label in precision for each in kernel.compilations(label)]
    with StepProgress(sum(ships_for(each, target) for target in targets for each in shipped)) as progress:
        for target in targets:
            for row in compile_for(target, precision, kernels=[kernel.name for kernel in kernels]):
                progress.step(f"{target} {row['configuration']} {row['precision']}")
                rows.append(row)
    notes = [
        f"Triton {rows[0]['triton']}. Registers of a thread, stack in bytes, 16-byte loads as a part of all loads."
    ]
    if any(row.get("cached") for row in rows):
        notes.append(f"Some results come from {cache_folder()}, with the seconds of their compilation.")
    failed = [row for row in rows if row["error"]]
    notes += [f"{budget_key(row)} does not compile: {row['error']}" for row in failed]
    options.show([{**row, "error": None} for row in rows] if form == "table" else rows, KEYS, form, notes)
    return 1 if failed else 0
