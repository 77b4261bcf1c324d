"""``convbench doctor``: what can run here, and what to do for the rest."""

import itertools
from collections.abc import Callable
from functools import partial

import click

from . import options

KEYS = ("area", "what", "works", "reason", "fix")


@click.command(
    "doctor",
    short_help="what works here, and how to fix the rest",
    epilog="\b\nExamples:\n  convbench doctor\n  convbench doctor --all --format json",
)
@click.option("--all", "every", is_flag=True, help="Also show what works; json and csv always include it.")
@options.form()
def command(every: bool, form: str) -> None:
    """Check what convbench can use on this machine: devices, backends, exports, servers, packages and versions.

    Shows everything that cannot run, with the reason and, if there is one, the command that fixes it.
    """
    from .. import doctor

    rows = doctor.examine(_backends(), _exports())
    counts = {word: sum(row["works"] == word for row in rows) for word in ("yes", "no", "perhaps")}
    notes = [f"{counts['yes']} work, {counts['no']} do not, {counts['perhaps']} are of a version that is not tested"]
    if not every and form in ("table", "markdown"):
        rows = [row for row in rows if row["works"] != "yes"]
        notes.append("--all shows what works")
    options.show(rows, KEYS, form, notes)


def _backends() -> dict[str, Callable[[], str | None]]:
    """A check for each backend on each device of this machine."""
    import torch

    from .. import backends
    from ..schema import Case

    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return {
        f"{name} on {device}": partial(backends.find(name).unsupported, Case("dico_s", 256, 1, name, device=device))
        for name, device in itertools.product(backends.names(), devices)
    }


def _exports() -> dict[str, Callable[[], str | None]]:
    """A check for each target of ``convbench export`` in each precision."""
    from ..export import make, targets

    return {
        f"{to} in {precision}": partial(make.require_supported, to, precision)
        for to, precisions in targets.SUPPORTED.items()
        for precision in precisions
    }
