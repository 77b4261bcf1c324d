"""``convbench replay``: a paper's way of timing and ours, knob by knob."""

from collections.abc import Callable
from pathlib import Path

import click

from ..run.plan import DEVICES
from . import options

KEYS = ("knob", "from", "to", "images_per_s_before", "images_per_s", "ratio", "ratio_interval")
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
    short_help="a paper's way of timing and ours, in turns, knob by knob",
    epilog="\b\nExamples:\n  convbench replay dico\n  convbench replay fcdm --batch 4 --out replay.jsonl",
)
@click.argument("paper", required=False)
@click.option("--model", metavar="ID", help="A model [default: the paper's XL, on a CPU its S].")
@click.option("--res", type=int, metavar="PX", help="Side of the decoded image in pixels [default: 256].")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images a step, in place of the paper's.")
@click.option("--device", type=click.Choice(DEVICES), help="cpu or cuda; cuda where there is a GPU unless given.")
@click.option("--cap", type=options.Duration(), help="Stop timing a variant after this long and six blocks.")
@click.option("--tf32-experiment", is_flag=True, help="Instead: five XL models with each TF32 switch on and off.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Append the rows to this file.")
@options.form()
def command(
    paper: str | None,
    model: str | None,
    res: int | None,
    batch: int | None,
    device: str | None,
    cap: float | None,
    tf32_experiment: bool,
    out: Path | None,
    form: str,
) -> int:
    """Time PAPER's way (dic, dic_poster, dico, fcdm) and ours in turns, flipping one difference after the other.

    \b
    printed      what the paper prints, quoted
    replayed     the paper's way on this machine, as far as its protocol card knows it
    ratio        speed after a knob over speed before it, from paired blocks
    unexplained  printed over replayed: never a claim unless the GPU is of the same type
    """
    from ..run import runner
    from ..store import require_writable

    device = device or runner.default_device()
    if out:
        require_writable(out)
    if tf32_experiment:
        if paper or model:
            raise click.UsageError("--tf32-experiment takes neither a paper nor --model: it has its own five models")
        _experiment(res or 256, batch, device, cap, out, form)
        return 0
    if paper is None:
        raise click.UsageError("which paper? convbench replay dico, for one")
    return _replay(paper, model, res, batch, device, cap, out, form)


def _replay(
    paper: str,
    model: str | None,
    res: int | None,
    batch: int | None,
    device: str,
    cap: float | None,
    out: Path | None,
    form: str,
) -> int:
    from ..catalogue import find
    from ..papers import differences, waterfall
    from ..papers.replay import replay
    from ..store import append

    differences.require_paper(paper)
    own_model, own_res = differences.default_case(paper, device)
    model, res = model or own_model, res or own_res
    find(model).require_res(res)
    small = differences.made_small(paper, device, batch) or ""
    click.echo(f"{paper}: {model} at {res} px on {device}, every variant in turns. {small}".rstrip(), err=True)
    rows = waterfall.rows(replay(paper, model, res, device, batch, cap, report=_phases()))
    if out:
        for row in rows:
            append(out, row)
    options.show(rows, KEYS, form, [waterfall.summary(rows), *waterfall.sentences(rows), *filter(None, [small])])
    return 4 if any(row["step"] == "ours" and row["verdict"] == "INVALID" for row in rows) else 0


def _experiment(res: int, batch: int | None, device: str, cap: float | None, out: Path | None, form: str) -> None:
    from ..errors import NothingMeasured
    from ..papers import tf32
    from ..store import append

    if device == "cpu":
        raise NothingMeasured("the TF32 experiment needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer")

    rows = []
    for row in tf32.experiment(
        batches=[batch] if batch else tf32.BATCHES, res=res, device=device, cap_s=cap, report=_phases()
    ):
        rows.append(row)
        if out:
            append(out, row)
    options.show(rows, TF32_KEYS, form, tf32.notes(rows))


def _phases() -> Callable[[str, float], None]:
    """Says on stderr what is being done, once each."""
    said: set[str] = set()

    def report(what: str, done: float) -> None:
        if what not in said:
            click.echo(f"{what} …", err=True)
            said.add(what)

    return report
