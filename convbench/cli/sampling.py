"""``convbench throughput --sampling``: finished images/s, and where the time goes."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from .. import catalogue
from ..schema import Case
from . import INTERRUPTED, options

KEYS = (
    "model",
    "res",
    "batch",
    "backend",
    "precision",
    "device",
    "threads",
    "sampler",
    "steps",
    "cfg_scale",
    "finished_images_per_s",
    "finished_interval",
    "backbone_share",
    "guidance_share",
    "sampler_share",
    "decoder_share",
    "unattributed_share",
    "status",
    "verdict",
)
PLAN_KEYS = ("model", "res", "batch", "backend", "precision", "device", "threads", "sampler", "steps", "skipped")
NOTE = (
    "finished images/s: through all steps, with guidance, and decoded where there is a share for it; not to be set "
    "beside the images/s of forward passes."
)


def measure(
    text: str, cases: Sequence[Case], out: Path | None, cap: float | None, timeout: float, dry_run: bool, form: str
) -> int:
    """Measure the cases as ``text`` says they are sampled, and show them. Returns the exit code."""
    from ..run import sampling
    from ..sampling.images import sampler_for
    from ..sampling.plan import Plan, new_row

    planned = [(case, Plan.of_text(text, catalogue.find(case.model))) for case in cases]
    for case, plan in planned:  # what cannot be is said before anything is measured
        sampler_for(catalogue.find(case.model), plan.sampler, plan.steps)
    if dry_run:
        rows = [new_row(case, plan) | {"skipped": sampling.unsupported(case, plan)} for case, plan in planned]
        options.show(rows, PLAN_KEYS, form)
        return 0
    rules = {} if cap is None else {"cap_s": cap, "min_s": min(3.0, cap)}
    rows, interrupted = [], False
    with _Status() as status:
        try:
            for row in sampling.run(planned, out, status.update, rules, timeout):
                rows.append(row)
                status.finished(row, len(rows), len(planned))
        except KeyboardInterrupt:
            interrupted = True
    notes = [NOTE] if any(row["status"] == "ok" for row in rows) else []
    options.show(rows, KEYS, form, [*notes, *_reasons(rows)])
    if interrupted:
        return INTERRUPTED
    if any(row["verdict"] == "INVALID" for row in rows):
        return 4
    return 0 if any(row["status"] == "ok" for row in rows) else 3


def _reasons(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if row["reason"]:
            yield f"{row['sampling_case']}: {row['verdict'] or row['status']}, {row['reason']}"


class _Status:
    """What is being done, on a terminal; a line for each case that is done, elsewhere. Both on stderr."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.spinner = self.console.status("starting") if sys.stderr.isatty() else None

    def __enter__(self) -> "_Status":
        if self.spinner:
            self.spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.spinner:
            self.spinner.stop()

    def update(self, case: str, what: str, done: float) -> None:
        if self.spinner:
            self.spinner.update(f"{case}: {what}" + (f" {100 * done:.0f} %" if 0 < done < 1 else ""))

    def finished(self, row: dict[str, Any], number: int, of: int) -> None:
        speed = row["finished_images_per_s"]
        words = "" if speed is None else f"{speed:.4g} finished images/s "
        click.echo(f"[{number} of {of}] {row['sampling_case']}: {words}{row['verdict'] or row['status']}", err=True)
