"""Options and requirements that the commands on kernels share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from .. import options

if TYPE_CHECKING:
    from ...kernels.schema import Kernel

PRECISIONS = ("fp32", "fp16", "bf16")


def kernel() -> Callable[[Any], Any]:
    """The option --kernel: names, or None for all."""
    return click.option(
        "--kernel", "names", type=options.CommaList(), metavar="K[,K…]", help="Names of kernels [default: all]."
    )


def precision(default: str) -> Callable[[Any], Any]:
    """The option --precision: a list of the precisions that kernels have."""
    return click.option(
        "--precision",
        type=options.CommaList(known=lambda: PRECISIONS),
        callback=_require_precisions,
        default=default,
        show_default=True,
        metavar="P[,P…]",
        help=f"Precisions: {', '.join(PRECISIONS)}.",
    )


def _require_precisions(ctx: click.Context, param: click.Parameter, value: list[str]) -> list[str]:
    for each in value:
        if each not in PRECISIONS:
            raise UsageError(f"unknown kernel precision '{each}'; choose from {', '.join(PRECISIONS)}")
    return value


def selected(names: list[str] | None) -> "list[Kernel]":
    """Return the kernels with these names, or all. Raises UsageError for an unknown name."""
    from ...kernels import registry

    known = {kernel.name: kernel for kernel in registry.all_kernels()}
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown kernel '{name}'; choose from {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def require_triton() -> None:
    """Raise UsageError where Triton is not installed."""
    from ...kernels import language

    language.require_triton()
