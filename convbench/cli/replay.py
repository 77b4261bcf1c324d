"""``convbench replay``: a paper's way of timing and ours, knob by knob."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..run.plan import DEVICES
from . import options
from .progress import PhaseProgress

if TYPE_CHECKING:
    from ..run.jobs import Limits

KEYS = ("knob", "before", "after", "images_per_s_before", "images_per_s", "ratio", "ratio_interval")
TF32_KEYS = (
    "model",
    "batch",
    "conv_tf32",
    "matmul_tf32",
    "images_per_s",
    "interval",
    "ratio",
    "ratio_interval",
    "printed_ratio",
)


@click.command(
    "replay",
    short_help="time a paper's protocol and ours interleaved, one setting at a time",
    epilog="\b\nExamples:\n  convbench replay dico\n  convbench replay fcdm --batch 4 --out replay.jsonl",
)
@click.argument("paper", required=False)
@options.model(
    required=False,
    help="Model to time [default: the paper's XL; on a CPU, its S]; a list with --tf32-experiment, the baseline first.",
)
@click.option("--res", type=int, metavar="PX", help="Side of the decoded image in pixels [default: 256].")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images per step, in place of the paper's.")
@click.option("--device", type=click.Choice(DEVICES), help="cpu or cuda [default: cuda where there is a GPU].")
@click.option(
    "--cap", type=options.Duration(), help="Stop timing a variant after this time, but not before six blocks."
)
@click.option("--timeout", type=options.Duration(), default="1h", show_default=True, help="Time limit for one process.")
@click.option(
    "--budget",
    type=options.Duration(),
    help="Time limit for the whole TF32 experiment; a batch that it does not reach is measured by the next run.",
)
@click.option(
    "--tf32-experiment",
    is_flag=True,
    help="Run the TF32 experiment instead: five XL models with each TF32 switch on and off.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append rows to this file; rows that it already holds are not measured again.",
)
@options.form()
def command(
    paper: str | None,
    model: list[str] | None,
    res: int | None,
    batch: int | None,
    device: str | None,
    cap: float | None,
    timeout: float,
    budget: float | None,
    tf32_experiment: bool,
    out: Path | None,
    form: str,
) -> int:
    """Time the protocol of PAPER (dic, dic_poster, dico, fcdm) and ours interleaved, changing one setting at a time.

    \b
    printed      what the paper prints, quoted
    replayed     the paper's protocol on this machine, as far as its card states it
    ratio        speed after changing a setting over speed before it, from paired blocks
    unexplained  printed over replayed; meaningful only on the same type of GPU
    """
    from ..environment import default_device
    from ..run.jobs import Limits
    from ..store import require_writable

    if out:
        require_writable(out)
    device = device or default_device()
    limits = Limits(cap_s=cap, timeout_s=timeout, budget_s=budget)
    if tf32_experiment:
        if paper:
            raise click.UsageError("--tf32-experiment cannot be combined with a paper")
        _experiment(model, res or 256, batch, device, limits, out, form)
        return 0
    if paper is None:
        raise click.UsageError("missing PAPER, e.g. convbench replay dico")
    if budget:
        raise click.UsageError("--budget bounds the TF32 experiment; use --timeout for a replay")
    if model and len(model) > 1:
        raise click.UsageError(f"a replay takes one --model, not {len(model)}")
    return _replay(paper, model[0] if model else None, res, batch, device, limits, out, form)


def _replay(
    paper: str,
    model: str | None,
    res: int | None,
    batch: int | None,
    device: str,
    limits: "Limits",
    out: Path | None,
    form: str,
) -> int:
    from ..catalogue import find
    from ..papers import differences, waterfall
    from ..papers.replay import replayed

    differences.require_paper(paper)
    own_model, own_res = differences.default_case(paper, device)
    model, res = model or own_model, res or own_res
    find(model).require_res(res)
    small = differences.made_small(paper, device, batch) or ""
    click.echo(f"{paper}: {model} at {res} px on {device}, every variant interleaved. {small}".rstrip(), err=True)
    with PhaseProgress() as progress:
        rows = replayed(paper, model, res, device, batch, out, limits, progress.update)
    notes = [waterfall.summary(rows), *waterfall.sentences(rows), *filter(None, [small])]
    options.show([row.to_json() for row in rows], KEYS, form, notes)
    return 4 if any(row.step == "ours" and row.verdict == "INVALID" for row in rows) else 0


def _experiment(
    models: list[str] | None,
    res: int,
    batch: int | None,
    device: str,
    limits: "Limits",
    out: Path | None,
    form: str,
) -> None:
    from ..errors import NothingMeasured
    from ..papers import tf32

    if device == "cpu":
        raise NothingMeasured("the TF32 experiment needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer")
    batches = [batch] if batch else tf32.BATCHES
    with PhaseProgress() as progress:
        rows = list(tf32.experiment(models or tf32.MODELS, batches, res, device, out, limits, progress.update))
    if not rows:
        raise NothingMeasured("the budget ended before any batch of the TF32 experiment was measured")
    options.show([row.to_json() for row in rows], TF32_KEYS, form, tf32.notes(rows))
